//! The ledger: every call to a language model, recorded once.
//!
//! **Every call goes through the [`Ledger`]**, keyed by what was asked and of whom ([`CallKey`]). A killed run is
//! resumed by running it again; recorded answers are checked again, not asked for again, so a changed rule takes
//! effect without a call. A failed call is recorded too, but is never an answer. [`LedgeredModel`] is a model that is
//! only reached this way.

mod call;
mod error;
mod ledger;
#[cfg(feature = "scripted")]
pub mod scripted;
mod segment;

pub use call::{CallError, LedgeredModel, Recorded};
pub use error::LedgerError;
pub use ledger::{CallKey, FailureClass, Ledger, LedgerReport, LedgerStats, Outcome, Record};
