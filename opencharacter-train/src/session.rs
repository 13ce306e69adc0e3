use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use opencharacter_core::{content_hash, hex};
use opencharacter_nn::{Destination, Export, LoraAdapter, Model, WeightType, save_model_folder};
use serde::{Deserialize, Serialize};

use crate::{
    Example, Method, StepOutcome, TrainConfig, TrainError, Trainer,
    checkpoint::{Checkpoints, State},
    pack,
    packing::Pack,
};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: usize,
    /// The pass over the examples, from 0.
    pub epoch: usize,
    /// Tokens seen so far.
    pub tokens: u64,
    /// Tokens trained in this step.
    pub trained_tokens: usize,
    /// Mean negative log-likelihood of this step's trained tokens, in nats.
    pub loss: f64,
    /// The learning rate used.
    pub learning_rate: f64,
    /// The gradient's norm before it was cut.
    pub gradient_norm: f64,
    /// Seconds this step took.
    pub seconds: f64,
    /// Mean negative log-likelihood over the held-out examples after this step, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy)]
pub struct TrainProgress<'a> {
    /// Steps of the whole run.
    pub total_steps: usize,
    /// The step just done.
    pub metrics: &'a StepMetrics,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The adapter is in `adapter/`.
    Done(Trained),
    /// Stopped on request after this step; a checkpoint was written, the same call goes on from it.
    Interrupted {
        /// Steps done.
        step: usize,
    },
}

/// A finished run; `training.json` holds the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Steps made.
    pub steps: usize,
    /// Tokens seen, untrained ones included.
    pub tokens: u64,
    /// Seconds spent on steps, over all sessions.
    pub seconds: f64,
    /// Trainable parameters.
    pub parameters: usize,
    /// Held-out loss before the first step, where there are held-out examples.
    pub held_out_before: Option<f64>,
    /// Held-out loss after the last step.
    pub held_out_after: Option<f64>,
    /// What was trained on what with which settings.
    pub run: String,
}

