//! `characters`, `instructions`, `dialogues` and `filter`.

use std::path::Path;

use anyhow::{Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use opencharacter_cluster::ClusterModel;
use opencharacter_core::{Character, Dialogue, Generate, Instruction, Persona, Strategy};
use opencharacter_ledger::{Ledger, LedgeredModel};
use opencharacter_storage::Location;
use opencharacter_synth::{
    Budget, Cast, Collected, DIALOGUES, DialogueOptions, ImportedDialogue, PROFILES, Prices, ProfileOptions,
    ProgressEvent, QUESTIONS, QuestionOptions, RejectedItem, Sink, Summary, SynthError, Templates, Work, in_memory,
    quality::{AnswerRules, FilterOptions, JUDGEMENTS, filter_dialogues},
    synthesize_dialogues, synthesize_distinct_profiles, synthesize_questions,
};
use opencharacter_tables::{Column, nouns};
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::{CharactersArguments, DialoguesArguments, FilterArguments, InstructionsArguments, SynthesisArguments},
    cluster,
    dataset::{Asked, DataManifest, DataRecipe, DataSet, DataWriter, Sourced},
    estimate::Estimate,
    failure::Usage,
    inputs::Input,
    interrupt::Interrupt,
    ledgers,
    model_recipe::{ModelRecipe, Models},
    models,
    nobody::Nobody,
    progress::Stage,
};

/// `opencharacter characters`
pub async fn characters(arguments: &CharactersArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.synthesis;
    let input = Input::new(arguments.personas.clone(), common.on_error.into())
        .selected(common.filter.as_ref())
        .limited(arguments.limit, common.seed);
    let personas = input.scan::<Persona>().await?;
    let desk = Desk::open(common, &arguments.out).await?;
    let options = ProfileOptions { attempts: common.attempts, seed: common.seed, ..ProfileOptions::default() };
    let recipe = DataRecipe::new(json!({
        "kind": "characters",
        "teacher": desk.model.fingerprint(),
        "seed": common.seed,
        "personas": described(&input).await?,
        "sampling": options.sampling,
        "templates": desk.templates.hashes_of(&["profile"]),
    }));
    let rows = async || Ok(personas.stream().await?.take(desk.sample(1)));
    let product = Product { stage: PROFILES, what: "characters", columns: nouns::characters(), total: personas.rows };
    desk.produce(product, recipe, interrupt, async |work, sink: &mut Output<Character>| {
        synthesize_distinct_profiles(rows, &options, &desk.templates, work, sink).await
    })
    .await
}

/// `opencharacter instructions`
pub async fn instructions(arguments: &InstructionsArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.synthesis;
    let input = Input::new(arguments.personas.clone(), common.on_error.into())
        .selected(common.filter.as_ref())
        .limited(arguments.limit, common.seed);
    let personas = input.scan::<Persona>().await?;
    let desk = Desk::open(common, &arguments.out).await?;
    let options = QuestionOptions {
        per_persona: arguments.per_persona,
        attempts: common.attempts,
        seed: common.seed,
        ..QuestionOptions::default()
    };
    let recipe = DataRecipe::new(json!({
        "kind": "instructions",
        "teacher": desk.model.fingerprint(),
        "seed": common.seed,
        "personas": described(&input).await?,
        "per_persona": options.per_persona,
        "sampling": options.sampling,
        "templates": desk.templates.hashes_of(&["question"]),
    }));
    let rows = personas.stream().await?.take(desk.sample(options.per_persona));
    let total = personas.rows * options.per_persona;
    let product = Product { stage: QUESTIONS, what: "instructions", columns: nouns::instructions(), total };
    desk.produce(product, recipe, interrupt, async |work, sink: &mut Output<Instruction>| {
        synthesize_questions(rows, &options, &desk.templates, work, sink).await
    })
    .await
}

