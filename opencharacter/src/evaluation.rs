//! `eval`.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use opencharacter_core::{Generate, Sampling};
use opencharacter_engine::EngineOptions;
use opencharacter_eval::{EvalOptions, HeldOutSet, Scores, Unit, evaluate};
use opencharacter_ledger::{Ledger, LedgeredModel, Recorded};
use opencharacter_storage::Location;
use opencharacter_synth::OnError;

use crate::{
    cli::HeldOutArguments,
    inputs::{self, Input},
    interrupt::Interrupt,
    models, output,
    progress::Stage,
    run_folder::RunFolder,
};

/// `opencharacter eval held-out`
pub async fn command(arguments: &HeldOutArguments, interrupt: &Interrupt) -> Result<()> {
    let input = |location: &Location| Input::new(location.clone(), OnError::Fail);
    let (references, mut characters) =
        inputs::dialogues(&input(&arguments.references), Some(&arguments.characters)).await?;
    characters.dedup_by(|left, right| left.character_id == right.character_id);
    let instructions = input(&arguments.instructions).rows().await?;
    let set = HeldOutSet { characters, instructions, references };
    let mut options = EvalOptions {
        seed: arguments.seed,
        questions_per_character: arguments.questions_per_character,
        ..EvalOptions::default()
    };
    options.sampling = Sampling { max_tokens: arguments.max_tokens, ..options.sampling };
    let folder = RunFolder::open(&arguments.out)?;
    let ledger = Ledger::open(folder.file("ledger"))?;
    let model = models::load(&arguments.model)?;
    let base = models::engine(&model, EngineOptions::default())?;
    let tuned = models::adapted(&base, &arguments.adapter)?;
    let scores = held_out(&base, &tuned, &set, &options, &ledger, interrupt).await?;
    output::json_file(&folder.file("scores.json"), &scores)?;
    if arguments.json { output::json(&scores) } else { output::line(&table(&scores)) }
}

/// The held-out evaluation with a progress bar, every call through the ledger.
pub async fn held_out(
    base: &dyn Generate,
    tuned: &dyn Generate,
    set: &HeldOutSet,
    options: &EvalOptions,
    ledger: &Ledger,
    interrupt: &Interrupt,
) -> Result<Scores> {
    if base.fingerprint() == tuned.fingerprint() {
        bail!("base and tuned model are the same; give an adapter");
    }
    let stage = Stage::new("evaluation", "calls");
    let base = Recorded { model: LedgeredModel::new(base, ledger), stage: "evaluation, base" };
    let tuned = Recorded { model: LedgeredModel::new(tuned, ledger), stage: "evaluation, tuned" };
    let progress = |name: &str, done: usize, total: usize| stage.set(done, total, name);
    let result = interrupt.guard(evaluate(&base, &tuned, set, options, &progress)).await;
    ledger.flush()?;
    let scores = result?;
    stage.finish(&format!("{} characters, {} answers per model", scores.characters, scores.answers.len()));
    Ok(scores)
}

/// Measures with their intervals, as a table for a terminal.
pub fn table(scores: &Scores) -> String {
    let mut text = format!("{:<44} {:>9} {:>9}   {:>9}  95% interval\n", "measure", "base", "tuned", "change");
    for measure in &scores.measures {
        let scale = if measure.unit == Unit::Share { 100.0 } else { 1.0 };
        let unit = if measure.unit == Unit::Share { "%" } else { "" };
        let number =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{:.3}{unit}", value * scale));
        let difference = measure.difference.as_ref();
        let interval = match difference.and_then(|difference| Some((difference.low?, difference.high?))) {
            Some((low, high)) => format!("[{:+.3}, {:+.3}]{unit}", low * scale, high * scale),
            None => "-".into(),
        };
        let change = difference.map_or_else(|| "-".into(), |difference| format!("{:+.3}", difference.mean * scale));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<44} {:>9} {:>9}   {change:>9}  {interval}",
            measure.name.title(),
            number(measure.base.as_ref().map(|estimate| estimate.mean)),
            number(measure.tuned.as_ref().map(|estimate| estimate.mean)),
        );
    }
    text.truncate(text.trim_end().len());
    text
}
