//! How much memory this process can still take.

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// Bytes that the system can give without swapping, or that the process's cgroup (a container's, say) leaves, if those
/// are fewer. Nothing where the system does not say.
pub fn available_bytes() -> Option<usize> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let of_system = Some(system.available_memory()).filter(|&bytes| bytes > 0)?;
    let available = cgroup_bytes(&mut system).map_or(of_system, |bytes| bytes.min(of_system));
    usize::try_from(available).ok()
}

/// What the cgroup's limit leaves beside what its processes hold. What it holds of files can be given back, so it does
/// not count.
fn cgroup_bytes(system: &mut System) -> Option<u64> {
    let process = sysinfo::get_current_pid().ok()?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[process]), true, ProcessRefreshKind::nothing());
    let limits = system.process(process)?.cgroup_limits()?;
    Some(limits.total_memory.saturating_sub(limits.rss))
}
