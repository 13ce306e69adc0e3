//! Programs that tests start, from Debian's packages of the same name.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Workspace, output, run};

/// Installs `program` where none is in the path; `remedy` is what a person can do where that fails.
pub fn ensure(workspace: &Workspace, program: &str, remedy: &'static str) -> Result<()> {
    if is_there(program) {
        return Ok(());
    }
    let as_root = output(workspace.command("id").arg("-u"))?.trim() == "0";
    let apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes"];
    let through_sudo = ["sudo", "--non-interactive"].iter().chain(&apt).copied().collect::<Vec<_>>();
    let apt = if as_root { &apt[..] } else { &through_sudo };
    for arguments in [&["update"][..], &["install", "--no-install-recommends", program]] {
        run(workspace.command(apt[0]).args(&apt[1..]).args(arguments)).context(remedy)?;
    }
    if !is_there(program) {
        bail!("`{program}` was installed and is not in the path: add `/usr/sbin` to it");
    }
    Ok(())
}

fn is_there(program: &str) -> bool {
    let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}
