use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use opencharacter_nn::{Destination, Export, LoraAdapter, WeightType, save_model_folder};
use serde::{Deserialize, Serialize};

use crate::{
    Job, Method, Pack, Quantity, StepBatch, StepOutcome, Task, TrainError, Trainer,
    checkpoint::{Checkpoints, State},
    reference::References,
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
    /// This step's mean loss: see [`crate::Task`].
    pub loss: f64,
    /// Share of this step's pairs whose chosen answer has gained on the rejected one since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred: Option<f64>,
    /// The learning rate used.
    pub learning_rate: f64,
    /// The gradient's norm before it was cut.
    pub gradient_norm: f64,
    /// Seconds this step took.
    pub seconds: f64,
    /// The held-out examples' mean loss after this step, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy)]
pub enum TrainProgress<'a> {
    /// The reference's log-ratios are being computed.
    Reference {
        /// Pairs done.
        done: usize,
        /// Pairs in all.
        total: usize,
    },
    /// A checkpoint that is damaged is passed over: training resumes from the one before it, or from the beginning.
    Damaged {
        /// The checkpoint.
        folder: &'a Path,
    },
    /// All memory that training takes on its device is taken.
    Reserved {
        /// Bytes of it.
        bytes: usize,
    },
    /// A step was made.
    Step {
        /// Steps of the whole run.
        total: usize,
        /// The step just done.
        metrics: &'a StepMetrics,
    },
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

/// Does `job` and writes `adapter/` (or `model/`), `checkpoints/`, `metrics.jsonl` and `training.json` under `folder`.
/// Called again it resumes, or returns at once when all is done.
///
/// `stop` is looked at between steps; `progress` is told of every step.
pub fn train(
    job: Job<'_>,
    folder: &Path,
    stop: &AtomicBool,
    progress: &(dyn Fn(TrainProgress<'_>) + Sync),
) -> Result<Outcome, TrainError> {
    job.validate()?;
    let run = job.hash();
    if let Some(done) = finished(folder, &run, job.config.method) {
        return Ok(Outcome::Done(done));
    }
    let mut trainer = Trainer::on(job.device, &job.model.decoder, job.start, job.config)?;
    if let Some(bytes) = trainer.reserve(|| largest_batch(&job))? {
        progress(TrainProgress::Reserved { bytes });
    }
    let going = |done, total| {
        progress(TrainProgress::Reference { done, total });
        !stop.load(Ordering::Relaxed)
    };
    let references = References::complete(&job, &run, folder, |batch| trainer.log_ratios(batch), going)?;
    let Some(references) = references else { return Ok(Outcome::Interrupted { step: 0 }) };
    let checkpoints = Checkpoints::new(folder.join("checkpoints"));
    let state = match checkpoints.latest(&run, |folder| progress(TrainProgress::Damaged { folder }))? {
        Some((checkpoint, state)) => {
            trainer.restore(&checkpoint)?;
            Some(state)
        }
        None => None,
    };
    Session::open(job, folder, run, checkpoints, trainer, references, state.as_ref())?.run(stop, progress)
}

/// Tokens of the largest batch that will be passed.
fn largest_batch(job: &Job<'_>) -> usize {
    let trained = (0..job.config.epochs).map(|epoch| job.task.train().pack(job.config, epoch));
    let batches = trained.chain([job.task.held_out().pack(job.config, 0)]).flatten();
    batches.map(|(batch, _)| batch.tokens.len()).max().unwrap_or(0)
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
    job: Job<'a>,
    folder: &'a Path,
    run: String,
    checkpoints: Checkpoints,
    trainer: Trainer,
    references: References,
    held_out_before: Option<f64>,
    steps_per_epoch: Vec<usize>,
    step: usize,
    tokens: u64,
    seconds: f64,
}

impl<'a> Session<'a> {
    fn open(
        job: Job<'a>,
        folder: &'a Path,
        run: String,
        checkpoints: Checkpoints,
        trainer: Trainer,
        references: References,
        state: Option<&State>,
    ) -> Result<Self, TrainError> {
        let data = job.task.train();
        let steps_per_epoch = (0..job.config.epochs)
            .map(|epoch| data.pack(job.config, epoch).len().div_ceil(job.config.packs_per_step))
            .collect();
        let mut session = Self {
            job,
            folder,
            run,
            checkpoints,
            trainer,
            references,
            held_out_before: state.and_then(|state| state.held_out_before),
            steps_per_epoch,
            step: state.map_or(0, |state| state.step),
            tokens: state.map_or(0, |state| state.tokens),
            seconds: state.map_or(0.0, |state| state.seconds),
        };
        session.rewind_metrics()?;
        if state.is_none() {
            // Before any step, this is the loss of the model that training starts from.
            session.held_out_before = session.held_out_loss(&[])?;
        }
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
        (self.job.config.epochs, 0)
    }

    fn run(&mut self, stop: &AtomicBool, progress: &(dyn Fn(TrainProgress<'_>) + Sync)) -> Result<Outcome, TrainError> {
        let total = self.total_steps();
        let mut packed: Option<(usize, Vec<Pack>)> = None;
        while self.step < total {
            let (epoch, place) = self.place(self.step);
            if packed.as_ref().is_none_or(|(of, _)| *of != epoch) {
                packed = Some((epoch, self.job.task.train().pack(self.job.config, epoch)));
            }
            let Some((_, batches)) = &packed else { unreachable!("the epoch was just packed") };
            let first = place * self.job.config.packs_per_step;
            let last = (first + self.job.config.packs_per_step).min(batches.len());
            let mut metrics = self.train_step(epoch, &batches[first..last], total)?;
            if self.is_measured(total) {
                metrics.held_out_loss = self.held_out_loss(&batches[first..last])?;
            }
            self.append_metrics(&metrics)?;
            progress(TrainProgress::Step { total, metrics: &metrics });
            let stopping = stop.load(Ordering::Relaxed) && self.step < total;
            if stopping || self.step.is_multiple_of(self.job.config.checkpoint_every) || self.step == total {
                self.save_checkpoint(&batches[first..last])?;
            }
            if stopping {
                return Ok(Outcome::Interrupted { step: self.step });
            }
        }
        self.finish()
    }

    /// The held-out loss after a step on `batches`, which has to be a number.
    fn held_out_loss(&self, batches: &[Pack]) -> Result<Option<f64>, TrainError> {
        let loss = self.trainer.held_out_loss(self.job.task.held_out(), &self.references)?;
        match loss.filter(|loss| !loss.is_finite()) {
            Some(value) => Err(self.diverged(Quantity::HeldOutLoss, value, batches)),
            None => Ok(loss),
        }
    }

    fn is_measured(&self, total: usize) -> bool {
        let every = self.job.config.held_out_every;
        self.step == total || (every > 0 && self.step.is_multiple_of(every))
    }

    fn train_step(&mut self, epoch: usize, batches: &[Pack], total: usize) -> Result<StepMetrics, TrainError> {
        let started = Instant::now();
        let config = self.job.config;
        let warmup = (config.warmup * total as f64).ceil() as usize;
        let learning_rate = config.learning_rate * config.schedule.factor(self.step, warmup, total);
        let references: Vec<Vec<f64>> = batches.iter().map(|(_, places)| self.references_of(places)).collect();
        let step: Vec<StepBatch<'_>> = batches
            .iter()
            .zip(&references)
            .map(|((batch, _), reference)| match self.job.task {
                Task::Dialogues { .. } => StepBatch::Dialogues(batch),
                Task::Preferences { .. } => StepBatch::Preferences { batch, reference },
            })
            .collect();
        let outcome = self.trainer.step(&step, learning_rate, self.step + 1);
        let StepOutcome { loss, preferred, gradient_norm, trained_tokens, tokens } =
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
            preferred,
            learning_rate,
            gradient_norm,
            seconds,
            held_out_loss: None,
        })
    }

    /// The reference's log-ratios of the pairs at `places`; none where the task has no reference.
    fn references_of(&self, places: &[usize]) -> Vec<f64> {
        match self.job.task {
            Task::Dialogues { .. } => Vec::new(),
            Task::Preferences { .. } => places.iter().map(|&place| self.references.train[place]).collect(),
        }
    }

    /// The trainer knows batches, the run knows whose they are.
    fn name_examples(&self, error: TrainError, batches: &[Pack]) -> TrainError {
        let TrainError::NotFinite { quantity, value, step, .. } = error else { return error };
        TrainError::NotFinite { quantity, value, step, examples: self.ids(batches) }
    }

    /// Something is no number after the step on `batches`.
    fn diverged(&self, quantity: Quantity, value: f64, batches: &[Pack]) -> TrainError {
        TrainError::NotFinite { quantity, value, step: self.step, examples: self.ids(batches) }
    }

    fn ids(&self, batches: &[Pack]) -> String {
        let data = self.job.task.train();
        let ids: Vec<&str> = batches.iter().flat_map(|(_, places)| places).map(|&place| data.id(place)).collect();
        ids.join(", ")
    }

    /// Writes a checkpoint after a step on `batches`, unless that step left what is no number.
    fn save_checkpoint(&mut self, batches: &[Pack]) -> Result<(), TrainError> {
        if let Some(value) = self.trainer.pull()? {
            return Err(self.diverged(Quantity::Parameter, value.into(), batches));
        }
        let state = State {
            step: self.step,
            tokens: self.tokens,
            seconds: self.seconds,
            held_out_before: self.held_out_before,
            run: self.run.clone(),
            hash: String::new(),
        };
        self.checkpoints.save(&mut self.trainer, &self.job.model.path.display().to_string(), state)
    }

    fn finish(&self) -> Result<Outcome, TrainError> {
        self.write_result()?;
        let trained = Trained {
            steps: self.step,
            tokens: self.tokens,
            seconds: self.seconds,
            parameters: self.trainer.parameter_count(),
            held_out_before: self.held_out_before,
            held_out_after: self.held_out_loss(&[])?,
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
        let base_model = self.job.model.path.display().to_string();
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
        let model = self.job.model;
        let export = Export { model, decoder: self.trainer.decoder(), adapter: None, weight_type: WeightType::F32 };
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
