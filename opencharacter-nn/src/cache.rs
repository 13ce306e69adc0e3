//! Keys and values of sequences in progress, in blocks of 16 tokens that sequences can share.
//!
//! A block's layout is that of [`PackedMatrix`](crate::PackedMatrix) panels: keys as `[head_dim][16 tokens]` and values
//! as `[head_dim / 16][16 tokens][16]` per layer and head, so that scores and weighted sums run through the same
//! kernel as every matrix product. Each query's arithmetic depends on its own keys alone, in their order; how a prompt
//! was cut into chunks, what came from a shared block and who else is in the batch change no bit.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use crate::{
    DecoderConfig,
    decoder::Attend,
    matrix::{PANEL, Tile},
    ops::{floats, from_floats},
    simd,
    team::{self, Pointer},
};

/// Tokens per block.
pub const BLOCK_TOKENS: usize = PANEL;

/// Keys and values of 16 consecutive tokens, all layers.
#[derive(Debug, Clone)]
pub struct CacheBlock {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Sizes that follow from the model.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    heads: usize,
    group: usize,
    head_dim: usize,
    /// A token sees itself and at most so many minus one before it.
    window: Option<usize>,
    /// Elements of one head's keys in a block.
    key_panel: usize,
    /// Elements of one head's values in a block: `head_dim` rounded up to whole panels.
    value_panel: usize,
}

impl Geometry {
    fn new(config: &DecoderConfig) -> Self {
        Self {
            heads: config.num_key_value_heads,
            group: config.group_size(),
            head_dim: config.head_dim,
            window: config.sliding_window,
            key_panel: config.head_dim * BLOCK_TOKENS,
            value_panel: config.head_dim.div_ceil(PANEL) * PANEL * BLOCK_TOKENS,
        }
    }
}

impl CacheBlock {
    fn new(config: &DecoderConfig) -> Self {
        let geometry = Geometry::new(config);
        let count = config.num_hidden_layers * geometry.heads;
        Self { keys: vec![0.0; count * geometry.key_panel], values: vec![0.0; count * geometry.value_panel] }
    }

    /// Bytes of one block of a model.
    pub fn bytes(config: &DecoderConfig) -> usize {
        let geometry = Geometry::new(config);
        config.num_hidden_layers * geometry.heads * (geometry.key_panel + geometry.value_panel) * size_of::<f32>()
    }
}

/// One sequence's keys and values.
#[derive(Debug, Clone, Default)]
pub struct SequenceCache {
    blocks: Vec<Arc<CacheBlock>>,
    tokens: usize,
}

impl SequenceCache {
    /// A cache that begins with whole blocks computed for another sequence with the same beginning.
    pub fn with_prefix(blocks: Vec<Arc<CacheBlock>>) -> Self {
        let tokens = blocks.len() * BLOCK_TOKENS;
        Self { blocks, tokens }
    }

    /// Tokens held.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The blocks so far; all but the last are full.
    pub fn blocks(&self) -> &[Arc<CacheBlock>] {
        &self.blocks
    }

    /// Makes room for `count` more tokens. A last block that is shared and not full is copied first.
    fn reserve(&mut self, count: usize, config: &DecoderConfig) {
        let needed = (self.tokens + count).div_ceil(BLOCK_TOKENS);
        while self.blocks.len() < needed {
            self.blocks.push(Arc::new(CacheBlock::new(config)));
        }
        for block in &mut self.blocks[self.tokens / BLOCK_TOKENS..needed] {
            Arc::make_mut(block);
        }
    }

    /// Forgets all tokens from `tokens` on.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
        self.blocks.truncate(self.tokens.div_ceil(BLOCK_TOKENS));
    }
}

/// Attention of a ragged batch over its sequences' caches: sequence `i` brings `lengths[i]` new tokens.
pub struct CachedAttend<'a> {
    config: &'a DecoderConfig,
    sequences: Vec<(&'a mut SequenceCache, usize)>,
}

impl<'a> CachedAttend<'a> {
    /// Prepares the caches for the new tokens; they count as held once [`CachedAttend::commit`] is called.
    pub fn new(config: &'a DecoderConfig, mut sequences: Vec<(&'a mut SequenceCache, usize)>) -> Self {
        for (cache, count) in &mut sequences {
            cache.reserve(*count, config);
        }
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
                    let source = (row + token) * width + head * geometry.head_dim;
                    let keys = &mut block.keys[(layer * geometry.heads + head) * geometry.key_panel..];
                    let values = &mut block.values[(layer * geometry.heads + head) * geometry.value_panel..];
                    for d in 0..geometry.head_dim {
                        keys[d * BLOCK_TOKENS + slot + token] = k[source + d];
                        values[(d / PANEL * BLOCK_TOKENS + slot + token) * PANEL + d % PANEL] = v[source + d];
                    }
                }
            }
        };
        team::for_each_chunk(&mut slots, 8, |_, slots| slots.iter_mut().for_each(store));
        Ok(())
    }

    fn compute(&self, layer: usize, q: &[f32], out: &mut [f32]) {
        let geometry = Geometry::new(self.config);
        let query_size = geometry.heads * geometry.group * geometry.head_dim;
        // Tasks of 32 new tokens of one sequence and one head.
        let mut tasks = Vec::new();
        let mut row = 0;
        for (cache, count) in &self.sequences {
            for first in (0..*count).step_by(32) {
                let rows = 32.min(count - first);
                for head in 0..geometry.heads {
                    tasks.push((&**cache, cache.tokens + first, row + first, rows, head));
                }
            }
            row += count;
        }
        let target = Pointer(out.as_mut_ptr());
        team::for_each(tasks.len(), |index| {
            let (cache, position, row, rows, head) = tasks[index];
            let context = (position + rows).div_ceil(BLOCK_TOKENS) * BLOCK_TOKENS;
            let mut scratch = Scratch::new(context, geometry);
            for token in 0..rows {
                let corner = (row + token) * query_size + head * geometry.group * geometry.head_dim;
                let queries = &q[corner..corner + geometry.group * geometry.head_dim];
                // SAFETY: one task per token and head group; `corner` and the group's width lie inside `out`.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(target.get().add(corner), geometry.group * geometry.head_dim)
                };
                scratch.attend(cache, layer, head, position + token + 1, queries, out);
            }
        });
    }
}

