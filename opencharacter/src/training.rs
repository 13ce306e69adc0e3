//! `train`.

use std::path::Path;

use anyhow::{Result, bail};
use opencharacter_core::{Character, Dialogue, SystemPrompt};
use opencharacter_nn::{LinearName, LoraAdapter, LoraConfig, Model};
use opencharacter_train::{
    Example, ExampleOptions, Examples, Job, Masks, MemoryEstimate, Method, Outcome, Piece, PreferenceExample,
    ProfileDropout, Task, TrainConfig, TrainError, TrainProgress, Trained, build_examples, build_preferences,
    masked_pieces, pack, show_masks,
};
use serde_json::json;

use crate::{
    available_memory::available_bytes,
    cli::TrainArguments,
    failure::{Interrupted, Usage},
    inputs::{self, Input},
    interrupt::Interrupt,
    models, output,
    progress::{Stage, seconds},
    run_folder::RunFolder,
    synthesis::templates,
};

/// `opencharacter train`
pub async fn command(arguments: &TrainArguments, interrupt: &Interrupt) -> Result<()> {
    let mut config = config(arguments);
    // First of all: a GPU that is not there is said at once.
    let device = arguments.device.open()?;
    let model = models::load(&arguments.model)?;
    let start = match &arguments.adapter {
        Some(folder) => Some(LoraAdapter::load(folder, model.decoder.config())?),
        None => None,
    };
    if let Some(start) = &start {
        config.lora = LoraConfig { dropout: config.lora.dropout, ..start.config().clone() };
    }
    let system = templates(arguments.templates.as_deref())?.system;
    let rows = Rows { arguments, model: &model, config: &config, system: &system };
    let (trained, held_out) = (rows.read(Part::Trained).await?, rows.read(Part::HeldOut).await?);
    if let Some(count) = arguments.show_masks {
        return match &trained {
            Set::Dialogues(examples) => show(examples, &config, count, &model, arguments.json),
            Set::Pairs(examples) => show(examples, &config, count, &model, arguments.json),
        };
    }
    let task = match (&trained, &held_out) {
        (Set::Dialogues(train), Set::Dialogues(held_out)) => Task::Dialogues { train, held_out },
        (Set::Pairs(train), Set::Pairs(held_out)) => Task::Preferences { train, held_out },
        // Both were read by the same arguments.
        _ => bail!("held-out rows must be of the trained rows' kind"),
    };
    let Some(out) = &arguments.out else {
        return Err(Usage("`train` needs `--out DIR` (or `--show-masks N`)".into()).into());
    };
    let _folder = RunFolder::open(out)?;
    let job = Job { model: &model, start: start.as_ref(), task, config: &config, device: device.as_ref() };
    let trained = train(job, out, interrupt)?;
    if arguments.json {
        return output::json(&trained);
    }
    let loss = |loss: Option<f64>| loss.map_or("not measured".into(), |loss| format!("{loss:.4}"));
    let result = match config.method {
        Method::Lora => "adapter",
        Method::Full => "model",
    };
    output::line(&format!(
        "{} steps, {} tokens in {} ({:.0} tokens/s)\nheld-out loss: {} before, {} after\n{}: {}",
        trained.steps,
        trained.tokens,
        seconds(trained.seconds),
        trained.tokens as f64 / trained.seconds.max(1e-9),
        loss(trained.held_out_before),
        loss(trained.held_out_after),
        result,
        out.join(result).display()
    ))
}

/// Which rows of a run.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Trained,
    HeldOut,
}

/// Rows in tokens.
enum Set {
    Dialogues(Vec<Example>),
    Pairs(Vec<PreferenceExample>),
}

/// Reads the rows that `train` is given.
struct Rows<'a> {
    arguments: &'a TrainArguments,
    model: &'a Model,
    config: &'a TrainConfig,
    system: &'a SystemPrompt,
}

