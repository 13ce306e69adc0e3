//! `characters` and `dialogues`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use futures_util::{Stream, StreamExt as _};
use opencharacter_core::{Character, Dialogue, Generate, Instruction, Persona, Strategy};
use opencharacter_ledger::{Ledger, LedgeredModel};
use opencharacter_synth::{
    Budget, Cast, Collected, DIALOGUES, DialogueOptions, PROFILES, ProfileOptions, ProgressEvent, Sink, Summary,
    SynthError, Templates, Work, in_memory, synthesize_dialogues, synthesize_profiles,
};
use opencharacter_tables::nouns;
use serde_json::json;

use crate::{
    cli::{CharactersArguments, DialoguesArguments, SynthesisArguments},
    dataset::{Asked, DataManifest, DataRecipe, DataSet},
    estimate::Estimate,
    failure::Usage,
    inputs::Input,
    interrupt::Interrupt,
    model_recipe::{ModelRecipe, Models},
    models,
    progress::Stage,
};

/// `opencharacter characters`
pub async fn characters(arguments: &CharactersArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.synthesis;
    let input = Input::new(arguments.personas.clone(), common.on_error.into())
        .selected(common.filter.as_ref())
        .limited(arguments.limit, common.seed);
    let personas = input.scan::<Persona>().await?;
    let desk = Desk::open(common, arguments.out.local())?;
    let options = ProfileOptions { attempts: common.attempts, seed: common.seed, ..ProfileOptions::default() };
    let recipe = DataRecipe::new(json!({
        "kind": "characters",
        "teacher": desk.teacher.fingerprint(),
        "seed": common.seed,
        "personas": described(&input).await?,
        "sampling": options.sampling,
        "templates": desk.templates.hashes(),
    }));
    let data = DataSet::new(&arguments.out);
    if let Some(manifest) = data.finished(&recipe, desk.asked()).await? {
        return Ok(already(&arguments.out, &manifest));
    }
    let progress = Stage::new("characters", "personas");
    let show = |event: ProgressEvent| show(&progress, &event);
    let work = desk.work(personas.rows, &show)?;
    if common.dry_run {
        let sample = personas.stream().await?.take(Estimate::SAMPLE);
        let made = profile_stage(sample, &options, &desk.templates, work, &mut Collected::default(), interrupt).await?;
        drop(progress);
        return Estimate::new(PROFILES, work, &made, work.count.unwrap_or(personas.rows)).print(common.json);
    }
    let mut writer = data.writer(nouns::characters()).await?;
    let rows = personas.stream().await?;
    let made = profile_stage(rows, &options, &desk.templates, work, &mut writer, interrupt).await?;
    let manifest = data.finish(writer, &made, recipe, desk.asked()).await?;
    progress.finish(&summary(&made, "characters"));
    desk.end(&made, &manifest, "characters", personas.rows)
}

/// `opencharacter dialogues`
pub async fn dialogues(arguments: &DialoguesArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.synthesis;
    let cast_input =
        Input::new(arguments.characters.clone(), common.on_error.into()).selected(arguments.characters_filter.as_ref());
    let characters = cast_input.rows::<Character>().await?;
    let input = Input::new(arguments.instructions.clone(), common.on_error.into())
        .selected(common.filter.as_ref())
        .limited(arguments.limit, common.seed);
    let instructions = input.scan::<Instruction>().await?;
    let desk = Desk::open(common, arguments.out.local())?;
    let options = arguments.options();
    let recipe = DataRecipe::new(json!({
        "kind": "dialogues",
        "teacher": desk.teacher.fingerprint(),
        "seed": common.seed,
        "strategy": options.strategy,
        "characters": described(&cast_input).await?,
        "instructions": described(&input).await?,
        "characters_per_instruction": options.characters_per_instruction,
        "candidates": options.candidates,
        "sampling": options.sampling,
        "templates": desk.templates.hashes(),
    }));
    let data = DataSet::new(&arguments.out);
    if let Some(manifest) = data.finished(&recipe, desk.asked()).await? {
        return Ok(already(&arguments.out, &manifest));
    }
    let cast = Cast::new(&characters);
    let total = instructions.rows * options.characters_per_instruction.min(characters.len());
    let progress = Stage::new("dialogues", "dialogues");
    let show = |event: ProgressEvent| show(&progress, &event);
    let work = desk.work(total, &show)?;
    if common.dry_run {
        let sample = instructions.stream().await?.take(Estimate::SAMPLE.div_ceil(options.characters_per_instruction));
        let sink = &mut Collected::default();
        let made = dialogue_stage(&cast, sample, &options, &desk.templates, work, sink, interrupt).await?;
        drop(progress);
        return Estimate::new(DIALOGUES, work, &made, work.count.unwrap_or(total)).print(common.json);
    }
    let mut writer = data.writer(nouns::dialogues()).await?;
    let rows = instructions.stream().await?;
    let made = dialogue_stage(&cast, rows, &options, &desk.templates, work, &mut writer, interrupt).await?;
    let manifest = data.finish(writer, &made, recipe, desk.asked()).await?;
    progress.finish(&summary(&made, "dialogues"));
    desk.end(&made, &manifest, "dialogues", total)
}