/// Buffers of one task.
struct Scratch {
    geometry: Geometry,
    /// `[group, context]`.
    scores: Vec<f32>,
    /// `[group, value columns]`.
    sums: Vec<f32>,
    context: usize,
}

impl Scratch {
    fn new(context: usize, geometry: Geometry) -> Self {
        let columns = geometry.head_dim.div_ceil(PANEL) * PANEL;
        Self {
            geometry,
            scores: vec![0.0; geometry.group * context],
            sums: vec![0.0; geometry.group * columns],
            context,
        }
    }

    /// One token's queries of one head group (`[group, head_dim]`) over the first `seen` tokens of `cache`.
    fn attend(&mut self, cache: &SequenceCache, layer: usize, head: usize, seen: usize, q: &[f32], out: &mut [f32]) {
        let Geometry { group, head_dim, heads, window, key_panel, value_panel } = self.geometry;
        let blocks = seen.div_ceil(BLOCK_TOKENS);
        let first_seen = window.map_or(0, |window| seen.saturating_sub(window));
        let first_block = first_seen / BLOCK_TOKENS;
        for (index, block) in cache.blocks.iter().enumerate().take(blocks).skip(first_block) {
            let keys = &block.keys[(layer * heads + head) * key_panel..][..key_panel];
            for_tiles(group, |first, rows| {
                let x = q[first * head_dim..].as_ptr();
                let tile = Tile { x, row_stride: head_dim, input_stride: 1, inputs: head_dim };
                let scores = &mut self.scores[first * self.context + index * BLOCK_TOKENS..];
                // SAFETY: `rows` queries, one key panel, and `rows` rows of 16 scores, `context` apart.
                unsafe { tile.run(rows, keys.as_ptr(), scores.as_mut_ptr(), self.context, false) };
            });
        }
        let scale = 1.0 / (head_dim as f32).sqrt();
        for scores in self.scores.chunks_exact_mut(self.context) {
            let (_, total) = simd::exponentiate(&mut scores[first_seen..seen], scale);
            simd::scale(&mut scores[first_seen..seen], 1.0 / total);
            // Slots of the first and the last block that this token must not see.
            scores[first_block * BLOCK_TOKENS..first_seen].fill(0.0);
            scores[seen..blocks * BLOCK_TOKENS].fill(0.0);
        }
        self.sums.fill(0.0);
        let columns = head_dim.div_ceil(PANEL) * PANEL;
        for (index, block) in cache.blocks.iter().enumerate().take(blocks).skip(first_block) {
            let values = &block.values[(layer * heads + head) * value_panel..][..value_panel];
            for (panel, values) in values.chunks_exact(PANEL * BLOCK_TOKENS).enumerate() {
                for_tiles(group, |first, rows| {
                    let scores = &self.scores[first * self.context + index * BLOCK_TOKENS..];
                    let x = scores.as_ptr();
                    let tile = Tile { x, row_stride: self.context, input_stride: 1, inputs: BLOCK_TOKENS };
                    let sums = &mut self.sums[first * columns + panel * PANEL..];
                    // SAFETY: `rows` rows of 16 probabilities, one value panel, `rows` rows of 16 sums.
                    unsafe { tile.run(rows, values.as_ptr(), sums.as_mut_ptr(), columns, true) };
                });
            }
        }
        for (out, sums) in out.chunks_exact_mut(head_dim).zip(self.sums.chunks_exact(columns)) {
            out.copy_from_slice(&sums[..head_dim]);
        }
    }
}

/// Calls `f(first, rows)` for tiles of up to 6 of `count` rows.
fn for_tiles(count: usize, mut f: impl FnMut(usize, usize)) {
    let mut first = 0;
    while first < count {
        let rows = (count - first).min(6);
        f(first, rows);
        first += rows;
    }
}

impl Attend for CachedAttend<'_> {
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Vec<f32>)> {
        self.store(layer, &floats(k)?, &floats(v)?)?;
        let mut out = vec![0.0; q.elem_count()];
        self.compute(layer, &floats(q)?, &mut out);
        Ok((from_floats(out, q.dims())?, Vec::new()))
    }
}
