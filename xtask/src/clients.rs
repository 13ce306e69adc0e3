//! The server against clients that nobody here wrote: the `openai` packages of Python and npm, schemathesis, Chromium.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
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

/// What every client needs: Python with its packages, and an adapter that makes two models to compare.
struct Clients<'a> {
    workspace: &'a Workspace,
    scripts: PathBuf,
    python: PathBuf,
    /// Where the adapter was trained: a folder of runs to look at.
    runs: PathBuf,
}

/// Installs Chromium where it is missing.
pub fn install_chromium(workspace: &Workspace) -> Result<()> {
    debian::ensure(workspace, "chromium", "put `chromium` in the path by hand")
}

/// Looks at the server's page with Chromium.
pub fn look_at_the_page(workspace: &Workspace) -> Result<()> {
    install_chromium(workspace)?;
    Clients::install(workspace)?.chromium()
}

/// Installs the clients and lets each of them at a server of its own.
pub fn test(workspace: &Workspace) -> Result<()> {
    install_chromium(workspace)?;
    let clients = Clients::install(workspace)?;
    clients.chromium()?;
    clients.openai()?;
    clients.schemathesis()?;
    clients.load()
}

impl<'a> Clients<'a> {
    fn install(workspace: &'a Workspace) -> Result<Self> {
        let scripts = workspace.path(SCRIPTS);
        let python = workspace.python("clients-venv", &scripts.join("requirements.txt"))?;
        workspace.fetch_model()?;
        let runs = workspace.target_path("clients-runs");
        run(&mut training(workspace, &runs.join("ended"), 8))?;
        Ok(Self { workspace, scripts, python, runs })
    }

    /// A server; answers have up to `longest` tokens.
    fn server(&self, longest: Option<usize>) -> Result<Server> {
        Server::start(self.workspace, &self.runs, longest)
    }

    fn script(&self, name: &str) -> Command {
        let mut command = self.workspace.command(&self.python);
        command.arg(self.scripts.join(name));
        command
    }

    fn chromium(&self) -> Result<()> {
        let server = self.server(None)?;
        // Begun anew, and longer than anybody looks at it.
        let live = self.runs.join("live");
        if live.exists() {
            fs::remove_dir_all(&live).with_context(|| format!("cannot remove `{}`", live.display()))?;
        }
        let training = training(self.workspace, &live, 10_000).spawn().context("the training cannot be started")?;
        let _training = Ended(training);
        let screenshots = self.workspace.target_path("screenshots");
        run(self.script("browser.py").arg(&server.address).arg(&screenshots))?;
        eprintln!("screenshots: {}", screenshots.display());
        Ok(())
    }

    /// The `openai` packages.
    fn openai(&self) -> Result<()> {
        debian::ensure(self.workspace, "npm", "put `npm` in the path by hand")?;
        let node = self.workspace.target_path("clients-node");
        fs::create_dir_all(&node).with_context(|| format!("cannot make `{}`", node.display()))?;
        let mut install = self.workspace.command("npm");
        run(install.args(["install", "--no-fund", "--no-audit", "--prefix"]).arg(&node).arg(OPENAI_PACKAGE))?;
        let script = node.join("openai_client.mjs");
        fs::copy(self.scripts.join("openai_client.mjs"), &script).context("the npm client cannot be copied")?;
        let server = self.server(None)?;
        run(self.script("openai_client.py").arg(server.api()))?;
        run(self.workspace.command("node").arg(script).arg(server.api()))
    }

    fn schemathesis(&self) -> Result<()> {
        // Short answers: it asks hundreds of questions.
        let server = self.server(Some(8))?;
        let schemathesis = self.python.with_file_name("schemathesis");
        run(self.workspace.command(self.scripts.join("schema.sh")).arg(schemathesis).arg(&server.address))
    }

    fn load(&self) -> Result<()> {
        let server = self.server(None)?;
        let pid = server.child.0.id().to_string();
        run(self.script("load.py").arg(&server.address).args(["--pid", &pid]))
    }
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
    fn start(workspace: &Workspace, runs: &Path, longest: Option<usize>) -> Result<Self> {
        let mut command = workspace.command(workspace.target_path("release/opencharacter"));
        command.args(["serve", "--forget", "--listen", "127.0.0.1:0"]);
        if let Some(tokens) = longest {
            command.args(["--most-tokens", &tokens.to_string()]);
        }
        command.arg("--adapter").arg(format!("tuned={}", runs.join("ended/adapter").display()));
        command.arg("--runs").arg(runs);
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
