//! What the program exports, as transformers, peft and llama.cpp read it.

use std::{fs, path::PathBuf, process::Command};

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
    workspace.fetch_model()?;
    let exports = Exports {
        workspace,
        python: golden::python(workspace)?,
        program: workspace.target_path("release/opencharacter"),
        folder: workspace.target_path("exports"),
    };
    run(exports.script("check_families.py").arg(&exports.program))?;
    exports.clear()?;
    exports.embedded_model()?;
    // Two gigabytes; after a failure it is left, to be looked at.
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

    fn program(&self, command: &str) -> Command {
        let mut program = self.workspace.command(&self.program);
        program.arg(command);
        program
    }

    fn script(&self, name: &str) -> Command {
        let mut command = self.workspace.command(&self.python);
        command.arg(self.workspace.path(golden::SCRIPTS).join(name));
        command
    }

    fn embedded_model(&self) -> Result<()> {
        let training = self.folder.join("training");
        let adapter = training.join("adapter");
        let dialogues = self.workspace.path(DIALOGUES);
        let mut train = self.program("train");
        train.args(["--epochs", "8", "--pack-tokens", "256", "--dialogues"]).arg(&dialogues);
        run(train.arg("--out").arg(&training))?;

        // The same numbers as the embedded model's: beside quantised weights, scores round what meets them.
        let source = self.folder.join("source.gguf");
        run(self.program("export").args(["--to", "gguf", "--type", "f32", "--out"]).arg(&source))?;
        let mut score = self.program("score");
        score.arg("--json").arg("--model").arg(&source).arg("--adapter").arg(&adapter);
        let scores = self.folder.join("scores.jsonl");
        fs::write(&scores, output(score.arg("--dialogues").arg(&dialogues))?)
            .with_context(|| format!("cannot write `{}`", scores.display()))?;
        run(self.script("check_adapter.py").args([&source, &adapter, &dialogues, &scores]))?;

        let mut check = self.script("check_export.py");
        check.args(["--answer", ANSWER]).args([&source, &adapter, &dialogues, &scores]);
        check.arg(self.workspace.path(golden::FIXTURES).join("mixed_text.json"));
        for (format, weights, name) in
            [("safetensors", "f32", "folder"), ("gguf", "f16", "f16.gguf"), ("gguf", "q8_0", "q8_0.gguf")]
        {
            let out = self.folder.join(name);
            let mut export = self.program("export");
            export.args(["--to", format, "--type", weights, "--adapter"]).arg(&adapter);
            run(export.arg("--out").arg(&out))?;
            check.arg(out);
        }
        run(&mut check)
    }
}
