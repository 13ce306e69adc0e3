//! What tuning costs: does the model still do what it is told, and still refuse what it should?
//!
//! Run both on the base and on the tuned model and compare the items with [`crate::compare`].

mod plain;
mod refusal;

pub use plain::{instruction_following_items, score_instruction_following};
pub use refusal::{refusal_items, score_refusals};
