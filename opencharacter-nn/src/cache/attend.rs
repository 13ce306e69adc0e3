//! Attention of new tokens over what their sequences hold.

use std::{ops::Range, sync::Arc};

use candle_core::{Result, Tensor, bail};

use super::{BLOCK_TOKENS, CacheBlock, CacheFormat, Contents, Geometry, SequenceCache, byte_pass, float_pass};
use crate::{
    DecoderConfig,
    decoder::Attend,
    ops::{floats, from_floats},
    team::{self, Pointer},
};

/// Attention of a ragged batch over its sequences' caches: sequence `i` brings `lengths[i]` new tokens.
pub struct CachedAttend<'a> {
    config: &'a DecoderConfig,
    sequences: Vec<(&'a mut SequenceCache, usize)>,
}

impl<'a> CachedAttend<'a> {
    /// Prepares the caches for the new tokens; they count as held once [`CachedAttend::commit`] is called.
    ///
    /// All caches of a model have one format.
    pub fn new(
        config: &'a DecoderConfig,
        format: CacheFormat,
        mut sequences: Vec<(&'a mut SequenceCache, usize)>,
    ) -> Self {
        // Side by side: a new block's memory is cleared, some milliseconds' work when many sequences begin one.
        team::for_each_chunk(&mut sequences, 1, |_, sequences| {
            for (cache, count) in sequences {
                cache.reserve(*count, config, format);
            }
        });
        Self { config, sequences }
    }

    /// The new tokens' positions, in batch order.
    pub fn positions(&self) -> Vec<u32> {
        self.sequences.iter().flat_map(|(cache, count)| cache.tokens as u32..(cache.tokens + count) as u32).collect()
    }

    /// Counts the new tokens as held, after all layers have run.
    pub fn commit(self) {
        for (cache, count) in self.sequences {
            cache.tokens += count;
        }
    }

    /// Writes the new keys and values into the blocks.
    fn store(&mut self, layer: usize, k: &[f32], v: &[f32]) -> Result<()> {
        let geometry = Geometry::new(self.config);
        let width = geometry.heads * geometry.head_dim;
        let mut row = 0;
        let mut slots = Vec::new();
        for (cache, count) in &mut self.sequences {
            let (first, last) = (cache.tokens, cache.tokens + *count);
            let first_block = first / BLOCK_TOKENS;
            for (index, block) in cache.blocks[first_block..last.div_ceil(BLOCK_TOKENS)].iter_mut().enumerate() {
                let Some(block) = Arc::get_mut(block) else {
                    bail!("a cache block that is written must not be shared (a bug in the engine)");
                };
                let start = ((first_block + index) * BLOCK_TOKENS).max(first);
                let end = ((first_block + index + 1) * BLOCK_TOKENS).min(last);
                slots.push((block, start % BLOCK_TOKENS, end - start, row + start - first));
            }
            row += *count;
        }
        let store = |(block, slot, count, row): &mut (&mut CacheBlock, usize, usize, usize)| {
            let (slot, count, row) = (*slot, *count, *row);
            for token in 0..count {
                for head in 0..geometry.heads {
                    let start = (row + token) * width + head * geometry.head_dim;
                    let of_head = start..start + geometry.head_dim;
                    let part = layer * geometry.heads + head;
                    block.store(geometry, part, slot + token, &k[of_head.clone()], &v[of_head]);
                }
            }
        };
        team::for_each_chunk(&mut slots, 8, |_, slots| slots.iter_mut().for_each(store));
        Ok(())
    }

    fn compute(&self, layer: usize, q: &[f32]) -> Vec<f32> {
        let geometry = Geometry::new(self.config);
        // All heads of a sequence lie in the same few pages of memory: a core that does them one after the other looks
        // those up once.
        let portions: usize = self.sequences.iter().map(|(_, count)| count.div_ceil(TASK_TOKENS)).sum();
        let heads = if portions >= 8 * team::threads() { geometry.heads } else { 1 };
        let mut tasks = Vec::new();
        let mut row = 0;
        for (cache, count) in &self.sequences {
            for first in (0..*count).step_by(TASK_TOKENS) {
                let last = (first + TASK_TOKENS).min(*count);
                for head in (0..geometry.heads).step_by(heads) {
                    tasks.push((HeadRows { geometry, cache, layer, head, new: first..last }, row));
                }
            }
            row += count;
        }
        assert_eq!(q.len(), row * geometry.query_size(), "queries of all new tokens");
        let mut out = Vec::<f32>::with_capacity(q.len());
        let target = Pointer(out.as_mut_ptr());
        team::for_each(tasks.len(), |index| {
            let (first, row) = &tasks[index];
            let start = row * geometry.query_size();
            for head in first.head..first.head + heads {
                let rows = first.with_head(head);
                // Threads take turns, so that is most likely this one's next task.
                let next = if head + 1 < first.head + heads {
                    Some(first.with_head(head + 1))
                } else {
                    tasks.get(index + team::threads()).map(|(rows, _)| rows.clone())
                };
                // SAFETY: one task per token and head; the sequence's rows lie inside `out`.
                unsafe { rows.attend(next.as_ref(), &q[start..], target.get().add(start)) };
            }
        });
        // SAFETY: the tasks have written every head of every token.
        unsafe { out.set_len(q.len()) };
        out
    }
}

impl Attend for CachedAttend<'_> {
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Vec<f32>)> {
        self.store(layer, &floats(k)?, &floats(v)?)?;
        Ok((from_floats(self.compute(layer, &floats(q)?), q.dims())?, Vec::new()))
    }
}