impl Rows<'_> {
    async fn read(&self, part: Part) -> Result<Set> {
        let arguments = self.arguments;
        let limit = if part == Part::Trained { arguments.limit } else { arguments.held_out_limit };
        let (on_error, seed) = (arguments.on_error.into(), arguments.seed);
        let options = options(self.config, self.system, part == Part::Trained);
        if let Some(pairs) = &arguments.pairs {
            let path = if part == Part::Trained { Some(pairs) } else { arguments.held_out.as_ref() };
            let Some(path) = path else { return Ok(Set::Pairs(Vec::new())) };
            let characters = match &arguments.characters {
                Some(path) => Input::new(path.clone(), on_error).characters().await?,
                None => Vec::new(),
            };
            let rows = Input::new(path.clone(), on_error).limited(limit, seed).rows().await?;
            return Ok(Set::Pairs(said(build_preferences(self.model, &rows, &characters, options)?, "pair")?));
        }
        let path = if part == Part::Trained { &arguments.dialogues } else { &arguments.held_out };
        let Some(path) = path else { return Ok(Set::Dialogues(Vec::new())) };
        let input = Input::new(path.clone(), on_error).limited(limit, seed);
        let (rows, characters) = inputs::dialogues(&input, arguments.characters.as_ref()).await?;
        Ok(Set::Dialogues(said(build_examples(self.model, &rows, &characters, options)?, "dialogue")?))
    }
}

fn show<P: Piece>(pieces: &[P], config: &TrainConfig, count: usize, model: &Model, json: bool) -> Result<()> {
    for (batch, _) in pack(pieces, config.pack_tokens, config.seed, 0).into_iter().take(count) {
        if json {
            output::json(&Masks::from(&batch))?;
        } else {
            output::line(&show_masks(&batch, &model.tokenizer))?;
        }
    }
    Ok(())
}

fn config(arguments: &TrainArguments) -> TrainConfig {
    TrainConfig {
        epochs: arguments.epochs,
        pack_tokens: arguments.pack_tokens,
        packs_per_step: arguments.packs_per_step,
        learning_rate: arguments.learning_rate,
        schedule: arguments.schedule.into(),
        method: arguments.method.into(),
        lora: LoraConfig {
            rank: arguments.rank,
            alpha: arguments.alpha,
            rank_stabilised: arguments.rank_stabilised,
            dropout: arguments.dropout,
            targets: if arguments.targets.is_empty() { LinearName::ALL.to_vec() } else { arguments.targets.clone() },
        },
        neftune_alpha: arguments.neftune_alpha,
        profile_dropout: ProfileDropout { persona_only: arguments.persona_only, profile_only: arguments.profile_only },
        preference_beta: arguments.beta,
        weight_decay: arguments.weight_decay,
        seed: arguments.seed,
        max_example_tokens: arguments.max_example_tokens,
        held_out_every: arguments.held_out_every,
        checkpoint_every: arguments.checkpoint_every,
        recompute: arguments.recompute,
        ..TrainConfig::default()
    }
}

/// How rows become examples; what is measured sees its character whole.
fn options<'a>(config: &TrainConfig, system: &'a SystemPrompt, trained: bool) -> ExampleOptions<'a> {
    let profile_dropout = if trained { config.profile_dropout } else { ProfileDropout::default() };
    ExampleOptions { system, max_tokens: config.max_example_tokens, profile_dropout, seed: config.seed }
}

/// Dialogues as examples, to be trained or to be measured.
pub fn examples(
    model: &Model,
    dialogues: &[Dialogue],
    characters: &[Character],
    system: &SystemPrompt,
    config: &TrainConfig,
    trained: bool,
) -> Result<Vec<Example>> {
    said(build_examples(model, dialogues, characters, options(config, system, trained))?, "dialogue")
}

/// What is left out is said aloud, and leaving out everything is an error.
fn said<T>(built: Examples<T>, kind: &str) -> Result<Vec<T>> {
    const SHOWN: usize = 3;
    for skipped in built.skipped.iter().take(SHOWN) {
        eprintln!("{kind} `{}` left out: {}", skipped.id, skipped.reason);
    }
    if built.skipped.len() > SHOWN {
        eprintln!("{} more {kind}s left out", built.skipped.len() - SHOWN);
    }
    if built.examples.is_empty() {
        let reason = built.skipped.first().map_or_else(|| "there are none".into(), |skipped| skipped.reason.clone());
        return Err(TrainError::NothingToTrain { reason }.into());
    }
    Ok(built.examples)
}

