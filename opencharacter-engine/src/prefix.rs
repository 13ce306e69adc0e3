use std::{collections::HashMap, sync::Arc};

use opencharacter_nn::{BLOCK_TOKENS, CacheBlock};

/// Blocks of keys and values that any later request with the same beginning can use.
///
/// A block is found by its parent's number and its own 16 tokens, compared in full: no hash collision can hand a
/// request somebody else's context. Each adapter has beginnings of its own: under another one, the same tokens have
/// other keys and values.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    entries: HashMap<(u64, [u32; BLOCK_TOKENS]), Entry>,
    /// The parents of adapters' first blocks, by the adapter's hash.
    roots: HashMap<String, u64>,
    next_number: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    block: Arc<CacheBlock>,
    last_used: u64,
}

/// The parent of the base model's first blocks.
const BASE: u64 = 0;

impl PrefixCache {
    /// The parent of an adapter's first blocks.
    fn root(&mut self, adapter: Option<&str>) -> u64 {
        let Some(adapter) = adapter else { return BASE };
        if let Some(root) = self.roots.get(adapter) {
            return *root;
        }
        self.next_number += 1;
        self.roots.insert(adapter.to_owned(), self.next_number);
        self.next_number
    }

    /// The longest run of blocks known at the beginning of `tokens` under the adapter of that hash.
    pub(crate) fn find(&mut self, adapter: Option<&str>, tokens: &[u32]) -> Vec<Arc<CacheBlock>> {
        self.clock += 1;
        let mut parent = self.root(adapter);
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
    pub(crate) fn insert(&mut self, adapter: Option<&str>, tokens: &[u32], blocks: &[Arc<CacheBlock>]) {
        self.clock += 1;
        let mut parent = self.root(adapter);
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
