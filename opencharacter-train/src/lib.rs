//! Supervised fine-tuning of a low-rank adapter on dialogues.
//!
//! Examples carry their own marks of what is trained ([`Example`]), sequences are packed end to end and never see
//! each other, a step's gradient is the sum over its trained tokens divided by their number, and everything that
//! decides the next step (weights, moments, place in the data) is in the checkpoint. A run that was stopped anywhere
//! and resumed writes the same adapter, bit for bit, as one that was not.
//!
//! The order of the data is a function of seed and epoch alone, so a checkpoint needs to hold no random state.

mod checkpoint;
mod config;
mod error;
mod example;
mod masks;
mod optimizer;
mod packing;
mod schedule;
mod session;
mod trainer;

pub use config::{Method, TrainConfig};
pub use error::TrainError;
pub use example::{Example, Examples, SkippedExample, build_examples};
pub use masks::{Masks, show_masks};
pub use packing::{Pack, pack};
pub use schedule::Schedule;
pub use session::{Outcome, StepMetrics, TrainProgress, Trained, train};
pub use trainer::{StepOutcome, Trainer, held_out_loss};
