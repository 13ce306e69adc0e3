//! The server against clients that nobody here wrote: the `openai` packages of Python and npm, schemathesis, Chromium.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    debian,
    workspace::{Workspace, run},
};

/// The folder with the clients.
const SCRIPTS: &str = "benchsuite/clients";

/// The version of npm's `openai` that it was tried with.
const OPENAI_PACKAGE: &str = "openai@6.49.0";

/// Installs the clients and lets each of them at a server of its own.
pub fn test(workspace: &Workspace) -> Result<()> {
    debian::ensure(workspace, "chromium", "put `chromium` in the path by hand")?;
    debian::ensure(workspace, "npm", "put `npm` in the path by hand")?;
    let scripts = workspace.path(SCRIPTS);
    let python = workspace.python("clients-venv", &scripts.join("requirements.txt"))?;
    let node = workspace.target_path("clients-node");
    std::fs::create_dir_all(&node).with_context(|| format!("cannot make `{}`", node.display()))?;
    run(workspace
        .command("npm")
        .args(["install", "--no-fund", "--no-audit", "--prefix"])
        .arg(&node)
        .arg(OPENAI_PACKAGE))?;
    std::fs::copy(scripts.join("openai_client.mjs"), node.join("openai_client.mjs"))
        .context("the npm client cannot be copied")?;
    workspace.fetch_model()?;
    let runs = workspace.target_path("clients-runs");
    let adapter = runs.join("ended/adapter");
    run(&mut training(workspace, &runs.join("ended"), 8))?;

    let server = Server::start(workspace, &adapter, None)?;
    run(workspace.command(&python).arg(scripts.join("openai_client.py")).arg(server.api()))?;
    run(workspace.command("node").arg(node.join("openai_client.mjs")).arg(server.api()))?;
    drop(server);

    let server = Server::start(workspace, &adapter, None)?;
    // Begun anew, and longer than anybody looks at it.
    let live = runs.join("live");
    if live.exists() {
        std::fs::remove_dir_all(&live).with_context(|| format!("cannot remove `{}`", live.display()))?;
    }
    let live = Ended(training(workspace, &live, 10_000).spawn().context("the training cannot be started")?);
    let screenshots = workspace.target_path("screenshots");
    run(workspace.command(&python).arg(scripts.join("browser.py")).arg(&server.address).arg(&screenshots))?;
    eprintln!("screenshots: {}", screenshots.display());
    drop((server, live));

    // Short answers: it asks hundreds of questions.
    let server = Server::start(workspace, &adapter, Some(8))?;
    let schemathesis = python.with_file_name("schemathesis");
    run(workspace.command(scripts.join("schema.sh")).arg(schemathesis).arg(&server.address))?;
    drop(server);

    let server = Server::start(workspace, &adapter, None)?;
    let pid = server.child.0.id().to_string();
    run(workspace.command(&python).arg(scripts.join("load.py")).arg(&server.address).args(["--pid", &pid]))
}

/// A training on a few dialogues: its adapter makes two models to compare, and its folder is a run to look at.
fn training(workspace: &Workspace, out: &Path, epochs: usize) -> Command {
    let mut train = workspace.command(workspace.target_path("release/opencharacter"));
    train.arg("train").arg("--dialogues").arg(workspace.path(SCRIPTS).join("dialogues.jsonl"));
    train.args(["--pack-tokens", "256", "--epochs", &epochs.to_string(), "--out"]).arg(out);
    train
}

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that ends with this value.
struct Server {
    child: Ended,
    address: String,
}

impl Server {
    fn start(workspace: &Workspace, adapter: &Path, longest: Option<usize>) -> Result<Self> {
        let mut command = workspace.command(workspace.target_path("release/opencharacter"));
        command.args(["serve", "--forget", "--listen", "127.0.0.1:0"]);
        if let Some(tokens) = longest {
            command.args(["--most-tokens", &tokens.to_string()]);
        }
        command.arg("--adapter").arg(format!("tuned={}", adapter.display()));
        command.arg("--runs").arg(workspace.target_path("clients-runs"));
        let mut child = command.stdout(Stdio::piped()).spawn().context("the server cannot be started")?;
        let mut address = String::new();
        let printed = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut address));
        let server = Self { child: Ended(child), address: address.trim().to_owned() };
        if !matches!(printed, Some(Ok(1..))) {
            bail!("the server did not start");
        }
        Ok(server)
    }

    fn api(&self) -> String {
        format!("{}/v1", self.address)
    }
}