impl DialoguesArguments {
    fn options(&self) -> DialogueOptions {
        let mut options = DialogueOptions {
            strategy: self.strategy.into(),
            characters_per_instruction: self.characters_per_instruction,
            candidates: self.candidates,
            attempts: self.synthesis.attempts,
            seed: self.synthesis.seed,
            ..DialogueOptions::default()
        };
        options.sampling.max_tokens = self.answer_tokens;
        options
    }
}

/// What decides which rows a file gives.
async fn described(input: &Input) -> Result<serde_json::Value> {
    Ok(json!({
        "content": input.source.location.fingerprint().await?,
        "where": input.source.filter,
        "limit": input.limit,
    }))
}

fn already(out: &opencharacter_storage::Location, manifest: &DataManifest) {
    eprintln!("`{out}` is there already, made by the same recipe: {} rows", manifest.rows);
}

/// What both commands need to work.
struct Desk<'a> {
    teacher: Box<dyn Generate>,
    budget: Budget,
    ledger: Ledger,
    templates: Templates,
    arguments: &'a SynthesisArguments,
}

impl<'a> Desk<'a> {
    fn open(arguments: &'a SynthesisArguments, out: Option<&Path>) -> Result<Self> {
        let templates = templates(arguments.templates.as_deref())?;
        let beside = |out: &Path| {
            let mut name = out.as_os_str().to_owned();
            name.push(".ledger");
            PathBuf::from(name)
        };
        let Some(folder) = arguments.ledger.clone().or_else(|| out.map(beside)) else {
            bail!(Usage("name a folder for the ledger with `--ledger`: `--out` is in an object store".into()));
        };
        let recipe = match &arguments.models {
            Some(path) => Models::read(path)?.teacher,
            None => ModelRecipe::Embedded(arguments.model.clone()),
        };
        let prices = recipe.prices();
        if arguments.max_cost.is_some() && prices.is_none() {
            bail!(Usage("`--max-cost` needs `price_in` and `price_out` in `[models.teacher]` of `--models`".into()));
        }
        let budget = Budget {
            max_tokens: arguments.max_tokens,
            max_cost: arguments.max_cost,
            prices: prices.unwrap_or_default(),
        };
        let ledger = Ledger::open(folder)?;
        Ok(Self { teacher: models::generator(&recipe, None)?, budget, ledger, templates, arguments })
    }

    fn asked(&self) -> Asked {
        Asked { count: self.arguments.count, attempts: self.arguments.attempts }
    }

    fn work<'w>(&'w self, total: usize, progress: &'w (dyn Fn(ProgressEvent) + Sync)) -> Result<Work<'w>> {
        let count = self.arguments.count;
        if count == Some(0) {
            bail!(Usage("`--count`: expected at least 1".into()));
        }
        let model = LedgeredModel { model: &*self.teacher, ledger: &self.ledger };
        Ok(Work { model, total, count, budget: self.budget, progress })
    }

    /// Says what came of it; what was asked for and is not there is an error.
    fn end(&self, made: &Summary, manifest: &DataManifest, what: &str, total: usize) -> Result<()> {
        report(made, what);
        if let Some(limit) = &made.stopped_by {
            bail!("stopped by {limit}: {} of {total} {what} are there; raise it and run again to go on", manifest.rows);
        }
        if let Some(count) = self.arguments.count.filter(|&count| manifest.rows < count) {
            bail!(
                "{count} {what} were asked for and {} are there: the input is exhausted after {} rejected items; give \
                 more input, or more `--attempts`",
                manifest.rows,
                made.rejected
            );
        }
        if made.failed > 0 {
            bail!("{} items got no answer from the model; run the same command again to ask for them", made.failed);
        }
        Ok(())
    }
}

