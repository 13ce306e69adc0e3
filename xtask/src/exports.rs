//! What the program exports, as transformers, peft and llama.cpp read it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    golden,
    workspace::{Workspace, output, run},
};

/// What the adapter is trained on and every export is asked; each answer to the first question must contain [`ANSWER`].
/// Untrained, the model is of two minds there, and the rounding of its weights decides.
const DIALOGUES: &str = "xtask/golden/dialogues.jsonl";
const ANSWER: &str = "Paris";

/// A small random model of every family, and the embedded model with an adapter trained for a few steps.
pub fn test(workspace: &Workspace) -> Result<()> {
    let model = workspace.fetch_model()?;
    let exports = Exports {
        workspace,
        python: golden::python(workspace)?,
        program: workspace.target_path("release/opencharacter"),
        folder: workspace.target_path("exports"),
    };
    run(exports.script("check_families.py").arg(&exports.program))?;
    exports.clear()?;
    exports.embedded_model(&model)?;
    // A gigabyte; after a failure it is left, to be looked at.
    exports.clear()
}

struct Exports<'a> {
    workspace: &'a Workspace,
    python: PathBuf,
    program: PathBuf,
    /// Where adapter and exports go.
    folder: PathBuf,
}

impl Exports<'_> {
    fn clear(&self) -> Result<()> {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove `{}`", self.folder.display()))?;
        }
        Ok(())
    }

    fn script(&self, name: &str) -> Command {
        let mut command = self.workspace.command(&self.python);
        command.arg(self.workspace.path(golden::SCRIPTS).join(name));
        command
    }

    fn embedded_model(&self, model: &Path) -> Result<()> {
        let training = self.folder.join("training");
        let adapter = training.join("adapter");
        let dialogues = self.workspace.path(DIALOGUES);
        let mut train = self.workspace.command(&self.program);
        train.args(["train", "--epochs", "8", "--pack-tokens", "256", "--dialogues"]).arg(&dialogues);
        run(train.arg("--out").arg(&training))?;
        let mut score = self.workspace.command(&self.program);
        score.args(["score", "--json", "--adapter"]).arg(&adapter).arg("--dialogues").arg(&dialogues);
        let scores = self.folder.join("scores.jsonl");
        fs::write(&scores, output(&mut score)?).with_context(|| format!("cannot write `{}`", scores.display()))?;
        run(self.script("check_adapter.py").args([model, &adapter, &dialogues, &scores]))?;

        let mut check = self.script("check_export.py");
        check.args(["--answer", ANSWER]).args([model, &adapter, &dialogues, &scores]);
        check.arg(self.workspace.path(golden::FIXTURES).join("mixed_text.json"));
        for (format, weights, name) in
            [("safetensors", "f32", "folder"), ("gguf", "f16", "f16.gguf"), ("gguf", "q8_0", "q8_0.gguf")]
        {
            let out = self.folder.join(name);
            let mut export = self.workspace.command(&self.program);
            export.args(["export", "--to", format, "--type", weights, "--adapter"]).arg(&adapter);
            run(export.arg("--out").arg(&out))?;
            check.arg(out);
        }
        run(&mut check)
    }
}
