//! Workers and coordinators in processes of their own, to be killed.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
};

/// A process that ends with its handle.
pub struct Process(Child);

impl Process {
    pub fn worker(url: &str, log: &Path, latency_ms: u64, concurrency: usize) -> Self {
        let mut command = program();
        command.args(["worker", url]).arg(log).args([latency_ms.to_string(), concurrency.to_string()]);
        Self(command.spawn().unwrap())
    }

    /// Writes its rows to `rows` at the end.
    pub fn coordinator(url: &str, ledger: &Path, items: usize, in_flight: usize, rows: &Path) -> Self {
        let mut command = program();
        command.args(["coordinator", url]).arg(ledger).args([items.to_string(), in_flight.to_string()]).arg(rows);
        Self(command.spawn().unwrap())
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn ended(&mut self) -> Option<bool> {
        self.0.try_wait().unwrap().map(|status| status.success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example `cluster_process`, which `cargo test` builds before it starts a test.
fn program() -> Command {
    let this = std::env::current_exe().unwrap();
    // `deps/cluster-HASH` for a test, `examples/cluster_bench` for an example.
    let path: PathBuf = this.parent().unwrap().parent().unwrap().join("examples/cluster_process");
    assert!(
        path.is_file(),
        "`{}` is not there: `cargo build --release -p opencharacter-cluster --examples` makes it",
        path.display()
    );
    Command::new(path)
}