/// `opencharacter dialogues`
pub async fn dialogues(arguments: &DialoguesArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.synthesis;
    let cast_input =
        Input::new(arguments.characters.clone(), common.on_error.into()).selected(arguments.characters_filter.as_ref());
    let characters = cast_input.characters().await?;
    let input = Input::new(arguments.instructions.clone(), common.on_error.into())
        .selected(common.filter.as_ref())
        .limited(arguments.limit, common.seed);
    let instructions = input.scan::<Instruction>().await?;
    let desk = Desk::open(common, &arguments.out).await?;
    let options = arguments.options();
    let recipe = DataRecipe::new(json!({
        "kind": "dialogues",
        "teacher": desk.model.fingerprint(),
        "seed": common.seed,
        "strategy": options.strategy,
        "characters": described(&cast_input).await?,
        "instructions": described(&input).await?,
        "characters_per_instruction": options.characters_per_instruction,
        "candidates": options.candidates,
        "sampling": options.sampling,
        "templates": desk.templates.hashes_of(&["system", "rewrite"]),
    }));
    let cast = Cast::new(&characters);
    let rows = instructions.stream().await?.take(desk.sample(options.characters_per_instruction));
    let total = instructions.rows * options.characters_per_instruction.min(characters.len());
    let product = Product { stage: DIALOGUES, what: "dialogues", columns: nouns::dialogues(), total };
    desk.produce(product, recipe, interrupt, async |work, sink: &mut Output<Dialogue>| {
        synthesize_dialogues(&cast, rows, &options, &desk.templates, work, sink).await
    })
    .await
}

/// `opencharacter filter`
pub async fn filter(arguments: &FilterArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.synthesis;
    let cast_input = Input::new(arguments.characters.clone(), common.on_error.into());
    let characters = cast_input.characters().await?;
    let input = Input::new(arguments.dialogues.clone(), common.on_error.into()).selected(common.filter.as_ref());
    let dialogues = input.scan::<ImportedDialogue>().await?;
    let judge = match arguments.least_mark {
        Some(_) => teacher(common, &arguments.out)?,
        None => Teacher { model: Box::new(Nobody), prices: None },
    };
    let desk = Desk::with(common, &arguments.out, judge).await?;
    let options = FilterOptions {
        rules: AnswerRules { words: arguments.least_words..=arguments.most_words },
        language: arguments.language.clone(),
        least_mark: arguments.least_mark,
        attempts: common.attempts,
        seed: common.seed,
        ..FilterOptions::default()
    };
    let recipe = DataRecipe::new(json!({
        "kind": "filter",
        "judge": desk.model.fingerprint(),
        "seed": common.seed,
        "characters": described(&cast_input).await?,
        "dialogues": described(&input).await?,
        "words": options.rules.words,
        "language": options.language,
        "least_mark": options.least_mark,
        "sampling": options.sampling,
        "templates": desk.templates.hashes_of(&["system", "judge"]),
    }));
    let rows = dialogues.stream::<ImportedDialogue>().await?.map_ok(|imported| imported.dialogue);
    let rows = rows.take(desk.sample(1));
    let product = Product { stage: JUDGEMENTS, what: "dialogues", columns: nouns::dialogues(), total: dialogues.rows };
    desk.produce(product, recipe, interrupt, async |work, sink: &mut Output<Dialogue>| {
        filter_dialogues(rows, &characters, &options, &desk.templates, work, sink).await
    })
    .await
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
        "content": input.fingerprint().await?,
        "where": input.source.filter,
        "limit": input.limit,
    }))
}

/// What a command makes.
struct Product {
    /// The stage's name in the ledger.
    stage: &'static str,
    /// What its rows are called.
    what: &'static str,
    columns: Vec<Column>,
    /// So many rows at most.
    total: usize,
}

/// Where rows go: into the file, or no further.
enum Output<T> {
    Sample(Collected<T>),
    File(Box<DataWriter>),
}

impl<T: Serialize + Sourced> Sink<T> for Output<T> {
    async fn row(&mut self, row: T) -> Result<(), SynthError> {
        match self {
            Self::Sample(sample) => sample.row(row).await,
            Self::File(writer) => writer.row(row).await,
        }
    }

    async fn rejected(&mut self, item: RejectedItem) -> Result<(), SynthError> {
        match self {
            Self::Sample(sample) => sample.rejected(item).await,
            Self::File(writer) => Sink::<T>::rejected(&mut **writer, item).await,
        }
    }
}

/// What the commands need to work.
struct Desk<'a> {
    model: Box<dyn Generate>,
    /// Answers in its place.
    cluster: Option<ClusterModel>,
    budget: Budget,
    ledger: Ledger,
    templates: Templates,
    out: &'a Location,
    arguments: &'a SynthesisArguments,
}

/// Who answers, at what price.
struct Teacher {
    model: Box<dyn Generate>,
    prices: Option<Prices>,
}