/// Trains an adapter for `model` on `examples` and writes `adapter/`, `checkpoints/`, `metrics.jsonl` and
/// `training.json` under `folder`. Called again it resumes, or returns at once when all is done.
///
/// `stop` is looked at between steps; `progress` is told of every step.
pub fn train(
    model: &Model,
    examples: &[Example],
    held_out: &[Example],
    config: &TrainConfig,
    folder: &Path,
    stop: &AtomicBool,
    progress: &(dyn Fn(TrainProgress<'_>) + Sync),
) -> Result<Outcome, TrainError> {
    config.validate()?;
    if examples.is_empty() {
        return Err(TrainError::NothingToTrain { reason: "the list of examples is empty".into() });
    }
    let run = run_hash(model, examples, held_out, config);
    if let Some(done) = finished(folder, &run, config.method) {
        return Ok(Outcome::Done(done));
    }
    let mut session = Session::open(model, examples, held_out, config, folder, run)?;
    session.run(stop, progress)
}

/// Identifies what a run trains: model, data, settings.
fn run_hash(model: &Model, examples: &[Example], held_out: &[Example], config: &TrainConfig) -> String {
    let mut parts = vec![model.fingerprint.clone(), serde_json::to_string(config).unwrap_or_default()];
    parts.extend(examples.iter().map(Example::hash));
    parts.push("held out".into());
    parts.extend(held_out.iter().map(Example::hash));
    hex(&content_hash(&parts))
}

fn finished(folder: &Path, run: &str, method: Method) -> Option<Trained> {
    let text = fs::read_to_string(folder.join("training.json")).ok()?;
    let trained: Trained = serde_json::from_str(&text).ok()?;
    (trained.run == run && is_whole(folder, method)).then_some(trained)
}

/// Whether the result of a run is there.
fn is_whole(folder: &Path, method: Method) -> bool {
    match method {
        Method::Lora => LoraAdapter::files(&folder.join("adapter")).iter().all(|path| path.exists()),
        // A model folder appears whole or not at all.
        Method::Full => folder.join("model").exists(),
    }
}

/// A run in progress.
struct Session<'a> {
    model: &'a Model,
    examples: &'a [Example],
    held_out: &'a [Example],
    config: &'a TrainConfig,
    folder: &'a Path,
    run: String,
    checkpoints: Checkpoints,
    trainer: Trainer,
    held_out_before: Option<f64>,
    steps_per_epoch: Vec<usize>,
    step: usize,
    tokens: u64,
    seconds: f64,
}

impl<'a> Session<'a> {
    fn open(
        model: &'a Model,
        examples: &'a [Example],
        held_out: &'a [Example],
        config: &'a TrainConfig,
        folder: &'a Path,
        run: String,
    ) -> Result<Self, TrainError> {
        let checkpoints = Checkpoints::new(folder.join("checkpoints"));
        let latest = checkpoints.latest(&run)?;
        let mut trainer = Trainer::new(model, config)?;
        if let Some((checkpoint, _)) = &latest {
            trainer.restore(checkpoint)?;
        }
        let state = latest.map(|(_, state)| state);
        let steps_per_epoch = (0..config.epochs)
            .map(|epoch| pack(examples, config.pack_tokens, config.seed, epoch).len().div_ceil(config.packs_per_step))
            .collect();
        // Before any step, an adapter changes nothing: this is the base model's loss.
        let held_out_before = match &state {
            Some(state) => state.held_out_before,
            None => trainer.held_out_loss(held_out)?,
        };
        let session = Self {
            model,
            examples,
            held_out,
            config,
            folder,
            run,
            checkpoints,
            trainer,
            held_out_before,
            steps_per_epoch,
            step: state.as_ref().map_or(0, |state| state.step),
            tokens: state.as_ref().map_or(0, |state| state.tokens),
            seconds: state.as_ref().map_or(0.0, |state| state.seconds),
        };
        session.rewind_metrics()?;
        Ok(session)
    }

    fn total_steps(&self) -> usize {
        self.steps_per_epoch.iter().sum()
    }

    /// Epoch of `step`, and the step's place in it.
    fn place(&self, mut step: usize) -> (usize, usize) {
        for (epoch, &steps) in self.steps_per_epoch.iter().enumerate() {
            if step < steps {
                return (epoch, step);
            }
            step -= steps;
        }
        (self.config.epochs, 0)
    }

    fn run(&mut self, stop: &AtomicBool, progress: &(dyn Fn(TrainProgress<'_>) + Sync)) -> Result<Outcome, TrainError> {
        let total = self.total_steps();
        let mut packed: Option<(usize, Vec<Pack>)> = None;
        while self.step < total {
            let (epoch, place) = self.place(self.step);
            if packed.as_ref().is_none_or(|(of, _)| *of != epoch) {
                packed = Some((epoch, pack(self.examples, self.config.pack_tokens, self.config.seed, epoch)));
            }
            let Some((_, batches)) = &packed else { unreachable!("the epoch was just packed") };
            let first = place * self.config.packs_per_step;
            let last = (first + self.config.packs_per_step).min(batches.len());
            let mut metrics = self.train_step(epoch, &batches[first..last], total)?;
            if self.is_measured(total) {
                metrics.held_out_loss = self.trainer.held_out_loss(self.held_out)?;
            }
            self.append_metrics(&metrics)?;
            progress(TrainProgress { total_steps: total, metrics: &metrics });
            let stopping = stop.load(Ordering::Relaxed) && self.step < total;
            if stopping || self.step.is_multiple_of(self.config.checkpoint_every) || self.step == total {
                self.save_checkpoint()?;
            }
            if stopping {
                return Ok(Outcome::Interrupted { step: self.step });
            }
        }
        self.finish()
    }

    fn is_measured(&self, total: usize) -> bool {
        let every = self.config.held_out_every;
        self.step == total || (every > 0 && self.step.is_multiple_of(every))
    }

    fn train_step(&mut self, epoch: usize, batches: &[Pack], total: usize) -> Result<StepMetrics, TrainError> {
        let started = Instant::now();
        let warmup = (self.config.warmup * total as f64).ceil() as usize;
        let learning_rate = self.config.learning_rate * self.config.schedule.factor(self.step, warmup, total);
        let packed: Vec<_> = batches.iter().map(|(batch, _)| batch).collect();
        let outcome = self.trainer.step(&packed, learning_rate, self.step + 1);
        let StepOutcome { loss, gradient_norm, trained_tokens, tokens } =
            outcome.map_err(|error| self.name_examples(error, batches))?;
        self.step += 1;
        self.tokens += tokens as u64;
        let seconds = started.elapsed().as_secs_f64();
        self.seconds += seconds;
        Ok(StepMetrics {
            step: self.step,
            epoch,
            tokens: self.tokens,
            trained_tokens,
            loss,
            learning_rate,
            gradient_norm,
            seconds,
            held_out_loss: None,
        })
    }

    /// The trainer knows batches, the run knows whose they are.
    fn name_examples(&self, error: TrainError, batches: &[Pack]) -> TrainError {
        let TrainError::NotFinite { loss, step, .. } = error else { return error };
        let places = batches.iter().flat_map(|(_, places)| places);
        let ids: Vec<&str> = places.map(|&place| self.examples[place].id.as_str()).collect();
        TrainError::NotFinite { loss, step, examples: ids.join(", ") }
    }

    fn save_checkpoint(&mut self) -> Result<(), TrainError> {
        let state = State {
            step: self.step,
            tokens: self.tokens,
            seconds: self.seconds,
            held_out_before: self.held_out_before,
            run: self.run.clone(),
            hash: String::new(),
        };
        self.checkpoints.save(&mut self.trainer, &self.model.path.display().to_string(), state)
    }

    fn finish(&self) -> Result<Outcome, TrainError> {
        self.write_result()?;
        let trained = Trained {
            steps: self.step,
            tokens: self.tokens,
            seconds: self.seconds,
            parameters: self.trainer.parameter_count(),
            held_out_before: self.held_out_before,
            held_out_after: self.trainer.held_out_loss(self.held_out)?,
            run: self.run.clone(),
        };
        let path = self.folder.join("training.json");
        let json = serde_json::to_string_pretty(&trained).unwrap_or_default();
        opencharacter_nn::atomic_write(&path, json.as_bytes()).map_err(|reason| TrainError::Io {
            action: "write",
            path,
            reason,
        })?;
        Ok(Outcome::Done(trained))
    }

    fn write_result(&self) -> Result<(), TrainError> {
        let base_model = self.model.path.display().to_string();
        match self.trainer.adapter() {
            Some(adapter) => Ok(adapter.save(&self.folder.join("adapter"), &base_model)?),
            None => self.write_model(),
        }
    }

    /// The trained weights as a model folder, which the export gate reads back and compares.
    fn write_model(&self) -> Result<(), TrainError> {
        let path = self.folder.join("model");
        // What a run left that was killed before it could say that it was done.
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|reason| TrainError::Io {
                action: "write",
                path: path.clone(),
                reason,
            })?;
        }
        let export =
            Export { model: self.model, decoder: self.trainer.decoder(), adapter: None, weight_type: WeightType::F32 };
        save_model_folder(Destination::folder(&path)?, &export)?;
        Ok(())
    }

    /// Drops lines of `metrics.jsonl` from after the checkpoint that is resumed from.
    fn rewind_metrics(&self) -> Result<(), TrainError> {
        let path = self.folder.join("metrics.jsonl");
        let io = |action| {
            let path = path.clone();
            move |reason| TrainError::Io { action, path, reason }
        };
        fs::create_dir_all(self.folder).map_err(io("write"))?;
        if !path.exists() {
            return Ok(());
        }
        let text = fs::read_to_string(&path).map_err(io("read"))?;
        let mut kept = String::new();
        for line in text.lines() {
            let step = serde_json::from_str::<StepMetrics>(line).map(|metrics| metrics.step);
            if step.is_ok_and(|step| step <= self.step) {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        opencharacter_nn::atomic_write(&path, kept.as_bytes()).map_err(io("write"))
    }

    fn append_metrics(&self, metrics: &StepMetrics) -> Result<(), TrainError> {
        let path = self.folder.join("metrics.jsonl");
        let mut line = serde_json::to_string(metrics).unwrap_or_default();
        line.push('\n');
        let append = || fs::OpenOptions::new().create(true).append(true).open(&path)?.write_all(line.as_bytes());
        append().map_err(|reason| TrainError::Io { action: "write", path: path.clone(), reason })
    }
}
