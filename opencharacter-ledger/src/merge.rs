//! Every key of a ledger once, in order, with the record that counts: a merge of the indexes.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, vec};

use crate::{
    CallKey, LedgerError,
    directory::SegmentId,
    index::Damaged,
    precedence::{Effective, Entry},
    sealed::{OpenFiles, Sealed},
    segments::Segments,
    statistics::SegmentStatistics,
};

/// One segment's keys, from the first to the last.
struct Source {
    id: SegmentId,
    statistics: SegmentStatistics,
    /// The entries that are in memory, of all or of the block that is read.
    entries: vec::IntoIter<(CallKey, Entry)>,
    blocks: Option<(Arc<Sealed>, usize)>,
}

impl Source {
    fn next(&mut self, files: &OpenFiles) -> Result<Result<Option<(CallKey, Entry)>, Damaged>, LedgerError> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Ok(Ok(Some(entry)));
            }
            let Some((sealed, block)) = &mut self.blocks else { return Ok(Ok(None)) };
            if *block == sealed.index.block_count() {
                return Ok(Ok(None));
            }
            match sealed.entries(files, *block)? {
                Ok(entries) => self.entries = entries.into_iter(),
                Err(damaged) => return Ok(Err(damaged)),
            }
            *block += 1;
        }
    }
}

impl Segments {
    /// Calls `each` with every key in order, the place of the record that counts, and its segment's statistics.
    ///
    /// Begins anew, with another `T`, where an index turns out damaged and was made anew. Memory holds a block of each
    /// segment.
    pub(crate) fn each_key<T: Default>(
        &self,
        each: impl Fn(&mut T, CallKey, Effective, &SegmentStatistics),
    ) -> Result<T, LedgerError> {
        self.mend_and(|| self.merge(&each))
    }

    fn merge<T: Default>(
        &self,
        each: impl Fn(&mut T, CallKey, Effective, &SegmentStatistics),
    ) -> Result<Result<T, SegmentId>, LedgerError> {
        let mut sources = self.sources();
        let mut heap = BinaryHeap::new();
        let mut value = T::default();
        let advance = |sources: &mut Vec<Source>, heap: &mut BinaryHeap<_>, number: usize| {
            let source = &mut sources[number];
            match source.next(&self.files)? {
                Err(Damaged) => return Ok(Err(source.id)),
                Ok(None) => {}
                Ok(Some((key, entry))) => heap.push(Reverse(Head { key, number, entry })),
            }
            Ok::<_, LedgerError>(Ok(()))
        };
        for number in 0..sources.len() {
            if let Err(id) = advance(&mut sources, &mut heap, number)? {
                return Ok(Err(id));
            }
        }
        while let Some(key) = heap.peek().map(|Reverse(head)| head.key) {
            let mut best = None;
            let mut winner = 0;
            while heap.peek().is_some_and(|Reverse(head)| head.key == key) {
                let Some(Reverse(head)) = heap.pop() else { break };
                Effective::consider(&mut best, sources[head.number].id, head.entry);
                if best.is_some_and(|best| best.segment == sources[head.number].id) {
                    winner = head.number;
                }
                if let Err(id) = advance(&mut sources, &mut heap, head.number)? {
                    return Ok(Err(id));
                }
            }
            if let Some(best) = best {
                each(&mut value, key, best, &sources[winner].statistics);
            }
        }
        Ok(Ok(value))
    }

    fn sources(&self) -> Vec<Source> {
        let state = self.state();
        let sealed = state.sealed();
        let sealed = sealed.iter().map(|sealed| Source {
            id: sealed.id,
            statistics: sealed.index.statistics.clone(),
            entries: Vec::new().into_iter(),
            blocks: Some((Arc::clone(sealed), 0)),
        });
        let in_memory = state.in_memory().map(|(id, contents)| Source {
            id,
            statistics: contents.statistics.clone(),
            entries: contents.sorted().into_iter(),
            blocks: None,
        });
        sealed.chain(in_memory).collect()
    }

    /// How many keys have a record.
    pub(crate) fn key_count(&self) -> Result<usize, LedgerError> {
        self.each_key(|count: &mut usize, _, _, _| *count += 1)
    }

    /// The most keys that there can be: those of every segment.
    pub(crate) fn most_keys(&self) -> usize {
        let state = self.state();
        let sealed = state.sealed().iter().map(|sealed| sealed.index.keys() as usize).sum::<usize>();
        sealed + state.in_memory().map(|(_, contents)| contents.keys()).sum::<usize>()
    }
}

/// The next key of a source.
struct Head {
    key: CallKey,
    number: usize,
    entry: Entry,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        (self.key, self.number) == (other.key, other.number)
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.key, self.number).cmp(&(other.key, other.number))
    }
}
