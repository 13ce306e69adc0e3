//! The NATS server that the cluster's tests start.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Workspace, output, run};

const REMEDY: &str = "install `nats-server` (2.9 or newer) by hand and put it in the path";

/// Installs Debian's `nats-server` where none is in the path.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    if is_there() {
        return Ok(());
    }
    let as_root = output(workspace.command("id").arg("-u"))?.trim() == "0";
    let apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes"];
    let through_sudo = ["sudo", "--non-interactive"].iter().chain(&apt).copied().collect::<Vec<_>>();
    let apt = if as_root { &apt[..] } else { &through_sudo };
    for arguments in [&["update"][..], &["install", "--no-install-recommends", "nats-server"]] {
        run(workspace.command(apt[0]).args(&apt[1..]).args(arguments)).context(REMEDY)?;
    }
    if !is_there() {
        bail!("`nats-server` was installed and is not in the path: add `/usr/sbin` to it");
    }
    Ok(())
}

fn is_there() -> bool {
    let tried = Command::new("nats-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}
