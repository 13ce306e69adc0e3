//! Which entries of lorebooks enter a prompt, where, and why; which do not, and why not.

mod activation;
mod history;
mod scan;
mod settings;
mod trace;

pub(crate) use activation::{Activated, Lore, LoreInput, Rank, activate};
pub use trace::{Because, LeftOut, LorePlace, LoreTrace, Outcome};
