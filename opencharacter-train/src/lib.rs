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
mod device;
mod error;
mod example;
mod masks;
mod memory;
mod optimizer;
mod packing;
mod preference;
mod profile_dropout;
mod reference;
mod schedule;
mod session;
mod task;
mod trainer;

pub use config::{Method, TrainConfig};
pub use error::{Quantity, TrainError};
pub use example::{Example, ExampleOptions, Examples, SkippedExample, build_examples};
pub use masks::{MaskedPiece, Masks, masked_pieces, show_masks};
pub use memory::MemoryEstimate;
pub use packing::{Pack, Piece, pack};
pub use preference::{PreferenceExample, build_preferences};
pub use profile_dropout::ProfileDropout;
pub use schedule::Schedule;
pub use session::{Outcome, StepMetrics, TrainProgress, Trained, train};
pub use task::{Job, Task};
pub use trainer::{StepBatch, StepOutcome, Trainer};
