//! What one segment holds: a key's place, and what its records add up to.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    path::Path,
};

use crate::{
    CallKey, LedgerError,
    directory::{SegmentId, WriterId},
    frame::{Frames, Span, Step},
    precedence::{Entry, Kind, prevails},
    record::{Payload, RecordHead},
    statistics::{CallCounts, SegmentStatistics},
};

#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    /// Of each key, the record that counts among those of this segment.
    entries: HashMap<CallKey, Entry>,
    pub(crate) statistics: SegmentStatistics,
    /// Where the last whole record ends.
    pub(crate) length: u64,
}

/// What lies behind a segment's last whole record.
pub(crate) enum Tail {
    /// Nothing.
    Clean,
    /// So many bytes that are no whole record: interrupted while it was written, or being written now.
    Torn(u64),
}

impl Contents {
    /// Takes the record at `span` in, which must be the last one.
    pub(crate) fn add(&mut self, head: &RecordHead<'_>, span: Span) {
        let stage = self.statistics.stages.number(&head.stage);
        let rule = head.rule().map_or(0, |rule| self.statistics.rules.number(rule));
        self.statistics.count(stage, &CallCounts::of(head));
        self.length = span.end();
        let entry = Entry { span, kind: Kind::of(head), stage, rule };
        match self.entries.entry(head.key) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            hash_map::Entry::Occupied(mut occupied) => {
                if prevails(place(entry), place(*occupied.get())) {
                    occupied.insert(entry);
                }
            }
        }
    }

    /// Takes in calls that compaction carried over, written at `span`.
    pub(crate) fn carry(&mut self, carried: &BTreeMap<String, CallCounts>, span: Span) {
        self.statistics.carry(carried);
        self.length = span.end();
    }

    /// Takes in the frame at `span`.
    pub(crate) fn add_payload(&mut self, span: Span, payload: &[u8]) -> Result<(), String> {
        match Payload::parse(payload)? {
            Payload::Record(head) => self.add(&head, span),
            Payload::Carried(carried) => self.carry(&carried.carried, span),
        }
        Ok(())
    }

    /// Reads on from where it stands to the last whole record of the segment at `path`.
    ///
    /// A damaged record that whole ones follow is an error: leaving out the rest would lose them.
    pub(crate) fn read_on(&mut self, path: &Path) -> Result<Tail, LedgerError> {
        let failed = |source| LedgerError::io(path, source);
        let corrupt = |offset, reason| LedgerError::Corrupt { path: path.to_owned(), offset, reason };
        let mut frames = Frames::open(path, self.length).map_err(failed)?;
        let (offset, reason) = loop {
            match frames.next().map_err(failed)? {
                Step::End => return Ok(Tail::Clean),
                Step::Damaged(offset, reason) => break (offset, reason),
                Step::Frame(span, payload) => {
                    self.add_payload(span, payload).map_err(|reason| corrupt(span.offset, reason))?;
                }
            }
        };
        match frames.skip_damage().map_err(failed)? {
            Some(_) => Err(corrupt(offset, reason.to_owned())),
            None => Ok(Tail::Torn(frames.end() - offset)),
        }
    }

    pub(crate) fn get(&self, key: &CallKey) -> Option<Entry> {
        self.entries.get(key).copied()
    }

    /// How many keys it has.
    pub(crate) fn keys(&self) -> usize {
        self.entries.len()
    }

    /// Its keys in order.
    pub(crate) fn sorted(&self) -> Vec<(CallKey, Entry)> {
        let mut sorted: Vec<_> = self.entries.iter().map(|(key, entry)| (*key, *entry)).collect();
        sorted.sort_unstable_by_key(|(key, _)| *key);
        sorted
    }
}

/// Within one segment only offsets tell.
fn place(entry: Entry) -> (Kind, (SegmentId, u64)) {
    (entry.kind, (SegmentId { number: 0, writer: WriterId::LOCAL }, entry.span.offset))
}
