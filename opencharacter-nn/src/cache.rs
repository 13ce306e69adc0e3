//! Keys and values of sequences in progress, in blocks of 16 tokens that sequences can share.
//!
//! A block's layout is that of [`PackedMatrix`](crate::PackedMatrix) panels: keys as `[head_dim][16 tokens]` and values
//! as `[head_dim / 16][16 tokens][16]` per layer and head, so that scores and weighted sums run through the same
//! kernel as every matrix product. Each query's arithmetic depends on its own keys alone, in their order; how a prompt
//! was cut into chunks, what came from a shared block and who else is in the batch change no bit.
//!
//! With many sequences in flight, reading all their keys and values at every step is what memory's bandwidth goes
//! into: a third of a decoding step with 64 sequences of SmolLM2-135M at 200 tokens, in f32. [`CacheFormat::Halves`]
//! halves that, and the memory.

use std::{cell::RefCell, ops::Range, sync::Arc};

use candle_core::{Result, Tensor, bail};
use half::{f16, slice::HalfFloatSliceExt as _};

use crate::{
    DecoderConfig,
    decoder::Attend,
    matrix::{Layout, PANEL, PanelElement, Tile, tile_rows},
    ops::{floats, from_floats},
    simd,
    team::{self, Pointer},
};

/// Tokens per block.
pub const BLOCK_TOKENS: usize = PANEL;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheFormat {
    /// f32, as they were computed.
    Floats,
    /// f16, rounded to the nearest; attention widens them again and computes in f32.
    Halves,
}

impl CacheFormat {
    fn bytes(self) -> usize {
        match self {
            Self::Floats => size_of::<f32>(),
            Self::Halves => size_of::<f16>(),
        }
    }
}

/// An element of one of the formats.
trait CacheElement: PanelElement {
    /// Keys or values of a block of this format.
    fn of(elements: &Elements) -> &[Self];
}

impl CacheElement for f32 {
    fn of(elements: &Elements) -> &[Self] {
        match elements {
            Elements::Floats(values) => values,
            Elements::Halves(_) => unreachable!("all blocks of a cache have one format"),
        }
    }
}

impl CacheElement for f16 {
    fn of(elements: &Elements) -> &[Self] {
        match elements {
            Elements::Halves(values) => values,
            Elements::Floats(_) => unreachable!("all blocks of a cache have one format"),
        }
    }
}

/// Keys or values of a block.
#[derive(Debug, Clone)]
enum Elements {
    Floats(Vec<f32>),
    Halves(Vec<f16>),
}

impl Elements {
    fn new(format: CacheFormat, count: usize) -> Self {
        match format {
            CacheFormat::Floats => Self::Floats(vec![0.0; count]),
            CacheFormat::Halves => Self::Halves(vec![f16::ZERO; count]),
        }
    }

    /// Writes a run of `values` to every `stride`th place from `first` on.
    fn scatter(&mut self, values: &[f32], first: usize, stride: usize) {
        fn write<T: Copy>(to: &mut [T], values: &[T], stride: usize) {
            for (to, value) in to.iter_mut().step_by(stride).zip(values) {
                *to = *value;
            }
        }
        match self {
            Self::Floats(to) => write(&mut to[first..], values, stride),
            Self::Halves(to) => {
                let mut halves = [f16::ZERO; PANEL];
                for (chunk, values) in values.chunks(PANEL).enumerate() {
                    let halves = &mut halves[..values.len()];
                    halves.convert_from_f32_slice(values);
                    write(&mut to[first + chunk * PANEL * stride..], halves, stride);
                }
            }
        }
    }
}

/// Keys and values of 16 consecutive tokens, all layers.
#[derive(Debug, Clone)]
pub struct CacheBlock {
    keys: Elements,
    values: Elements,
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

    fn query_size(&self) -> usize {
        self.heads * self.group * self.head_dim
    }

