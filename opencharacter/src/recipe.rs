//! Recipe files: one TOML file that says what a run makes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use opencharacter_core::{Sampling, Strategy};
use opencharacter_synth::OnError;
use opencharacter_train::{Method, TrainConfig};
use serde::{Deserialize, Serialize};

use crate::{
    failure::Usage,
    inputs::Input,
    model_recipe::{ModelRecipe, Models},
};

/// All that decides a run. Paths are relative to the recipe file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the report is called.
    #[serde(default = "default_title")]
    pub title: String,
    /// Every random draw follows from this and the item's id.
    #[serde(default)]
    pub seed: u64,
    /// Where the run goes unless `--out` says otherwise; relative to the working directory.
    #[serde(default)]
    pub out: Option<PathBuf>,
    /// A folder with prompt templates that replace built-in ones of the same name.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// Who writes and who learns.
    #[serde(default)]
    pub models: Models,
    /// Where personas come from.
    pub personas: Source,
    /// Where instructions come from.
    pub instructions: Source,
    /// What is set apart before anything is synthesised.
    #[serde(default)]
    pub held_out: HeldOutRecipe,
    /// Persona to profile.
    #[serde(default)]
    pub profiles: ProfilesRecipe,
    /// Profile and instruction to dialogue.
    #[serde(default)]
    pub dialogues: DialoguesRecipe,
    /// Dialogues to adapter.
    #[serde(default)]
    pub train: TrainConfig,
    /// Adapter to scores.
    #[serde(default)]
    pub eval: EvalRecipe,
}

fn default_title() -> String {
    "opencharacter run".into()
}

/// The keys of [`Sampling`] that a recipe changes; a stage's own defaults stand for the others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingRecipe {
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    max_tokens: Option<usize>,
    stop: Option<Vec<String>>,
}

impl SamplingRecipe {
    /// `default` with the given keys in place of its own.
    pub fn over(&self, default: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            max_tokens: self.max_tokens.unwrap_or(default.max_tokens),
            stop: self.stop.clone().unwrap_or(default.stop),
            seed: default.seed,
        }
    }
}

/// A file of rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Use this many, drawn by seed; all where absent.
    #[serde(default)]
    pub limit: Option<usize>,
    /// An SQL condition on the file's columns; rows for which it is not true are left out.
    #[serde(default, rename = "where")]
    pub filter: Option<String>,
}

impl Source {
    /// The rows of it that the recipe means.
    pub fn input(&self, on_error: OnError, seed: u64) -> Input {
        Input::new(self.path.as_path(), on_error).limited(self.limit, seed).selected(self.filter.as_ref())
    }
}

/// What never enters training.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeldOutRecipe {
    /// Characters set apart.
    pub characters: usize,
    /// Instructions set apart.
    pub instructions: usize,
}

impl Default for HeldOutRecipe {
    fn default() -> Self {
        Self { characters: 8, instructions: 8 }
    }
}

/// Settings of profile synthesis.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfilesRecipe {
    /// Attempts per persona.
    pub attempts: usize,
    /// How tokens are drawn, where it differs from the default.
    pub sampling: SamplingRecipe,
}

impl Default for ProfilesRecipe {
    fn default() -> Self {
        let options = opencharacter_synth::ProfileOptions::default();
        Self { attempts: options.attempts, sampling: SamplingRecipe::default() }
    }
}

/// Settings of dialogue synthesis.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DialoguesRecipe {
    /// Which strategies to use, one after the other.
    pub strategies: Vec<Strategy>,
    /// Random characters per instruction; 3 in the paper.
    pub characters_per_instruction: usize,
    /// Answers drawn, of which the most specific to the character is kept.
    pub candidates: usize,
    /// Other characters that specificity is measured against.
    pub comparisons: usize,
    /// Attempts per candidate.
    pub attempts: usize,
    /// How tokens are drawn, where it differs from the default.
    pub sampling: SamplingRecipe,
}

impl Default for DialoguesRecipe {
    fn default() -> Self {
        let options = opencharacter_synth::DialogueOptions::default();
        Self {
            strategies: vec![Strategy::Generate],
            characters_per_instruction: options.characters_per_instruction,
            candidates: options.candidates,
            comparisons: options.comparisons,
            attempts: options.attempts,
            sampling: SamplingRecipe::default(),
        }
    }
}

/// Settings of the evaluation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalRecipe {
    /// Held-out instructions asked of each held-out character; 0 asks all.
    pub questions_per_character: usize,
    /// Wrong profiles beside the right one.
    pub distractors: usize,
    /// How both models answer, where it differs from the default.
    pub sampling: SamplingRecipe,
}

