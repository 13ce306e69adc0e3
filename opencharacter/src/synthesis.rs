//! `characters` and `dialogues`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use opencharacter_core::{Character, Dialogue, Generate, Instruction, Persona};
use opencharacter_ledger::{Ledger, LedgeredModel};
use opencharacter_synth::{
    DialogueOptions, ProfileOptions, ProgressEvent, Synthesis, Templates, synthesize_dialogues, synthesize_profiles,
    write_jsonl_atomic,
};

use crate::{
    cli::{CharactersArguments, DialoguesArguments, SynthesisArguments},
    inputs,
    interrupt::Interrupt,
    model_recipe::{ModelRecipe, Models},
    models,
    progress::Stage,
};

/// `opencharacter characters`
pub async fn characters(arguments: &CharactersArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.synthesis;
    let personas = inputs::personas(&arguments.personas, common.on_error.into(), arguments.limit, common.seed)?;
    let desk = Desk::open(common, &arguments.out)?;
    let options = ProfileOptions { attempts: common.attempts, seed: common.seed, ..ProfileOptions::default() };
    let result = profiles("characters", &personas, &options, &desk.templates, desk.model(), interrupt).await?;
    write_jsonl_atomic(&arguments.out, &result.rows)?;
    report(&result, "characters");
    Ok(())
}

/// `opencharacter dialogues`
pub async fn dialogues(arguments: &DialoguesArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.synthesis;
    let characters = inputs::characters(&arguments.characters, common.on_error.into())?;
    let instructions =
        inputs::instructions(&arguments.instructions, common.on_error.into(), arguments.limit, common.seed)?;
    let desk = Desk::open(common, &arguments.out)?;
    let mut options = DialogueOptions {
        strategy: arguments.strategy.into(),
        characters_per_instruction: arguments.characters_per_instruction,
        candidates: arguments.candidates,
        attempts: common.attempts,
        seed: common.seed,
        ..DialogueOptions::default()
    };
    options.sampling.max_tokens = arguments.max_tokens;
    let job = DialogueJob { characters: &characters, instructions: &instructions, options: &options };
    let result = answers("dialogues", job, &desk.templates, desk.model(), interrupt).await?;
    write_jsonl_atomic(&arguments.out, &result.rows)?;
    report(&result, "dialogues");
    Ok(())
}

/// What both commands need to work.
struct Desk {
    teacher: Box<dyn Generate>,
    ledger: Ledger,
    templates: Templates,
}

impl Desk {
    fn open(arguments: &SynthesisArguments, out: &Path) -> Result<Self> {
        let templates = templates(arguments.templates.as_deref())?;
        let folder = arguments.ledger.clone().unwrap_or_else(|| {
            let mut name = out.as_os_str().to_owned();
            name.push(".ledger");
            PathBuf::from(name)
        });
        let ledger = Ledger::open(folder)?;
        let recipe = match &arguments.models {
            Some(path) => Models::read(path)?.teacher,
            None => ModelRecipe::Embedded(arguments.model.clone()),
        };
        Ok(Self { teacher: models::generator(&recipe, None)?, ledger, templates })
    }

    fn model(&self) -> LedgeredModel<'_> {
        LedgeredModel { model: &*self.teacher, ledger: &self.ledger }
    }
}

/// The built-in templates, with those of `folder` in their place.
pub fn templates(folder: Option<&Path>) -> Result<Templates> {
    Ok(match folder {
        Some(folder) => Templates::from_dir(folder)?,
        None => Templates::default(),
    })
}

/// Profile synthesis with a progress bar.
pub async fn profiles(
    name: &str,
    personas: &[Persona],
    options: &ProfileOptions,
    templates: &Templates,
    model: LedgeredModel<'_>,
    interrupt: &Interrupt,
) -> Result<Synthesis<Character>> {
    let stage = Stage::new(name, "personas");
    let progress = |event: ProgressEvent| show(&stage, &event);
    let result = interrupt.guard(synthesize_profiles(personas, options, templates, model, &progress)).await;
    model.ledger.flush()?;
    let result = result?;
    stage.finish(&summary(&result, "characters"));
    Ok(result)
}

/// What dialogues are to be made.
#[derive(Clone, Copy)]
pub struct DialogueJob<'a> {
    /// Who may answer.
    pub characters: &'a [Character],
    /// What is asked.
    pub instructions: &'a [Instruction],
    /// How.
    pub options: &'a DialogueOptions,
}

/// Dialogue synthesis with a progress bar.
pub async fn answers(
    name: &str,
    job: DialogueJob<'_>,
    templates: &Templates,
    model: LedgeredModel<'_>,
    interrupt: &Interrupt,
) -> Result<Synthesis<Dialogue>> {
    let stage = Stage::new(name, "dialogues");
    let progress = |event: ProgressEvent| show(&stage, &event);
    let work = synthesize_dialogues(job.characters, job.instructions, job.options, templates, model, &progress);
    let result = interrupt.guard(work).await;
    model.ledger.flush()?;
    let result = result?;
    stage.finish(&summary(&result, "dialogues"));
    Ok(result)
}

fn show(stage: &Stage, event: &ProgressEvent) {
    let message = format!("{} rejected, {} tokens, {} calls reused", event.rejected, event.tokens, event.calls_reused);
    stage.set(event.done, event.total, message);
}

fn summary<T>(result: &Synthesis<T>, what: &str) -> String {
    format!("{} {what}, {} given up", result.rows.len(), result.rejected.len())
}

/// The table of reasons, on standard error.
pub fn report<T>(result: &Synthesis<T>, what: &str) {
    eprintln!("{} {what}; {} items given up", result.rows.len(), result.rejected.len());
    let mut reasons: Vec<_> = result.reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    if !reasons.is_empty() {
        eprintln!("rejected answers, by reason:");
    }
    for (reason, count) in reasons {
        eprintln!("  {count:>6}  {reason}");
    }
}