    /// `head_dim` rounded up to whole panels.
    fn value_columns(&self) -> usize {
        self.value_panel / BLOCK_TOKENS
    }
}

impl CacheBlock {
    fn new(config: &DecoderConfig, format: CacheFormat) -> Self {
        let geometry = Geometry::new(config);
        let count = config.num_hidden_layers * geometry.heads;
        Self {
            keys: Elements::new(format, count * geometry.key_panel),
            values: Elements::new(format, count * geometry.value_panel),
        }
    }

    /// Bytes of one block of a model.
    pub fn bytes(config: &DecoderConfig, format: CacheFormat) -> usize {
        let geometry = Geometry::new(config);
        config.num_hidden_layers * geometry.heads * (geometry.key_panel + geometry.value_panel) * format.bytes()
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
    fn reserve(&mut self, count: usize, config: &DecoderConfig, format: CacheFormat) {
        let needed = (self.tokens + count).div_ceil(BLOCK_TOKENS);
        while self.blocks.len() < needed {
            self.blocks.push(Arc::new(CacheBlock::new(config, format)));
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
                    let source = (row + token) * width + head * geometry.head_dim;
                    let place = layer * geometry.heads + head;
                    let keys = &k[source..source + geometry.head_dim];
                    block.keys.scatter(keys, place * geometry.key_panel + slot + token, BLOCK_TOKENS);
                    let values = v[source..source + geometry.head_dim].chunks(PANEL);
                    for (panel, values) in values.enumerate() {
                        let first = (panel * BLOCK_TOKENS + slot + token) * PANEL;
                        block.values.scatter(values, place * geometry.value_panel + first, 1);
                    }
                }
            }
        };
        team::for_each_chunk(&mut slots, 8, |_, slots| slots.iter_mut().for_each(store));
        Ok(())
    }

    fn compute(&self, layer: usize, q: &[f32]) -> Vec<f32> {
        let geometry = Geometry::new(self.config);
        // Tokens of one sequence and one head whose queries, together, fill a tile: they share each widened block.
        let tokens = (tile_rows() / geometry.group).max(1);
        let mut tasks = Vec::new();
        let mut row = 0;
        for (cache, count) in &self.sequences {
            for first in (0..*count).step_by(TASK_TOKENS) {
                let last = (first + TASK_TOKENS).min(*count);
                for head in 0..geometry.heads {
                    let cache = LayerCache { cache, layer, head, held: cache.tokens };
                    tasks.push((cache, row, first..last));
                }
            }
            row += count;
        }
        assert_eq!(q.len(), row * geometry.query_size(), "queries of all new tokens");
        let mut out = Vec::<f32>::with_capacity(q.len());
        let target = Pointer(out.as_mut_ptr());
        team::for_each(tasks.len(), |index| {
            let (cache, row, new) = &tasks[index];
            SCRATCH.with_borrow_mut(|scratch| {
                for first in new.clone().step_by(tokens) {
                    let new = first..(first + tokens).min(new.end);
                    let mut pass = HeadPass { geometry, cache: *cache, new, scratch };
                    pass.gather(&q[row * geometry.query_size()..]);
                    pass.attend();
                    // SAFETY: one task per token and head; the sequence's rows lie inside `out`.
                    unsafe { pass.scatter(target.get().add(row * geometry.query_size())) };
                }
            });
        });
        // SAFETY: the tasks have written every head of every token.
        unsafe { out.set_len(q.len()) };
        out
    }
}

/// New tokens of a task.
const TASK_TOKENS: usize = 32;

/// One head's keys and values of one layer of a sequence.
#[derive(Clone, Copy)]
struct LayerCache<'a> {
    cache: &'a SequenceCache,
    layer: usize,
    head: usize,
    /// Tokens before the new ones.
    held: usize,
}

