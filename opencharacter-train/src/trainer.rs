use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use opencharacter_core::{content_hash, hex};
use opencharacter_nn::{
    Adapter, Gradients, LoraAdapter, LoraConfig, Model, Parameter, TokenWeights, Trainable, loss_and_gradients,
    token_losses,
};
use serde::{Deserialize, Serialize};

use crate::{
    Example, Schedule, TrainError,
    checkpoint::{Checkpoints, State, load_moments},
    optimizer::AdamW,
    pack,
    packing::Pack,
};

/// Settings of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the examples.
    pub epochs: usize,
    /// Tokens in one packed batch.
    pub pack_tokens: usize,
    /// Packed batches in one step (gradient accumulation).
    pub packs_per_step: usize,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// How it falls.
    pub schedule: Schedule,
    /// Share of all steps in which it rises.
    pub warmup: f64,
    /// Decay of the two moments.
    pub betas: (f64, f64),
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient's norm is cut to this.
    pub max_gradient_norm: f64,
    /// The adapter.
    pub lora: LoraConfig,
    /// Decides initial weights and order.
    pub seed: u64,
    /// Longer dialogues are left out and named.
    pub max_example_tokens: usize,
    /// Steps between two measurements of the held-out loss; 0 measures only before and after.
    pub held_out_every: usize,
    /// Steps between two checkpoints.
    pub checkpoint_every: usize,
    /// Compute blocks again on the way back instead of keeping their activations.
    pub recompute: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 2,
            pack_tokens: 1024,
            packs_per_step: 1,
            learning_rate: 5e-4,
            schedule: Schedule::Cosine,
            warmup: 0.1,
            // The paper's (section 2 of its appendix, secondary).
            betas: (0.9, 0.95),
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
            lora: LoraConfig::default(),
            seed: 0,
            max_example_tokens: 1024,
            held_out_every: 20,
            checkpoint_every: 10,
            recompute: false,
        }
    }
}

