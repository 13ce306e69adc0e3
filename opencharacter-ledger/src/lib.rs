//! The ledger: every call to a language model, recorded once.
//!
//! **Every call goes through the [`Ledger`]**, keyed by what was asked and of whom ([`CallKey`]). A killed run is
//! resumed by running it again; recorded answers are checked again, not asked for again, so a changed rule takes
//! effect without a call. A failed call is recorded too, but is never an answer. [`LedgeredModel`] is a model that is
//! only reached this way.
//!
//! # Promises
//!
//! - When [`Ledger::append`] returns, `kill -9` cannot lose the record. A power cut loses at most the last second.
//! - On a full disk, `append` fails with [`LedgerError::Full`] and everything before it is kept.
//! - A damaged record is never taken for one: it is an error that names the file and the byte, and the file stays as
//!   it is. Only a torn end, whose writer is gone, is cut off.
//! - Memory and the time to open hardly grow with the records: 1.7 bytes per key are read and kept, and up to 196,608
//!   keys of segments that have no index yet.
//! - Any number of processes may have a directory open and append. What the others append is seen after
//!   [`Ledger::refresh`]; two that ask the same question at the same time may both pay for it, and from then on all
//!   agree on one answer.
//!
//! # Files
//!
//! A directory holds segments, which are the ledger, and what can be made from them or is gone after use:
//!
//! | file | what |
//! | --- | --- |
//! | `segment-NNNNNN.log` | Records, appended by one process, which holds a lock on it. |
//! | `segment-NNNNNN.index` | Of a segment that is finished (sealed): where each key is, and what its calls cost. |
//! | `lock` | Locked shared by whoever has it open, alone by compaction. |
//! | `compaction.json`, `compacting-NNNNNN.*` | While a compaction runs, or until the next opening if it was killed. |
//!
//! With an object store, segments are called `segment-WRITER-NNNNNN.log`, `WRITER` being 16 hexadecimal digits that
//! each opening draws, and the store holds the sealed ones under the same names. A segment is sealed at 64 MiB,
//! 65,536 records, when its ledger is closed, with an object store after a minute, and by the next opening if its
//! writer was killed.
//!
//! A record is JSON in a frame: four bytes of mark (`F5 4F 43 31`), the JSON's length, the CRC-32 of length and JSON
//! (both little-endian, 32 bits), the JSON, a line feed. Besides [`Record`]s, a segment that compaction wrote may hold
//! `{"carried": {STAGE: CallCounts, ...}}`, the cost of calls whose records were dropped. An index is described in
//! `index.rs`.
//!
//! # Which record counts
//!
//! Records are ordered by their segment's number, then its writer, then their offset. Of a key's records, the last
//! counts that judges an earlier answer anew ([`Record::rejudged`]); without one, the first success; without one, the
//! last failure. So a failure never hides an answer, whoever wrote it and whenever, and every process sees the same.

mod call;
mod compaction;
mod contents;
mod directory;
mod error;
mod filter;
mod flight;
mod frame;
mod index;
mod keeper;
mod key;
mod ledger;
mod merge;
mod precedence;
mod record;
mod remote;
#[cfg(feature = "scripted")]
pub mod scripted;
mod sealed;
mod segments;
mod show;
mod statistics;
mod stats;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use call::{CallError, LedgeredModel, Recorded};
pub use compaction::CompactionReport;
pub use error::LedgerError;
pub use key::CallKey;
pub use ledger::Ledger;
pub use record::{FailureClass, Outcome, Record};
pub use show::{RecordFilter, Records, show};
pub use statistics::{CallCounts, LedgerReport, LedgerStats};
pub use stats::{StageStats, stats};
pub use verify::{Damage, VerifyReport, verify};