impl Default for EvalRecipe {
    fn default() -> Self {
        let options = opencharacter_eval::EvalOptions::default();
        Self {
            questions_per_character: options.questions_per_character,
            distractors: options.distractors,
            sampling: SamplingRecipe::default(),
        }
    }
}

impl Recipe {
    /// Reads a recipe; the second value is its text as written.
    pub fn read(path: &Path) -> Result<(Self, String)> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the recipe `{}`", path.display()))?;
        let mut recipe: Self = toml::from_str(&text).map_err(|error| explain(path, &error))?;
        let base = path.parent().unwrap_or(Path::new("."));
        let paths = [&mut recipe.personas.path, &mut recipe.instructions.path];
        for file in paths.into_iter().chain(recipe.templates.as_mut()) {
            *file = base.join(&*file);
        }
        for model in [&mut recipe.models.teacher, &mut recipe.models.student] {
            model.relative_to(base);
        }
        recipe.check_models(path)?;
        recipe.check_training(path)?;
        Ok((recipe, text))
    }

    /// A student is trained here, and a served teacher cannot say how likely a text is.
    fn check_models(&self, path: &Path) -> Result<()> {
        if matches!(self.models.student, ModelRecipe::OpenAi(_)) {
            let reason = "what is fine-tuned must be `provider = \"embedded\"`";
            return Err(Usage(format!("`{}`, `[models.student]`: {reason}", path.display())).into());
        }
        if matches!(self.models.teacher, ModelRecipe::OpenAi(_)) && self.dialogues.candidates > 1 {
            let reason = "choosing among `candidates` compares likelihoods, which `provider = \"openai\"` does not \
                          give; set `candidates = 1`";
            return Err(Usage(format!("`{}`, `[dialogues]`: {reason}", path.display())).into());
        }
        Ok(())
    }

    /// What training would refuse is refused here, before hours of synthesis.
    fn check_training(&self, path: &Path) -> Result<()> {
        let refuse = |reason: String| Usage(format!("`{}`, `[train]`: {reason}", path.display()));
        self.train.validate().map_err(|error| refuse(error.to_string()))?;
        if self.train.method != Method::Lora {
            let reason = "a recipe compares an adapter with its base model, so `method` can only be \"lora\" here; \
                          use `opencharacter train --method full` on its dialogues";
            return Err(refuse(reason.into()).into());
        }
        Ok(())
    }
}

/// The error as the parser gives it, with the nearest known key for a misspelt one.
fn explain(path: &Path, error: &toml::de::Error) -> anyhow::Error {
    let mut text = format!("`{}`: {}", path.display(), error.to_string().trim_end());
    let mut quoted = error.message().split('`').skip(1).step_by(2);
    if error.message().starts_with("unknown field")
        && let Some(found) = quoted.next()
        && let Some(nearest) = nearest(found, quoted)
    {
        text.push_str("\nDid you mean `");
        text.push_str(nearest);
        text.push_str("`?");
    }
    Usage(text).into()
}

/// The known word that looks most like `word`, if any looks like it at all.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let error = toml::from_str::<Recipe>(text).unwrap_err();
        explain(Path::new("recipe.toml"), &error).to_string()
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_the_nearest() {
        let text = "[personas]\npath = \"p\"\n[instructions]\npath = \"i\"\n[train]\nlerning_rate = 1.0\n";
        let message = message(text);
        assert!(message.contains("line 6") && message.contains("Did you mean `learning_rate`?"), "{message}");
    }

    #[test]
    fn a_changed_key_leaves_the_others_at_their_stage_default() {
        let text = "personas.path = \"p\"\ninstructions.path = \"i\"\n[dialogues]\nsampling = { max_tokens = 9 }\n";
        let recipe: Recipe = toml::from_str(text).unwrap();
        let default = opencharacter_synth::DialogueOptions::default().sampling;
        assert!(default.temperature > 0.0);
        assert_eq!(recipe.dialogues.sampling.over(default.clone()), Sampling { max_tokens: 9, ..default });
    }

    #[test]
    fn the_shortest_recipe_is_two_paths() {
        let recipe: Recipe = toml::from_str("personas.path = \"p\"\ninstructions.path = \"i\"\n").unwrap();
        assert_eq!(recipe.dialogues.characters_per_instruction, 3);
    }

    #[test]
    fn shipped_recipes_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
        let mut count = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let (recipe, _) = Recipe::read(&entry.unwrap().path()).unwrap();
            assert!(recipe.personas.path.exists() && recipe.instructions.path.exists());
            count += 1;
        }
        assert!(count > 0);
    }
}