impl TrainConfig {
    fn validate(&self) -> Result<(), TrainError> {
        let at_least_one = [
            ("epochs", self.epochs),
            ("pack_tokens", self.pack_tokens),
            ("packs_per_step", self.packs_per_step),
            ("lora.rank", self.lora.rank),
            ("checkpoint_every", self.checkpoint_every),
        ];
        if let Some((name, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(TrainError::Setting { name, reason: "must be at least 1".into() });
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(TrainError::Setting { name: "learning_rate", reason: "must be above 0".into() });
        }
        if !(0.0..1.0).contains(&self.warmup) {
            return Err(TrainError::Setting { name: "warmup", reason: "must be from 0 to below 1".into() });
        }
        if self.lora.targets.is_empty() {
            return Err(TrainError::Setting { name: "lora.targets", reason: "must name at least one layer".into() });
        }
        Ok(())
    }
}

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

/// A measurement of the held-out loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOutPoint {
    /// Steps done before it.
    pub step: usize,
    /// Mean negative log-likelihood per trained token, in nats.
    pub loss: f64,
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

/// Mean negative log-likelihood per trained token over `examples`, in nats; nothing for no examples.
pub fn held_out_loss(
    model: &Model,
    adapter: Adapter<'_>,
    examples: &[Example],
    pack_tokens: usize,
) -> Result<Option<f64>, TrainError> {
    let mut sum = 0.0;
    let mut count = 0;
    for (batch, _) in pack(examples, pack_tokens, 0, 0) {
        let losses = token_losses(&model.decoder, &batch, adapter)?;
        sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        count += losses.len();
    }
    Ok((count > 0).then(|| sum / count as f64))
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
    if let Some(done) = finished(folder, &run) {
        return Ok(Outcome::Done(done));
    }
    let mut session = Session::open(model, examples, held_out, config, folder, run)?;
    // On a thread of the pool itself, which saves a hand-over in every parallel loop.
    rayon::scope(|_| session.run(stop, progress))
}

/// Identifies what a run trains: model, data, settings.
fn run_hash(model: &Model, examples: &[Example], held_out: &[Example], config: &TrainConfig) -> String {
    let mut parts = vec![model.fingerprint.clone(), serde_json::to_string(config).unwrap_or_default()];
    parts.extend(examples.iter().map(Example::hash));
    parts.push("held out".into());
    parts.extend(held_out.iter().map(Example::hash));
    hex(&content_hash(&parts))
}

fn finished(folder: &Path, run: &str) -> Option<Trained> {
    let text = fs::read_to_string(folder.join("training.json")).ok()?;
    let trained: Trained = serde_json::from_str(&text).ok()?;
    let whole = LoraAdapter::files(&folder.join("adapter")).iter().all(|path| path.exists());
    (trained.run == run && whole).then_some(trained)
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
    adapter: LoraAdapter,
    /// Of the step in progress; kept from step to step for their memory.
    gradients: Gradients,
    optimizer: AdamW,
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
        let adapter = match &latest {
            Some((checkpoint, _)) => LoraAdapter::load(checkpoint, model.decoder.config())?,
            None => LoraAdapter::new(config.lora.clone(), model.decoder.config(), config.seed),
        };
        let gradients = adapter.gradients();
        let mut optimizer = AdamW::new(&gradients, config.betas, config.weight_decay);
        if let Some((checkpoint, _)) = &latest {
            optimizer.restore(&load_moments(checkpoint)?)?;
        }
        let state = latest.map(|(_, state)| state);
        let steps_per_epoch = (0..config.epochs)
            .map(|epoch| pack(examples, config.pack_tokens, config.seed, epoch).len().div_ceil(config.packs_per_step))
            .collect();
        let session = Self {
            model,
            examples,
            held_out,
            config,
            folder,
            run,
            checkpoints,
            adapter,
            gradients,
            optimizer,
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
                metrics.held_out_loss = self.measure(Adapter::Packed(&self.adapter.pack()))?;
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

    fn measure(&self, adapter: Adapter<'_>) -> Result<Option<f64>, TrainError> {
        held_out_loss(self.model, adapter, self.held_out, self.config.pack_tokens)
    }

    fn train_step(&mut self, epoch: usize, batches: &[Pack], total: usize) -> Result<StepMetrics, TrainError> {
        let started = Instant::now();
        self.gradients.clear();
        let mut loss_sum = 0.0;
        let mut trained_tokens = 0;
        let mut tokens = 0;
        for (batch, _) in batches {
            let losses = loss_and_gradients(
                &self.model.decoder,
                Trainable::Lora(&self.adapter),
                batch,
                TokenWeights::Equal,
                self.config.recompute,
                &mut self.gradients,
            )?;
            loss_sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            trained_tokens += losses.len();
            tokens += batch.tokens.len() as u64;
        }
        // One mean over all trained tokens of the step: a mean of means would weigh short batches more.
        let scale = 1.0 / trained_tokens as f64;
        let loss = loss_sum * scale;
        let gradient_norm = norm(self.gradients.iter().map(|(_, gradient)| gradient)) * scale;
        self.check_finite(loss, gradient_norm, batches)?;
        if self.step == 0 {
            self.check_gradients()?;
        }
        let clip = (self.config.max_gradient_norm / gradient_norm.max(1e-12)).min(1.0);
        let warmup = (self.config.warmup * total as f64).ceil() as usize;
        let learning_rate = self.config.learning_rate * self.config.schedule.factor(self.step, warmup, total);
        let parameters = self.adapter.parameters_mut();
        self.optimizer.step(parameters, &self.gradients, scale * clip, learning_rate, self.step + 1);
        self.step += 1;
        self.tokens += tokens;
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

    fn check_finite(&self, loss: f64, norm: f64, batches: &[Pack]) -> Result<(), TrainError> {
        if loss.is_finite() && norm.is_finite() {
            return Ok(());
        }
        let ids: Vec<&str> =
            batches.iter().flat_map(|(_, places)| places).map(|&place| self.examples[place].id.as_str()).collect();
        Err(TrainError::NotFinite {
            loss: if loss.is_finite() { norm } else { loss },
            step: self.step + 1,
            examples: ids.join(", "),
        })
    }

    /// At the first step `B` is zero, so the gradient of `A` is too; that of every `B` must not be.
    fn check_gradients(&self) -> Result<(), TrainError> {
        for (parameter, gradient) in self.gradients.iter() {
            if !matches!(parameter, Parameter::LoraA(..)) && norm([gradient]) == 0.0 {
                return Err(TrainError::NoGradient { parameter: parameter.name() });
            }
        }
        Ok(())
    }

    fn save_checkpoint(&self) -> Result<(), TrainError> {
        let state = State {
            step: self.step,
            tokens: self.tokens,
            seconds: self.seconds,
            run: self.run.clone(),
            hash: String::new(),
        };
        self.checkpoints.save(&self.adapter, &self.optimizer, &self.base_model(), state)
    }

    fn base_model(&self) -> String {
        self.model.path.display().to_string()
    }

    fn finish(&self) -> Result<Outcome, TrainError> {
        self.adapter.save(&self.folder.join("adapter"), &self.base_model())?;
        let trained = Trained {
            steps: self.step,
            tokens: self.tokens,
            seconds: self.seconds,
            parameters: self.adapter.parameter_count(),
            held_out_before: self.measure(Adapter::Base)?,
            held_out_after: self.measure(Adapter::Packed(&self.adapter.pack()))?,
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

fn norm<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let square = |values: &[f32]| values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
    gradients.into_iter().map(square).sum::<f64>().sqrt()
}