/// New tokens of a task.
const TASK_TOKENS: usize = 32;

/// The queries of some `new` tokens of a sequence that meet one head's keys and values: the head's group of each token,
/// token by token.
#[derive(Clone)]
pub(super) struct HeadRows<'a> {
    pub(super) geometry: Geometry,
    cache: &'a SequenceCache,
    layer: usize,
    head: usize,
    new: Range<usize>,
}

impl<'a> HeadRows<'a> {
    /// The same queries' for another head.
    fn with_head(&self, head: usize) -> Self {
        Self { head, ..self.clone() }
    }

    /// Attends. `q` and `out` begin with the sequence's first new token. The `next` rows are those that are most likely
    /// to attend afterwards.
    ///
    /// # Safety
    /// The tokens' rows lie behind `out`, and nobody else uses this head's part of them.
    unsafe fn attend(&self, next: Option<&Self>, q: &[f32], out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.cache.blocks.first().map(|block| &block.0) {
                Some(Contents::Floats(_)) => float_pass::attend::<f32>(self, q, out),
                Some(Contents::Halves(_)) => float_pass::attend::<half::f16>(self, q, out),
                Some(Contents::Bytes(_)) => byte_pass::attend(self, next, q, out),
                None => {}
            }
        }
    }

    /// The same in portions that about fill a tile of `rows`, so that each meets a block while it is near.
    pub(super) fn portions(&self, rows: usize) -> impl Iterator<Item = Self> {
        let tokens = (rows / self.geometry.group).max(1);
        self.new.clone().step_by(tokens).map(move |first| {
            let new = first..(first + tokens).min(self.new.end);
            Self { new, ..self.clone() }
        })
    }

    pub(super) fn count(&self) -> usize {
        self.new.len() * self.geometry.group
    }

    /// Where a row begins among the queries, or the results, of the sequence's new tokens.
    pub(super) fn place(&self, row: usize) -> usize {
        let Geometry { group, head_dim, .. } = self.geometry;
        let token = self.new.start + row / group;
        token * self.geometry.query_size() + (self.head * group + row % group) * head_dim
    }

    /// Which of the layers' heads this is.
    pub(super) fn part(&self) -> usize {
        self.layer * self.geometry.heads + self.head
    }

    /// What scores are multiplied by.
    pub(super) fn score_scale(&self) -> f32 {
        1.0 / (self.geometry.head_dim as f32).sqrt()
    }

    /// Which tokens a row's query sees.
    fn seen_by(&self, row: usize) -> Range<usize> {
        let seen = self.cache.tokens + self.new.start + row / self.geometry.group + 1;
        self.geometry.window.map_or(0, |window| seen.saturating_sub(window))..seen
    }

    /// The same as slots of [`HeadRows::blocks`].
    pub(super) fn seen_slots(&self, row: usize) -> Range<usize> {
        let first = self.seen_by(0).start / BLOCK_TOKENS * BLOCK_TOKENS;
        let seen = self.seen_by(row);
        seen.start - first..seen.end - first
    }

    /// Gives the results of some `rows`, from rows of as many `sums` as there are value columns.
    ///
    /// # Safety
    /// As [`HeadRows::attend`].
    pub(super) unsafe fn give(&self, rows: Range<usize>, sums: &[f32], out: *mut f32) {
        for (row, sums) in rows.zip(sums.chunks_exact(self.geometry.value_columns())) {
            // SAFETY: the caller's promise; the buffers do not overlap.
            unsafe { out.add(self.place(row)).copy_from_nonoverlapping(sums.as_ptr(), self.geometry.head_dim) };
        }
    }

    /// The first of the blocks that hold what any of the rows sees, and those blocks.
    pub(super) fn blocks(&self) -> (usize, &'a [Arc<CacheBlock>]) {
        let first = self.seen_by(0).start / BLOCK_TOKENS;
        let last = self.seen_by(self.count() - 1).end.div_ceil(BLOCK_TOKENS);
        (first, &self.cache.blocks[first..last])
    }
}

/// Calls `f(first, rows)` for tiles of at most `most` rows.
pub(super) fn for_tiles(count: usize, most: usize, mut f: impl FnMut(usize, usize)) {
    for first in (0..count).step_by(most) {
        f(first, (count - first).min(most));
    }
}

/// At least `length` elements of a `buffer` whose contents nobody relies on.
pub(super) fn at_least<T: Copy + Default>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
    &mut buffer[..length]
}
