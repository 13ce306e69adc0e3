use std::rc::Rc;

use opencharacter_core::{content_hash, hex};
use opencharacter_cuda::Device;
use opencharacter_nn::{LoraAdapter, Model};

use crate::{Example, Method, Pack, PreferenceExample, TrainConfig, TrainError, pack};

/// What a run trains, from what, on what.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The base model.
    pub model: &'a Model,
    /// The adapter to go on from; a fresh one where absent.
    pub start: Option<&'a LoraAdapter>,
    /// What is learned.
    pub task: Task<'a>,
    /// The settings; of `lora`, only the dropout counts where there is a `start`.
    pub config: &'a TrainConfig,
    /// Where it is trained, if not here. The run is the same one: it may go on elsewhere, with other rounding.
    pub device: Option<&'a Rc<dyn Device>>,
}

/// What is learned, and what of it is set aside to be measured.
#[derive(Debug, Clone, Copy)]
pub enum Task<'a> {
    /// To say what dialogues say: the loss is the mean negative log-likelihood per trained token, in nats.
    Dialogues {
        /// Trained.
        train: &'a [Example],
        /// Measured, never trained.
        held_out: &'a [Example],
    },
    /// To prefer one answer to another: the loss is DPO's mean per pair.
    Preferences {
        /// Trained.
        train: &'a [PreferenceExample],
        /// Measured, never trained.
        held_out: &'a [PreferenceExample],
    },
}

impl<'a> Task<'a> {
    pub(crate) fn train(self) -> TaskData<'a> {
        match self {
            Self::Dialogues { train, .. } => TaskData::Dialogues(train),
            Self::Preferences { train, .. } => TaskData::Preferences(train),
        }
    }

    pub(crate) fn held_out(self) -> TaskData<'a> {
        match self {
            Self::Dialogues { held_out, .. } => TaskData::Dialogues(held_out),
            Self::Preferences { held_out, .. } => TaskData::Preferences(held_out),
        }
    }
}

/// One of a task's two sets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TaskData<'a> {
    Dialogues(&'a [Example]),
    Preferences(&'a [PreferenceExample]),
}

impl TaskData<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Dialogues(examples) => examples.len(),
            Self::Preferences(examples) => examples.len(),
        }
    }

    /// One epoch's batches.
    pub(crate) fn pack(self, config: &TrainConfig, epoch: usize) -> Vec<Pack> {
        match self {
            Self::Dialogues(examples) => pack(examples, config.pack_tokens, config.seed, epoch),
            Self::Preferences(examples) => pack(examples, config.pack_tokens, config.seed, epoch),
        }
    }

    pub(crate) fn id(&self, place: usize) -> &str {
        match self {
            Self::Dialogues(examples) => &examples[place].id,
            Self::Preferences(examples) => &examples[place].id,
        }
    }

    fn hashes(self) -> Vec<String> {
        match self {
            Self::Dialogues(examples) => examples.iter().map(Example::hash).collect(),
            Self::Preferences(examples) => {
                examples.iter().flat_map(|pair| [pair.chosen.hash(), pair.rejected.hash()]).collect()
            }
        }
    }
}

impl Job<'_> {
    /// Checks that there is something to do and that it makes sense.
    pub(crate) fn validate(&self) -> Result<(), TrainError> {
        self.config.validate()?;
        if self.start.is_some() && self.config.method == Method::Full {
            let reason = "an adapter to go on from needs the method `lora`".into();
            return Err(TrainError::Setting { name: "method", reason });
        }
        if self.task.train().len() == 0 {
            return Err(TrainError::NothingToTrain { reason: "the list of examples is empty".into() });
        }
        Ok(())
    }

    /// Identifies what the run trains: model, adapter, data, settings.
    pub(crate) fn hash(&self) -> String {
        let mut parts = vec![self.model.fingerprint.clone(), serde_json::to_string(self.config).unwrap_or_default()];
        if let Some(start) = self.start {
            let values = start.parameters().flat_map(|(_, values)| values).flat_map(|value| value.to_le_bytes());
            parts.push(format!("from {}", hex(&content_hash(&[values.collect::<Vec<u8>>()]))));
        }
        if matches!(self.task, Task::Preferences { .. }) {
            parts.push("preferences".into());
        }
        parts.extend(self.task.train().hashes());
        parts.push("held out".into());
        parts.extend(self.task.held_out().hashes());
        hex(&content_hash(&parts))
    }
}