/// Training with a progress bar.
pub fn train(job: Job<'_>, out: &Path, interrupt: &Interrupt) -> Result<Trained> {
    announce(&job);
    keep_masks(&job, out)?;
    let stage = Stage::new("training", "steps");
    let progress = |progress: TrainProgress<'_>| match progress {
        TrainProgress::Reference { done, total } => stage.set(done, total, "reference, pairs"),
        TrainProgress::Damaged { folder } => {
            eprintln!("warning: the checkpoint `{}` is damaged and passed over", folder.display());
        }
        TrainProgress::Reserved { bytes } => eprintln!("its memory is taken: {:.1} GiB of the GPU's", gibibytes(bytes)),
        TrainProgress::Step { total, metrics } => {
            let held_out = metrics.held_out_loss.map_or(String::new(), |loss| format!(", held out {loss:.3}"));
            stage.set(metrics.step, total, format!("loss {:.3}{held_out}", metrics.loss));
        }
    };
    // The runtime's other thread goes on listening for Ctrl-C.
    let outcome = tokio::task::block_in_place(|| opencharacter_train::train(job, out, interrupt.flag(), &progress))?;
    match outcome {
        Outcome::Interrupted { step } => {
            eprintln!("stopped after step {step}; a checkpoint is written");
            Err(Interrupted.into())
        }
        Outcome::Done(trained) => {
            let loss = |loss: Option<f64>| loss.map_or("?".into(), |loss| format!("{loss:.3}"));
            let (before, after) = (loss(trained.held_out_before), loss(trained.held_out_after));
            stage.finish(&format!("{} steps, held-out loss {before} to {after}", trained.steps));
            Ok(trained)
        }
    }
}

/// Keeps what is trained of the first dialogues, token by token, for a person to look at (`serve` shows it).
fn keep_masks(job: &Job<'_>, out: &Path) -> Result<()> {
    const KEPT: usize = 5;
    let Task::Dialogues { train, .. } = job.task else { return Ok(()) };
    let masks: Vec<_> = train
        .iter()
        .take(KEPT)
        .map(|example| json!({"id": example.id, "pieces": masked_pieces(example, &job.model.tokenizer)}))
        .collect();
    output::json_file(&out.join("masks.json"), &masks)
}

/// Says what is about to be trained, and what memory it will take.
fn announce(job: &Job<'_>) {
    let (kind, count, tokens, trained) = match job.task {
        Task::Dialogues { train, .. } => {
            ("dialogues", train.len(), sum(train, Piece::length), sum(train, Example::trained_tokens))
        }
        Task::Preferences { train, .. } => {
            let trained = |pair: &PreferenceExample| pair.chosen.trained_tokens() + pair.rejected.trained_tokens();
            ("pairs", train.len(), sum(train, Piece::length), sum(train, trained))
        }
    };
    eprintln!("training on {count} {kind}, {tokens} tokens of which {trained} are trained");
    if let Some(device) = job.device {
        // The estimate below is of this machine's memory; a device's is taken before the first step.
        eprintln!("training runs on {}", device.name());
        return;
    }
    let longest = match job.task {
        Task::Dialogues { train, .. } => train.iter().map(Piece::length).max(),
        Task::Preferences { train, .. } => train.iter().map(Piece::length).max(),
    };
    let batch = tokens.min(job.config.pack_tokens.max(longest.unwrap_or(0)));
    let longest_part = match job.task {
        Task::Dialogues { .. } => longest.unwrap_or(0),
        // Pairs of a batch pass together.
        Task::Preferences { .. } => batch,
    };
    let lora = job.start.map_or(&job.config.lora, LoraAdapter::config);
    let estimate = MemoryEstimate::new(&job.model.decoder, job.config, lora, batch, longest_part);
    let available = available_bytes();
    eprintln!(
        "expected memory: {:.1} GiB (weights {:.1}, trained {:.1}, activations {:.1}, head {:.1}){}",
        gibibytes(estimate.total()),
        gibibytes(estimate.weights),
        gibibytes(estimate.trained),
        gibibytes(estimate.activations),
        gibibytes(estimate.head),
        available
            .map_or_else(String::new, |bytes| format!("; beside the weights {:.1} are available", gibibytes(bytes)))
    );
    // The weights are there already.
    if available.is_some_and(|available| estimate.total() - estimate.weights > available) {
        eprintln!(
            "warning: that is more than there is; the system may end this run in the middle. \
             Use `--recompute`, a smaller `--pack-tokens` (now {}) or a smaller model",
            job.config.pack_tokens
        );
    }
}

fn gibibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn sum<T>(items: &[T], of: impl Fn(&T) -> usize) -> usize {
    items.iter().map(of).sum()
}
