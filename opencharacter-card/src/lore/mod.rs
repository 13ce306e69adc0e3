//! Which entries of lorebooks enter a prompt, where, and why; which do not, and why not.

mod activation;
mod candidate;
mod groups;
mod history;
mod insertion;
mod scan;
mod settings;
mod trace;

pub(crate) use activation::{LoreInput, activate};
pub(crate) use insertion::{Activated, Lore, Rank};
pub use trace::{Because, LeftOut, LorePlace, LoreTrace, Outcome};
