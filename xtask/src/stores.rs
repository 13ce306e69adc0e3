//! Tests against an object store that nobody here wrote.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Workspace, run};

/// The folder with the requirements and the server.
const SCRIPTS: &str = "xtask/stores";

/// Starts the server, runs the ignored tests that need one, and ends it.
pub fn test(workspace: &Workspace) -> Result<()> {
    let scripts = workspace.path(SCRIPTS);
    let python = workspace.python("stores-venv", &scripts.join("requirements.txt"))?;
    let mut server = workspace
        .command(python)
        .arg(scripts.join("serve.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("the S3 server cannot be started")?;
    let mut address = String::new();
    let printed = server.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut address));
    if !matches!(printed, Some(Ok(1..))) {
        bail!("the S3 server did not start");
    }
    let tested = tests(workspace, address.trim());
    // It ends with its standard input.
    drop(server.stdin.take());
    server.wait().context("the S3 server did not end")?;
    tested
}

fn tests(workspace: &Workspace, address: &str) -> Result<()> {
    let only = ["--test", "tables", "--test", "object_store", "--test", "synthesis"];
    let mut command = workspace.cargo_command(&["test", "--release", "--workspace"]);
    command.args(only).args(["--", "--ignored"]);
    command.env("OPENCHARACTER_TEST_BUCKET", "s3://opencharacter/test");
    for (name, value) in [
        ("AWS_ENDPOINT", address),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
    ] {
        command.env(name, value);
    }
    run(&mut command)
}
