//! The nouns of opencharacter and the one door to a language model.
//!
//! Everything above this crate speaks of [`Character`]s, [`Instruction`]s and [`Dialogue`]s, and reaches a
//! language model only through [`Generate`]. Nothing here reads a file or opens a connection.
//!
//! Randomness is counter-based ([`KeyedRandom`]): a draw depends on the recipe's seed and on the id of the item
//! that it is for, never on the order in which items are worked on. That is what lets a killed run resume, and a
//! concurrent one reorder, without changing a single row.

mod address;
mod character;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dialogue;
pub mod english;
mod generate;
mod id;
mod message;
mod preference;
mod prompt;
mod random;
mod split;

pub use address::without_credentials;
pub use character::{Character, Persona, Profile, ProfileField};
pub use dialogue::{Dialogue, Instruction, Provenance, SourceNote, Strategy, Turn};
pub use generate::{
    BoxFuture, Completion, FinishReason, Generate, GenerateError, GenerateRequest, LikelyToken, Sampling, Score,
    ScoreRequest, TextSink, TokenLogProb,
};
pub use id::{content_hash, hex, short_id};
pub use message::{Message, Role};
pub use preference::PreferencePair;
pub use prompt::{PromptError, PromptTemplate, SystemPrompt};
pub use random::KeyedRandom;
pub use split::{HeldOut, hold_out};
