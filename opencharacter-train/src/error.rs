use std::{fmt, path::PathBuf};

use opencharacter_core::PromptError;
use opencharacter_cuda::DeviceError;
use opencharacter_nn::NnError;

/// What must be a finite number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// A step's loss.
    Loss,
    /// The norm of a step's gradient.
    GradientNorm,
    /// The loss on what is not trained, after the step; at step 0, before any.
    HeldOutLoss,
    /// A trained parameter after the step.
    Parameter,
}

fn on_examples(ids: &str) -> String {
    if ids.is_empty() { String::new() } else { format!(", on the examples {ids}") }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Loss => "the loss",
            Self::GradientNorm => "the gradient's norm",
            Self::HeldOutLoss => "the held-out loss",
            Self::Parameter => "a trained parameter",
        })
    }
}

/// Why training could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file could not be read or written.
    #[error("cannot {action} `{path}`: {reason}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        reason: std::io::Error,
    },
    /// Nothing is left to train on.
    #[error("no dialogue can be trained on: {reason}")]
    NothingToTrain {
        /// Why each kind of dialogue was left out.
        reason: String,
    },
    /// A setting makes no sense.
    #[error("training setting `{name}`: {reason}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it must be.
        reason: String,
    },
    /// Training has left the numbers.
    #[error(
        "{quantity} became {value} at step {step}{}; no checkpoint of that is written, earlier ones are kept. Lower the \
         learning rate and train into another folder",
        on_examples(examples)
    )]
    NotFinite {
        /// What is no number.
        quantity: Quantity,
        /// Infinite, or not a number.
        value: f64,
        /// The step, from 1.
        step: usize,
        /// Ids of the examples in the step; empty before the first one.
        examples: String,
    },
    /// A parameter would silently never be trained.
    #[error("no gradient reaches `{parameter}`; this is a bug in the model's operations, please report it")]
    NoGradient {
        /// The parameter's PEFT name.
        parameter: String,
    },
    /// The folder holds checkpoints of something else.
    #[error(
        "`{path}` holds checkpoints of a run with other data, model or settings; \
         choose another output folder, or delete that one to start anew"
    )]
    OtherRun {
        /// The checkpoints' folder.
        path: PathBuf,
    },
    /// The model refused.
    #[error(transparent)]
    Model(#[from] NnError),
    /// The tensor library refused.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The GPU refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The system prompt's template failed.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}
