//! What a ledger holds, per stage.

use std::{
    collections::{BTreeMap, btree_map},
    io,
    path::Path,
};

use serde::Serialize;

use crate::{
    CallCounts, FailureClass, LedgerError,
    directory::{DirectoryLock, WriterId},
    precedence::Kind,
    segments::{Limits, Segments},
};

/// What one stage asked for, what it cost and what it has.
///
/// `keys` = `accepted` + all of `rejected` + `scored` + all of `failed`: of each key, the record that counts. A key
/// belongs to the stage of that record.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageStats {
    /// Calls made, and what came of them at once.
    pub calls: CallCounts,
    /// Different keys.
    pub keys: u64,
    /// Keys with an answer that passes its check.
    pub accepted: u64,
    /// Keys with an answer that does not, per rule: the reason's text before the first `: `.
    pub rejected: BTreeMap<String, u64>,
    /// Keys with a likelihood.
    pub scored: u64,
    /// Keys with nothing but failures, by the class of the last.
    pub failed: BTreeMap<FailureClass, u64>,
}

/// [`StageStats`] of each stage of the ledger in `directory`. Reads indexes, not records.
///
/// # Errors
/// Those of [`crate::Ledger::open`]; a directory that does not exist is not made.
pub fn stats(directory: impl AsRef<Path>) -> Result<BTreeMap<String, StageStats>, LedgerError> {
    let (_lock, segments) = open_to_read(directory.as_ref())?;
    let mut stages: BTreeMap<String, StageStats> =
        segments.each_key(|stages: &mut BTreeMap<_, _>, _, best, names| {
            let stage: &mut StageStats = entry(stages, names.stages.name(best.entry.stage));
            stage.keys += 1;
            match best.entry.kind {
                Kind::Accepted { .. } => stage.accepted += 1,
                Kind::Scored => stage.scored += 1,
                Kind::Failed(class) => *stage.failed.entry(class).or_default() += 1,
                Kind::Rejected { .. } => *entry(&mut stage.rejected, names.rules.name(best.entry.rule)) += 1,
            }
        })?;
    segments.state().each_statistics(|_, statistics| {
        for (stage, counts) in statistics.by_stage() {
            entry(&mut stages, stage).calls.add(counts);
        }
    });
    Ok(stages)
}

fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    match map.entry(name.to_owned()) {
        btree_map::Entry::Occupied(occupied) => occupied.into_mut(),
        btree_map::Entry::Vacant(vacant) => vacant.insert(T::default()),
    }
}

/// The segments of a directory that must be there, without what appending needs.
pub(crate) fn open_to_read(directory: &Path) -> Result<(DirectoryLock, Segments), LedgerError> {
    let lock = lock_to_read(directory)?;
    let segments = Segments::new(directory.to_owned(), WriterId::LOCAL, Limits::STANDARD);
    segments.discover()?;
    Ok((lock, segments))
}

/// The shared lock of a directory that must be there.
pub(crate) fn lock_to_read(directory: &Path) -> Result<DirectoryLock, LedgerError> {
    if !directory.is_dir() {
        return Err(LedgerError::io(directory, io::ErrorKind::NotFound.into()));
    }
    DirectoryLock::shared(directory)
}
