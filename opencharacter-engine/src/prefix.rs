use std::{collections::HashMap, sync::Arc};

use opencharacter_nn::{BLOCK_TOKENS, CacheBlock};

/// Blocks of keys and values that any later request with the same beginning can use.
///
/// A block is found by its parent's number and its own 16 tokens, compared in full: no hash collision can hand a
/// request somebody else's context.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    entries: HashMap<(u64, [u32; BLOCK_TOKENS]), Entry>,
    next_number: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    block: Arc<CacheBlock>,
    last_used: u64,
}

/// The parent of a first block.
const ROOT: u64 = 0;

impl PrefixCache {
    /// The longest run of known blocks at the beginning of `tokens`.
    pub(crate) fn find(&mut self, tokens: &[u32]) -> Vec<Arc<CacheBlock>> {
        self.clock += 1;
        let mut parent = ROOT;
        let mut blocks = Vec::new();
        for chunk in tokens.as_chunks::<BLOCK_TOKENS>().0 {
            let Some(entry) = self.entries.get_mut(&(parent, *chunk)) else { break };
            entry.last_used = self.clock;
            parent = entry.number;
            blocks.push(Arc::clone(&entry.block));
        }
        blocks
    }

    /// Adds the full blocks of a sequence whose tokens are `tokens`.
    pub(crate) fn insert(&mut self, tokens: &[u32], blocks: &[Arc<CacheBlock>]) {
        self.clock += 1;
        let mut parent = ROOT;
        for (chunk, block) in tokens.as_chunks::<BLOCK_TOKENS>().0.iter().zip(blocks) {
            let next_number = &mut self.next_number;
            let entry = self.entries.entry((parent, *chunk)).or_insert_with(|| {
                *next_number += 1;
                Entry { number: *next_number, block: Arc::clone(block), last_used: 0 }
            });
            entry.last_used = self.clock;
            parent = entry.number;
        }
    }

    /// Blocks held.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Drops the least recently used blocks that no running sequence holds, until at most `limit` are left.
    pub(crate) fn shrink(&mut self, limit: usize) {
        if self.entries.len() <= limit {
            return;
        }
        let mut idle: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| Arc::strong_count(&entry.block) == 1)
            .map(|(key, entry)| ((entry.last_used, std::cmp::Reverse(entry.number)), *key))
            .collect();
        // A child is never used more recently than its parent and has a larger number, so children go first.
        idle.sort_unstable();
        let excess = self.entries.len() - limit;
        for (_, key) in idle.into_iter().take(excess) {
            self.entries.remove(&key);
        }
    }
}