/// The model of `--model` or `--models`.
fn teacher(arguments: &SynthesisArguments, out: &Location) -> Result<Teacher> {
    let recipe = match &arguments.models {
        Some(path) => Models::read(path)?.teacher,
        None => ModelRecipe::Embedded(arguments.model.clone()),
    };
    let work = match out {
        Location::Local(path) => std::path::absolute(path)?.display().to_string(),
        Location::Remote(_) => out.to_string(),
    };
    Ok(Teacher { model: models::generator(&recipe, None, &work)?, prices: recipe.prices() })
}

impl<'a> Desk<'a> {
    async fn open(arguments: &'a SynthesisArguments, out: &'a Location) -> Result<Self> {
        Self::with(arguments, out, teacher(arguments, out)?).await
    }

    async fn with(arguments: &'a SynthesisArguments, out: &'a Location, teacher: Teacher) -> Result<Self> {
        let Teacher { model, prices } = teacher;
        let templates = templates(arguments.templates.as_deref())?;
        if arguments.max_cost.is_some() && prices.is_none() {
            bail!(Usage("`--max-cost` needs `price_in` and `price_out` in `[models.teacher]` of `--models`".into()));
        }
        let budget = Budget {
            max_tokens: arguments.max_tokens,
            max_cost: arguments.max_cost,
            prices: prices.unwrap_or_default(),
        };
        let ledger = ledgers::open(&arguments.ledger.clone().unwrap_or_else(|| out.with_ending(".ledger")))?;
        let cluster = match &arguments.cluster {
            Some(url) => Some(cluster::model(url, &*model).await?),
            None => None,
        };
        Ok(Self { model, cluster, budget, ledger, templates, out, arguments })
    }

    fn teacher(&self) -> &dyn Generate {
        match &self.cluster {
            Some(cluster) => cluster,
            None => &*self.model,
        }
    }

    /// How many rows of the input are worked on, each making `each`.
    fn sample(&self, each: usize) -> usize {
        if self.arguments.dry_run { Estimate::SAMPLE.div_ceil(each.max(1)) } else { usize::MAX }
    }

    /// Makes what `run` makes, or says what it would take.
    async fn produce<T: Serialize + Sourced>(
        &self,
        product: Product,
        recipe: DataRecipe,
        interrupt: &Interrupt,
        run: impl AsyncFnOnce(Work<'_>, &mut Output<T>) -> Result<Summary, SynthError>,
    ) -> Result<()> {
        let (what, total) = (product.what, product.total);
        let data = DataSet::new(self.out);
        if let Some(manifest) = data.finished(&recipe, self.asked()).await? {
            eprintln!("`{}` is there already, made by the same recipe: {} {what}", self.out, manifest.rows);
            return Ok(());
        }
        let progress = Stage::new(what, what);
        let show = |event: ProgressEvent| show(&progress, &event);
        let work = self.work(total, &show)?;
        let mut sink = if self.arguments.dry_run {
            Output::Sample(Collected::default())
        } else {
            Output::File(Box::new(data.writer(product.columns).await?))
        };
        let made = interrupt.guard(run(work, &mut sink)).await;
        self.ledger.flush()?;
        if let Some(cluster) = &self.cluster {
            cluster.close().await;
        }
        let made = made?;
        let Output::File(writer) = sink else {
            return Estimate::new(product.stage, work, &made, work.count.unwrap_or(total)).print(self.arguments.json);
        };
        let manifest = data.finish(*writer, &made, recipe, self.asked()).await?;
        progress.finish(&summary(&made, what));
        self.end(&made, &manifest, what, total)
    }

    fn asked(&self) -> Asked {
        Asked { count: self.arguments.count, attempts: self.arguments.attempts }
    }

    fn work<'w>(&'w self, total: usize, progress: &'w (dyn Fn(ProgressEvent) + Sync)) -> Result<Work<'w>> {
        let count = self.arguments.count;
        if count == Some(0) {
            bail!(Usage("`--count`: expected at least 1".into()));
        }
        let retry_refused = self.arguments.retry_refused;
        let model = LedgeredModel { retry_refused, ..LedgeredModel::new(self.teacher(), &self.ledger) };
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
    let personas = async || Ok(in_memory(personas.iter().cloned()));
    let stage_work = synthesize_distinct_profiles(personas, options, templates, work, &mut collected);
    let made = interrupt.guard(stage_work).await;
    model.ledger.flush()?;
    let made = made?;
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
    let stage_work = synthesize_dialogues(&cast, instructions, job.options, templates, work, &mut collected);
    let made = interrupt.guard(stage_work).await;
    model.ledger.flush()?;
    let made = made?;
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