thread_local! {
    /// Kept from one task to the next: clearing new buffers was a twentieth of a decoding step.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Buffers whose contents nobody relies on. Rows are the queries of some tokens of one head's group, token by token.
struct Scratch {
    /// `[rows, head_dim]`.
    queries: Vec<f32>,
    /// `[rows, context]`.
    scores: Vec<f32>,
    /// `[rows, value columns]`.
    sums: Vec<f32>,
}

impl Scratch {
    const fn new() -> Self {
        Self { queries: Vec::new(), scores: Vec::new(), sums: Vec::new() }
    }
}

/// At least `length` elements of `buffer`, whatever they hold.
fn at_least(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

/// Attention of some `new` tokens of a sequence, whose queries of one head's group are a tile's rows.
struct HeadPass<'a> {
    geometry: Geometry,
    cache: LayerCache<'a>,
    new: Range<usize>,
    scratch: &'a mut Scratch,
}

impl HeadPass<'_> {
    fn rows(&self) -> usize {
        self.new.len() * self.geometry.group
    }

    /// Takes the queries; `q` begins with the sequence's first new token.
    fn gather(&mut self, q: &[f32]) {
        let width = self.geometry.group * self.geometry.head_dim;
        let queries = at_least(&mut self.scratch.queries, self.new.len() * width);
        for (queries, token) in queries.chunks_exact_mut(width).zip(self.new.clone()) {
            let start = token * self.geometry.query_size() + self.cache.head * width;
            queries.copy_from_slice(&q[start..start + width]);
        }
    }

    /// Gives the results; `out` begins with the sequence's first new token.
    ///
    /// # Safety
    /// The tokens' rows lie behind `out`, and nobody else uses this head's part of them.
    unsafe fn scatter(&self, out: *mut f32) {
        let Geometry { group, head_dim, .. } = self.geometry;
        let columns = self.geometry.value_columns();
        for (sums, token) in self.scratch.sums.chunks_exact(group * columns).zip(self.new.clone()) {
            let start = token * self.geometry.query_size() + self.cache.head * group * head_dim;
            for (member, sums) in sums.chunks_exact(columns).enumerate() {
                // SAFETY: the caller's promise; the buffers do not overlap.
                unsafe { out.add(start + member * head_dim).copy_from_nonoverlapping(sums.as_ptr(), head_dim) };
            }
        }
    }

    /// What the query of `row` sees.
    fn seen_by(&self, row: usize) -> Range<usize> {
        let seen = self.cache.held + self.new.start + row / self.geometry.group + 1;
        self.geometry.window.map_or(0, |window| seen.saturating_sub(window))..seen
    }

    /// Attention of the gathered queries, each over the tokens up to its own.
    fn attend(&mut self) {
        match self.cache.cache.blocks.first().map(|block| &block.keys) {
            Some(Elements::Floats(_)) => self.attend_in::<f32>(),
            Some(Elements::Halves(_)) => self.attend_in::<f16>(),
            None => {}
        }
    }

    fn attend_in<E: CacheElement>(&mut self) {
        let rows = self.rows();
        let blocks = self.seen_by(0).start / BLOCK_TOKENS..self.seen_by(rows - 1).end.div_ceil(BLOCK_TOKENS);
        self.score::<E>(blocks.clone());
        self.weigh(blocks.clone());
        self.add_up::<E>(blocks);
    }

    /// Scores of the keys of `blocks`.
    fn score<E: CacheElement>(&mut self, blocks: Range<usize>) {
        let Geometry { head_dim, heads, key_panel, value_panel, .. } = self.geometry;
        let (rows, context) = (self.rows(), blocks.len() * BLOCK_TOKENS);
        let place = self.cache.layer * heads + self.cache.head;
        let (key_part, value_part) =
            (place * key_panel..(place + 1) * key_panel, place * value_panel..(place + 1) * value_panel);
        let Scratch { queries, scores, .. } = &mut *self.scratch;
        let scores = at_least(scores, rows * context);
        let blocks = &self.cache.cache.blocks[blocks];
        for (index, side) in blocks.chunks(SIDE).enumerate() {
            // What is read next: the keys behind these, and behind the last keys the first values.
            for next in blocks[index * SIDE..].iter().skip(side.len()).take(SIDE) {
                simd::prefetch(&E::of(&next.keys)[key_part.clone()]);
            }
            if index * SIDE + side.len() == blocks.len() {
                simd::prefetch(&E::of(&blocks[0].values)[value_part.clone()]);
            }
            for_tiles(rows, |first, count| {
                let x = queries[first * head_dim..].as_ptr();
                let tile = Tile { x, layout: Layout::Rows(head_dim), inputs: head_dim };
                let scores = scores[first * context + index * SIDE * BLOCK_TOKENS..].as_mut_ptr();
                let keys = |block: usize| E::of(&side[block].keys)[key_part.clone()].as_ptr();
                // SAFETY: `count` queries, a key panel per block, and `count` rows of 16 scores each, `context` apart.
                unsafe { tile.run_beside(count, side.len(), keys, scores, context, false) };
            });
        }
    }

    /// Turns the scores of `blocks` into probabilities.
    fn weigh(&mut self, blocks: Range<usize>) {
        let scale = 1.0 / (self.geometry.head_dim as f32).sqrt();
        let (context, first_slot) = (blocks.len() * BLOCK_TOKENS, blocks.start * BLOCK_TOKENS);
        for row in 0..self.rows() {
            let seen = self.seen_by(row);
            let seen = seen.start - first_slot..seen.end - first_slot;
            let scores = &mut self.scratch.scores[row * context..(row + 1) * context];
            let (_, total) = simd::exponentiate(&mut scores[seen.clone()], scale);
            simd::scale(&mut scores[seen.clone()], 1.0 / total);
            // Slots of the first and the last blocks that this token must not see.
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
        }
    }

    /// Adds up the values of `blocks` by their probabilities.
    fn add_up<E: CacheElement>(&mut self, blocks: Range<usize>) {
        let Geometry { heads, value_panel, .. } = self.geometry;
        let (rows, context, columns) = (self.rows(), blocks.len() * BLOCK_TOKENS, self.geometry.value_columns());
        let place = self.cache.layer * heads + self.cache.head;
        let part = place * value_panel..(place + 1) * value_panel;
        let Scratch { scores, sums, .. } = &mut *self.scratch;
        let sums = at_least(sums, rows * columns);
        let blocks = &self.cache.cache.blocks[blocks];
        for (index, block) in blocks.iter().enumerate() {
            if let Some(next) = blocks.get(index + 1) {
                simd::prefetch(&E::of(&next.values)[part.clone()]);
            }
            let values = &E::of(&block.values)[part.clone()];
            let panel = |panel: usize| values[panel * PANEL * BLOCK_TOKENS..].as_ptr();
            for_tiles(rows, |first, count| {
                let x = scores[first * context + index * BLOCK_TOKENS..].as_ptr();
                let tile = Tile { x, layout: Layout::Rows(context), inputs: BLOCK_TOKENS };
                let sums = sums[first * columns..].as_mut_ptr();
                // SAFETY: `count` rows of 16 probabilities, the block's value panels, `count` rows of sums.
                unsafe { tile.run_beside(count, columns / PANEL, panel, sums, columns, index > 0) };
            });
        }
    }
}

/// Key blocks that are multiplied side by side.
const SIDE: usize = 4;

/// Calls `f(first, rows)` for tiles of `count` rows.
fn for_tiles(count: usize, mut f: impl FnMut(usize, usize)) {
    let step = tile_rows();
    for first in (0..count).step_by(step) {
        f(first, (count - first).min(step));
    }
}

impl Attend for CachedAttend<'_> {
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Vec<f32>)> {
        self.store(layer, &floats(k)?, &floats(v)?)?;
        Ok((from_floats(self.compute(layer, &floats(q)?), q.dims())?, Vec::new()))
    }
}
