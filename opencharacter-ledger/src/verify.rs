//! Checking a ledger byte for byte.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    CallKey, FailureClass, LedgerError,
    contents::Contents,
    directory::{self, SegmentId},
    frame::{Frames, Step},
    index::{self, Index},
    precedence::Kind,
    record::Payload,
    sealed::Sealed,
    stats::lock_to_read,
};

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Segments read.
    pub segments: usize,
    /// Those of them with an index that says what the segment says.
    pub indexed: usize,
    /// Whole records: `accepted` + `rejected` + `scored` + all of `failed`.
    pub records: u64,
    /// Records of an answer that passed its check.
    pub accepted: u64,
    /// Records of one that did not.
    pub rejected: u64,
    /// Records of a likelihood.
    pub scored: u64,
    /// Records of a failure.
    pub failed: BTreeMap<FailureClass, u64>,
    /// Those of `accepted` and `rejected` that are an earlier answer judged anew and cost no call.
    pub rejudged: u64,
    /// Different keys.
    pub keys: u64,
    /// How many keys took how many calls.
    pub keys_by_calls: BTreeMap<u32, u64>,
    /// Calls of a key behind its first success: paid for twice.
    pub repeated_calls: u64,
    /// Bytes at the ends of segments, whose writers are gone, that are no whole record. The next opening cuts them off.
    pub torn_bytes: u64,
    /// Segments that a process appends to now; they were read up to their last whole record.
    pub live_writers: usize,
    /// What is damaged.
    pub damage: Vec<Damage>,
}

/// A place in a file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

impl VerifyReport {
    /// Whether nothing is damaged and every record is counted once.
    pub fn is_sound(&self) -> bool {
        let outcomes = self.accepted + self.rejected + self.scored + self.failed.values().sum::<u64>();
        let calls: u64 = self.keys_by_calls.iter().map(|(calls, keys)| u64::from(*calls) * keys).sum();
        self.damage.is_empty()
            && self.records == outcomes
            && self.records == calls + self.rejudged
            && self.keys == self.keys_by_calls.values().sum::<u64>()
    }
}

/// Reads every record of the ledger in `directory` and compares every index with its segment. Changes nothing, but
/// finishes a compaction that was killed after its decision.
///
/// Damage is reported, and reading goes on behind it. Memory holds up to 120 bytes per key.
///
/// # Errors
/// [`LedgerError::Locked`] while it is compacted, [`LedgerError::Io`] for what cannot be read at all.
pub fn verify(directory: impl AsRef<Path>) -> Result<VerifyReport, LedgerError> {
    let directory = directory.as_ref();
    let _lock = lock_to_read(directory)?;
    let segments = directory::segments(directory)?;
    let mut verification = Verification::default();
    for id in &segments {
        verification.segment(directory, *id)?;
    }
    for id in directory::indexes(directory)? {
        if segments.binary_search(&id).is_err() {
            verification.damaged(&id.index(directory), 0, "its segment is missing");
        }
    }
    Ok(verification.finish())
}

#[derive(Default)]
struct Verification {
    report: VerifyReport,
    keys: HashMap<CallKey, KeyCalls>,
}

#[derive(Default)]
struct KeyCalls {
    calls: u32,
    has_succeeded: bool,
}

impl Verification {
    fn damaged(&mut self, path: &Path, offset: u64, reason: impl Into<String>) {
        self.report.damage.push(Damage { path: path.to_owned(), offset, reason: reason.into() });
    }

    fn segment(&mut self, directory: &Path, id: SegmentId) -> Result<(), LedgerError> {
        let path = id.log(directory);
        self.report.segments += 1;
        // Before the records are read: one that ends meanwhile leaves nothing torn.
        let is_live = is_locked(&path)?;
        self.report.live_writers += usize::from(is_live);
        let damage_before = self.report.damage.len();
        let (contents, torn) = self.records(&path)?;
        if torn > 0 && Sealed::open(directory, id)?.is_some() {
            // Its index fits its length: it was whole once.
            self.damaged(&path, contents.length, "the last record is damaged");
        } else if !is_live {
            self.report.torn_bytes += torn;
        }
        if self.report.damage.len() == damage_before {
            self.index(&id.index(directory), &contents)?;
        }
        Ok(())
    }

    /// Counts a segment's whole records; returns how many bytes behind the last one are none.
    fn records(&mut self, path: &Path) -> Result<(Contents, u64), LedgerError> {
        let failed = |source| LedgerError::io(path, source);
        let mut contents = Contents::default();
        let mut frames = Frames::open(path, 0).map_err(failed)?;
        loop {
            match frames.next().map_err(failed)? {
                Step::End => return Ok((contents, 0)),
                Step::Frame(span, payload) => {
                    if let Err(reason) = contents.add_payload(span, payload) {
                        self.damaged(path, span.offset, reason);
                    } else if let Ok(Payload::Record(head)) = Payload::parse(payload) {
                        self.count(head.key, Kind::of(&head));
                    }
                }
                Step::Damaged(offset, reason) => match frames.skip_damage().map_err(failed)? {
                    Some(_) => self.damaged(path, offset, reason),
                    None => return Ok((contents, frames.end() - offset)),
                },
            }
        }
    }

    fn count(&mut self, key: CallKey, kind: Kind) {
        let report = &mut self.report;
        report.records += 1;
        match kind {
            Kind::Accepted { .. } => report.accepted += 1,
            Kind::Rejected { .. } => report.rejected += 1,
            Kind::Scored => report.scored += 1,
            Kind::Failed(class) => *report.failed.entry(class).or_default() += 1,
        }
        let calls = self.keys.entry(key).or_default();
        if matches!(kind, Kind::Accepted { rejudged: true } | Kind::Rejected { rejudged: true }) {
            report.rejudged += 1;
            return;
        }
        calls.calls += 1;
        report.repeated_calls += u64::from(calls.has_succeeded);
        calls.has_succeeded |= kind.is_success();
    }

    /// Compares an index with what its segment says, byte for byte.
    fn index(&mut self, path: &Path, contents: &Contents) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::io(path, source);
        if !path.exists() {
            return Ok(());
        }
        let bytes = fs::read(path).map_err(failed)?;
        let expected = index::encode(contents).map_err(failed)?;
        match bytes.iter().zip(&expected).position(|(found, expected)| found != expected) {
            Some(offset) => self.damaged(path, offset as u64, "it does not say what its segment says"),
            None if bytes.len() != expected.len() => {
                self.damaged(path, bytes.len().min(expected.len()) as u64, "its length is not what was written");
            }
            None if Index::read(path, contents.length).map_err(failed)?.is_none() => {
                self.damaged(path, 0, "it cannot be read");
            }
            None => self.report.indexed += 1,
        }
        Ok(())
    }

    fn finish(self) -> VerifyReport {
        let mut report = self.report;
        report.keys = self.keys.len() as u64;
        for calls in self.keys.into_values() {
            *report.keys_by_calls.entry(calls.calls).or_default() += 1;
        }
        report
    }
}

/// Whether a process appends to the segment.
fn is_locked(path: &Path) -> Result<bool, LedgerError> {
    let failed = |source| LedgerError::io(path, source);
    match File::open(path).map_err(failed)?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
