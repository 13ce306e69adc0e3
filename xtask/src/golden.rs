//! Golden fixtures: what `PyTorch`, transformers, peft and llama.cpp say.

use std::path::Path;

use anyhow::Result;

use crate::workspace::{Workspace, run};

/// The folder with the requirements and the script.
const SCRIPTS: &str = "xtask/golden";
/// Where the fixtures are committed.
const FIXTURES: &str = "opencharacter-nn/tests/data";

/// Makes the fixtures anew; the virtual environment is kept for the next time.
pub fn make(workspace: &Workspace, model: &Path) -> Result<()> {
    let environment = workspace.target_path("golden-venv");
    let folder = if cfg!(windows) { "Scripts" } else { "bin" };
    let python = environment.join(folder).join("python");
    run(workspace.command("python3").args(["-m", "venv"]).arg(&environment))?;
    let scripts = workspace.path(SCRIPTS);
    run(workspace
        .command(&python)
        .args(["-m", "pip", "install", "--requirement"])
        .arg(scripts.join("requirements.txt")))?;
    run(workspace.command(&python).arg(scripts.join("make_golden.py")).arg(model).arg(workspace.path(FIXTURES)))
}