/// The built-in templates, with those of `folder` in their place.
pub fn templates(folder: Option<&Path>) -> Result<Templates> {
    Ok(match folder {
        Some(folder) => Templates::from_dir(folder)?,
        None => Templates::default(),
    })
}

async fn profile_stage(
    personas: impl Stream<Item = Result<Persona, SynthError>>,
    options: &ProfileOptions,
    templates: &Templates,
    work: Work<'_>,
    sink: &mut impl Sink<Character>,
    interrupt: &Interrupt,
) -> Result<Summary> {
    let made = interrupt.guard(synthesize_profiles(personas, options, templates, work, sink)).await;
    work.model.ledger.flush()?;
    made
}

async fn dialogue_stage(
    cast: &Cast<'_>,
    instructions: impl Stream<Item = Result<Instruction, SynthError>>,
    options: &DialogueOptions,
    templates: &Templates,
    work: Work<'_>,
    sink: &mut impl Sink<Dialogue>,
    interrupt: &Interrupt,
) -> Result<Summary> {
    let made = interrupt.guard(synthesize_dialogues(cast, instructions, options, templates, work, sink)).await;
    work.model.ledger.flush()?;
    made
}

/// What came of a stage of a recipe: in memory, because training needs all of it.
pub struct Made<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// In figures.
    pub summary: Summary,
}

/// Profile synthesis with a progress bar.
pub async fn profiles(
    name: &str,
    personas: &[Persona],
    options: &ProfileOptions,
    templates: &Templates,
    model: LedgeredModel<'_>,
    interrupt: &Interrupt,
) -> Result<Made<Character>> {
    let stage = Stage::new(name, "personas");
    let progress = |event: ProgressEvent| show(&stage, &event);
    let work = Work { total: personas.len(), ..Work::new(model, &progress) };
    let mut collected = Collected::default();
    let personas = in_memory(personas.iter().cloned());
    let made = profile_stage(personas, options, templates, work, &mut collected, interrupt).await?;
    stage.finish(&summary(&made, "characters"));
    Ok(Made { rows: collected.rows, summary: made })
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

impl DialogueJob<'_> {
    /// As many dialogues as this makes at most.
    fn total(&self) -> usize {
        let answered = |instruction: &&Instruction| {
            self.options.strategy == Strategy::Generate || instruction.turns.iter().all(|turn| turn.answer.is_some())
        };
        let asked = self.instructions.iter().filter(answered).count();
        asked * self.options.characters_per_instruction.min(self.characters.len())
    }
}

/// Dialogue synthesis with a progress bar.
pub async fn answers(
    name: &str,
    job: DialogueJob<'_>,
    templates: &Templates,
    model: LedgeredModel<'_>,
    interrupt: &Interrupt,
) -> Result<Made<Dialogue>> {
    let stage = Stage::new(name, "dialogues");
    let progress = |event: ProgressEvent| show(&stage, &event);
    let work = Work { total: job.total(), ..Work::new(model, &progress) };
    let (cast, mut collected) = (Cast::new(job.characters), Collected::default());
    let instructions = in_memory(job.instructions.iter().cloned());
    let made = dialogue_stage(&cast, instructions, job.options, templates, work, &mut collected, interrupt).await?;
    stage.finish(&summary(&made, "dialogues"));
    Ok(Made { rows: collected.rows, summary: made })
}

fn show(stage: &Stage, event: &ProgressEvent) {
    let message =
        || format!("{} rejected, {} tokens, {} calls reused", event.rejected, event.tokens, event.calls_reused);
    stage.set_with(event.done, event.total, message);
}

fn summary(made: &Summary, what: &str) -> String {
    format!("{} {what}, {} given up", made.accepted, made.rejected)
}

/// The table of reasons, on standard error.
fn report(made: &Summary, what: &str) {
    eprintln!("{} {what}; {} items given up", made.accepted, made.rejected);
    let mut reasons: Vec<_> = made.reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    if !reasons.is_empty() {
        eprintln!("rejected answers, by reason:");
    }
    for (reason, count) in reasons {
        eprintln!("  {count:>6}  {reason}");
    }
}
