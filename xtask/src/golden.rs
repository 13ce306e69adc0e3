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
    let scripts = workspace.path(SCRIPTS);
    let python = workspace.python("golden-venv", &scripts.join("requirements.txt"))?;
    run(workspace.command(&python).arg(scripts.join("make_golden.py")).arg(model).arg(workspace.path(FIXTURES)))
}
