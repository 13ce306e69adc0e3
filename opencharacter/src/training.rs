//! `train`.

use std::path::Path;

use anyhow::Result;
use opencharacter_core::{Character, Dialogue, SystemPrompt};
use opencharacter_nn::{LinearName, LoraConfig, Model};
use opencharacter_train::{
    Example, Masks, Method, Outcome, TrainConfig, TrainError, TrainProgress, Trained, build_examples, pack, show_masks,
};

use crate::{
    cli::TrainArguments,
    failure::{Interrupted, Usage},
    inputs,
    interrupt::Interrupt,
    models, output,
    progress::{Stage, seconds},
    run_folder::RunFolder,
    synthesis::templates,
};

/// `opencharacter train`
pub fn command(arguments: &TrainArguments, interrupt: &Interrupt) -> Result<()> {
    let config = config(arguments);
    let system = templates(arguments.templates.as_deref())?.system;
    let (dialogues, characters) = inputs::dialogues(
        &arguments.dialogues,
        arguments.characters.as_deref(),
        arguments.on_error.into(),
        arguments.limit,
        arguments.seed,
    )?;
    let model = models::load(&arguments.model)?;
    let train_examples = examples(&model, &dialogues, &characters, &system, &config)?;
    if let Some(count) = arguments.show_masks {
        for (batch, _) in pack(&train_examples, config.pack_tokens, config.seed, 0).into_iter().take(count) {
            if arguments.json {
                output::json(&Masks::from(&batch))?;
            } else {
                output::line(&show_masks(&batch, &model.tokenizer))?;
            }
        }
        return Ok(());
    }
    let Some(out) = &arguments.out else {
        return Err(Usage("`train` needs `--out DIR` (or `--show-masks N`)".into()).into());
    };
    let held_out = match &arguments.held_out {
        None => Vec::new(),
        Some(path) => {
            let (dialogues, mut held_out_characters) = inputs::dialogues(
                path,
                arguments.characters.as_deref(),
                arguments.on_error.into(),
                arguments.held_out_limit,
                arguments.seed,
            )?;
            held_out_characters.extend(characters);
            examples(&model, &dialogues, &held_out_characters, &system, &config)?
        }
    };
    let _folder = RunFolder::open(out)?;
    let trained = train(&model, &train_examples, &held_out, &config, out, interrupt)?;
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
        weight_decay: arguments.weight_decay,
        seed: arguments.seed,
        max_example_tokens: arguments.max_example_tokens,
        held_out_every: arguments.held_out_every,
        checkpoint_every: arguments.checkpoint_every,
        recompute: arguments.recompute,
        ..TrainConfig::default()
    }
}

/// Dialogues as examples; what is left out is said aloud, and leaving out everything is an error.
pub fn examples(
    model: &Model,
    dialogues: &[Dialogue],
    characters: &[Character],
    system: &SystemPrompt,
    config: &TrainConfig,
) -> Result<Vec<Example>> {
    const SHOWN: usize = 3;
    let built = build_examples(model, dialogues, characters, system, config.max_example_tokens)?;
    for skipped in built.skipped.iter().take(SHOWN) {
        eprintln!("dialogue `{}` left out: {}", skipped.id, skipped.reason);
    }
    if built.skipped.len() > SHOWN {
        eprintln!("{} more dialogues left out", built.skipped.len() - SHOWN);
    }
    if built.examples.is_empty() {
        let reason = built.skipped.first().map_or_else(|| "there are none".into(), |skipped| skipped.reason.clone());
        return Err(TrainError::NothingToTrain { reason }.into());
    }
    Ok(built.examples)
}

/// Training with a progress bar.
pub fn train(
    model: &Model,
    examples: &[Example],
    held_out: &[Example],
    config: &TrainConfig,
    out: &Path,
    interrupt: &Interrupt,
) -> Result<Trained> {
    let tokens: usize = examples.iter().map(|example| example.tokens.len()).sum();
    let trained: usize = examples.iter().map(Example::trained_tokens).sum();
    eprintln!("training on {} dialogues, {tokens} tokens of which {trained} are trained", examples.len());
    let stage = Stage::new("training", "steps");
    let progress = |progress: TrainProgress<'_>| {
        let metrics = progress.metrics;
        let held_out = metrics.held_out_loss.map_or(String::new(), |loss| format!(", held out {loss:.3}"));
        stage.set(metrics.step, progress.total_steps, format!("loss {:.3}{held_out}", metrics.loss));
    };
    // The runtime's other thread goes on listening for Ctrl-C.
    let outcome = tokio::task::block_in_place(|| {
        opencharacter_train::train(model, examples, held_out, config, out, interrupt.flag(), &progress)
    })?;
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
