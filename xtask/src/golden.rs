//! Golden fixtures: what `PyTorch`, transformers, peft and llama.cpp say.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::workspace::{Workspace, run};

/// The folder with the requirements and the scripts.
pub const SCRIPTS: &str = "xtask/golden";
/// Where the fixtures are committed.
pub const FIXTURES: &str = "opencharacter-nn/tests/data";

/// A Python that has all of them; the virtual environment is kept for the next time.
pub fn python(workspace: &Workspace) -> Result<PathBuf> {
    workspace.python("golden-venv", &workspace.path(SCRIPTS).join("requirements.txt"))
}

/// Makes the fixtures anew.
pub fn make(workspace: &Workspace, model: &Path) -> Result<()> {
    let script = workspace.path(SCRIPTS).join("make_golden.py");
    run(workspace.command(python(workspace)?).arg(script).arg(model).arg(workspace.path(FIXTURES)))
}
