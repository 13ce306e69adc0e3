//! Reading a ledger's records, oldest first.

use std::{ops::ControlFlow, path::Path};

use crate::{
    CallKey, LedgerError, Record,
    directory::{self, DirectoryLock, SegmentId},
    frame::{Frames, Step},
    record::{Payload, RecordHead},
    stats::{lock_to_read, open_to_read},
};

/// Which records are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordFilter {
    /// Every one.
    All,
    /// Those of the one key that begins with these hexadecimal digits.
    Key(String),
    /// Those of the item with this id.
    Item(String),
    /// Those of this stage.
    Stage(String),
}

impl RecordFilter {
    fn accepts(&self, head: &RecordHead<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Key(prefix) => head.key.to_string().starts_with(prefix),
            Self::Item(item) => head.item == *item,
            Self::Stage(stage) => head.stage == *stage,
        }
    }
}

/// The records of the ledger in `directory` that `filter` wants: in the order of the segments, in each as appended.
///
/// The records of live writers are read up to the last whole one. A damaged record gives an error, and reading goes on
/// with the next whole one.
///
/// # Errors
/// [`LedgerError::KeyPrefix`] if no key or more than one begins so; those of [`crate::Ledger::open`].
pub fn show(directory: impl AsRef<Path>, filter: RecordFilter) -> Result<Records, LedgerError> {
    let directory = directory.as_ref();
    let filter = match filter {
        RecordFilter::Key(prefix) => RecordFilter::Key(only_key(directory, &prefix)?.to_string()),
        other => other,
    };
    let lock = lock_to_read(directory)?;
    let mut segments = directory::segments(directory)?;
    segments.reverse();
    Ok(Records { directory: directory.to_owned(), filter, segments, frames: None, _lock: lock })
}

/// The one key that begins with `prefix`.
fn only_key(directory: &Path, prefix: &str) -> Result<CallKey, LedgerError> {
    let prefix = prefix.to_lowercase();
    if let Ok(key) = prefix.parse() {
        return Ok(key);
    }
    let (_lock, segments) = open_to_read(directory)?;
    let (first, count) = segments.each_key(|(first, count): &mut (Option<CallKey>, usize), key, _, _| {
        if key.to_string().starts_with(&prefix) {
            first.get_or_insert(key);
            *count += 1;
        }
    })?;
    match (first, count) {
        (Some(key), 1) => Ok(key),
        (_, 0) => Err(LedgerError::KeyPrefix { prefix, reason: "begins no key of this ledger".into() }),
        _ => Err(LedgerError::KeyPrefix { prefix, reason: format!("begins {count} keys") }),
    }
}

/// Records one after another; see [`show`].
pub struct Records {
    directory: std::path::PathBuf,
    filter: RecordFilter,
    /// Those still to be read, the next one last.
    segments: Vec<SegmentId>,
    frames: Option<(SegmentId, Frames)>,
    // Held for its lock.
    _lock: DirectoryLock,
}

impl Iterator for Records {
    type Item = Result<Record, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (id, mut frames) = if let Some(open) = self.frames.take() {
                open
            } else {
                let id = self.segments.pop()?;
                match Frames::open(&id.log(&self.directory), 0) {
                    Ok(frames) => (id, frames),
                    Err(source) => return Some(Err(LedgerError::io(&id.log(&self.directory), source))),
                }
            };
            match self.read(id, &mut frames) {
                ControlFlow::Break(Ok(record)) => {
                    self.frames = Some((id, frames));
                    return Some(Ok(record));
                }
                ControlFlow::Break(Err(error)) => {
                    if matches!(error, LedgerError::Corrupt { .. }) {
                        self.frames = Some((id, frames));
                    }
                    return Some(Err(error));
                }
                ControlFlow::Continue(()) => {}
            }
        }
    }
}

impl Records {
    /// The next record of a segment that is wanted; goes on at its end.
    fn read(&self, id: SegmentId, frames: &mut Frames) -> ControlFlow<Result<Record, LedgerError>> {
        let path = id.log(&self.directory);
        let failed = |source| ControlFlow::Break(Err(LedgerError::io(&path, source)));
        let corrupt =
            |offset, reason| ControlFlow::Break(Err(LedgerError::Corrupt { path: path.clone(), offset, reason }));
        loop {
            let (span, payload) = match frames.next() {
                Err(source) => return failed(source),
                Ok(Step::End) => return ControlFlow::Continue(()),
                Ok(Step::Frame(span, payload)) => (span, payload),
                Ok(Step::Damaged(offset, reason)) => match frames.skip_damage() {
                    Err(source) => return failed(source),
                    // A torn end.
                    Ok(None) => return ControlFlow::Continue(()),
                    Ok(Some(_)) => return corrupt(offset, reason.to_owned()),
                },
            };
            match Payload::parse(payload) {
                Err(reason) => return corrupt(span.offset, reason),
                Ok(Payload::Record(head)) if self.filter.accepts(&head) => {
                    return match serde_json::from_slice(payload) {
                        Ok(record) => ControlFlow::Break(Ok(record)),
                        Err(error) => corrupt(span.offset, error.to_string()),
                    };
                }
                Ok(_) => {}
            }
        }
    }
}
