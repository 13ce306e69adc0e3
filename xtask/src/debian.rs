//! Programs that tests start, from Debian's packages of the same name.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Workspace, output, run};

/// Installs `program` where none is in the path; `remedy` is what a person can do where that fails.
pub fn ensure(workspace: &Workspace, program: &str, remedy: &'static str) -> Result<()> {
    if is_there(program) {
        return Ok(());
    }
    install(workspace, &[program]).context(remedy)?;
    if !is_there(program) {
        bail!("`{program}` was installed and is not in the path: add `/usr/sbin` to it");
    }
    Ok(())
}

/// Installs packages, or finds them installed.
pub fn install(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    // A package that was removed is still known.
    let mut states = Command::new("dpkg-query");
    states.args(["--show", "--showformat=${db:Status-Status}\n"]).args(packages).stderr(Stdio::null());
    if states
        .output()
        .is_ok_and(|states| states.status.success() && states.stdout == b"installed\n".repeat(packages.len()))
    {
        return Ok(());
    }
    let as_root = output(workspace.command("id").arg("-u"))?.trim() == "0";
    let apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes"];
    let through_sudo = ["sudo", "--non-interactive"].iter().chain(&apt).copied().collect::<Vec<_>>();
    let apt = if as_root { &apt[..] } else { &through_sudo };
    let wanted: Vec<&str> = ["install", "--no-install-recommends"].iter().chain(packages).copied().collect();
    for arguments in [&["update"][..], &wanted] {
        run(workspace.command(apt[0]).args(&apt[1..]).args(arguments))?;
    }
    Ok(())
}

fn is_there(program: &str) -> bool {
    let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}
