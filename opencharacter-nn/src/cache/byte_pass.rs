//! Attention over keys and values in 8 bits, as products of integers: queries and probabilities in 16 bits, whose
//! rounding is nothing beside that of what they meet.

use std::{cell::RefCell, sync::Arc};

#[cfg(target_arch = "x86_64")]
use super::tile_pass;
use super::{
    BLOCK_TOKENS, CacheBlock,
    attend::{HeadRows, at_least, for_tiles},
    byte_tile::{self, MOST_SUMMED, ROWS},
    bytes::{ByteBlock, Layout, copy_scales},
};
use crate::{matrix::instruction_set, simd};

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Buffers whose contents nobody relies on.
struct Scratch {
    /// `[rows][inputs]`, rounded up to an even number.
    queries: Vec<i16>,
    /// `[rows]`.
    query_scales: Vec<f32>,
    /// `[rows][context]`.
    scores: Vec<f32>,
    /// `[context]`.
    value_scales: Vec<f32>,
    /// `[rows][context]`: each probability times its value's scale.
    weights: Vec<i16>,
    /// `[rows]`.
    weight_scales: Vec<f32>,
    /// `[rows][value columns]`.
    sums: Vec<f32>,
}

impl Scratch {
    const fn new() -> Self {
        Self {
            queries: Vec::new(),
            query_scales: Vec::new(),
            scores: Vec::new(),
            value_scales: Vec::new(),
            weights: Vec::new(),
            weight_scales: Vec::new(),
            sums: Vec::new(),
        }
    }
}

/// Attention of `rows`, each over the tokens up to its own. Where vector units do it, memory is asked meanwhile for what the
/// `next` rows read.
///
/// # Safety
/// As [`HeadRows::attend`], over blocks in this format.
pub(super) unsafe fn attend(rows: &HeadRows<'_>, next: Option<&HeadRows<'_>>, q: &[f32], out: *mut f32) {
    #[cfg(target_arch = "x86_64")]
    if tile_pass::suits(rows) {
        // SAFETY: the caller's promise.
        return unsafe { tile_pass::attend(rows, q, out) };
    }
    let next = next.map(Parts::of);
    SCRATCH.with_borrow_mut(|scratch| {
        let mut portions = rows.portions(ROWS).peekable();
        while let Some(rows) = portions.next() {
            let next = if portions.peek().is_none() { next } else { None };
            let pass = Pass { parts: Parts::of(&rows), rows, next };
            pass.gather(q, scratch);
            pass.score(scratch);
            pass.weigh(scratch);
            pass.add_up(scratch);
            // SAFETY: the caller's promise.
            unsafe { pass.rows.give(0..pass.rows.count(), &scratch.sums, out) };
        }
    });
}

/// A head's keys and values in some blocks.
#[derive(Clone, Copy)]
struct Parts<'a> {
    blocks: &'a [Arc<CacheBlock>],
    /// Where in the sequence the first of them lies.
    first_block: usize,
    part: usize,
    layout: Layout,
}

impl<'a> Parts<'a> {
    /// What the rows see.
    fn of(rows: &HeadRows<'a>) -> Self {
        let (first_block, blocks) = rows.blocks();
        Self { blocks, first_block, part: rows.part(), layout: Layout::new(rows.geometry) }
    }

    fn of_block(&self, block: usize) -> &'a [u8] {
        ByteBlock::part(&self.blocks[block], self.layout, self.part)
    }

    /// Asks memory for the `piece`th of `pieces` pieces of a block's part, where there is one.
    fn prefetch(&self, block: usize, piece: usize, pieces: usize) {
        if block < self.blocks.len().min(MOST_AHEAD) {
            let part = self.of_block(block);
            let length = part.len().div_ceil(pieces).next_multiple_of(CACHE_LINE);
            let start = (piece * length).min(part.len());
            simd::prefetch(&part[start..(start + length).min(part.len())]);
        }
    }
}

const CACHE_LINE: usize = 64;

struct Pass<'a> {
    rows: HeadRows<'a>,
    parts: Parts<'a>,
    next: Option<Parts<'a>>,
}

impl Pass<'_> {
    fn context(&self) -> usize {
        self.parts.blocks.len() * BLOCK_TOKENS
    }

    /// Inputs of a query, rounded up to pairs.
    fn inputs(&self) -> usize {
        self.rows.geometry.head_dim.next_multiple_of(2)
    }

    /// Called while products with `block` are computed, for its keys and for every few columns of its values: asks memory
    /// for a piece of what the next rows read there. In one piece for each block, the processor runs out of places for
    /// lines that are on their way, and waits: attention with 64 sequences at 200 tokens took 4% longer.
    fn look_ahead(&self, block: usize, columns: Option<usize>) {
        let pieces = 1 + self.rows.geometry.value_columns().div_ceil(byte_tile::MOST_COLUMNS);
        let piece = columns.map_or(0, |first| 1 + first / byte_tile::MOST_COLUMNS);
        if let Some(next) = self.next {
            next.prefetch(block, piece, pieces);
        }
    }

    /// Takes the queries.
    fn gather(&self, q: &[f32], scratch: &mut Scratch) {
        let (count, inputs, head_dim) = (self.rows.count(), self.inputs(), self.rows.geometry.head_dim);
        let most = most_of_query(inputs);
        let queries = at_least(&mut scratch.queries, count * inputs);
        let scales = at_least(&mut scratch.query_scales, count);
        for (row, (query, scale)) in queries.chunks_exact_mut(inputs).zip(scales).enumerate() {
            query[head_dim..].fill(0);
            *scale = simd::quantise(&q[self.rows.place(row)..][..head_dim], most, &mut query[..head_dim]);
        }
    }

    /// Scores, but for the queries' scales.
    fn score(&self, scratch: &mut Scratch) {
        let Parts { layout, blocks, .. } = self.parts;
        let (count, context, inputs) = (self.rows.count(), self.context(), self.inputs());
        let scores = at_least(&mut scratch.scores, count * context);
        let value_scales = at_least(&mut scratch.value_scales, context);
        for (block, value_scales) in value_scales.as_chunks_mut::<BLOCK_TOKENS>().0.iter_mut().enumerate() {
            if block + AHEAD < blocks.len() {
                simd::prefetch(self.parts.of_block(block + AHEAD));
            }
            self.look_ahead(block, None);
            let part = self.parts.of_block(block);
            for_tiles(count, ROWS, |first, count| {
                let queries = scratch.queries[first * inputs..].as_ptr();
                let scores = scores[first * context + block * BLOCK_TOKENS..].as_mut_ptr();
                // SAFETY: `count` queries of `inputs`, as many inputs of 16 keys, their scales, and `count` rows of 16
                // scores, `context` apart.
                unsafe {
                    let key_scales = part.as_ptr().add(layout.key_scales);
                    let keys = byte_tile::Keys { quants: part.as_ptr(), scales: key_scales.cast(), inputs };
                    byte_tile::score(instruction_set(), count, queries, keys, scores, context);
                }
            });
            copy_scales(&part[layout.value_scales..], value_scales);
        }
    }

    /// Turns scores into what values' integers are multiplied by, and the scale of a row's sums.
    fn weigh(&self, scratch: &mut Scratch) {
        let (count, context) = (self.rows.count(), self.context());
        let scores = scratch.scores.chunks_exact_mut(context).zip(&scratch.query_scales);
        let weights = at_least(&mut scratch.weights, count * context).chunks_exact_mut(context);
        let weight_scales = at_least(&mut scratch.weight_scales, count);
        for (row, (((scores, scale), weights), weight_scale)) in scores.zip(weights).zip(weight_scales).enumerate() {
            let seen = self.rows.seen_slots(row);
            let seen_scores = &mut scores[seen.clone()];
            let (scale, value_scales) = (scale * self.rows.score_scale(), &scratch.value_scales[seen.clone()]);
            *weight_scale = simd::weigh(seen_scores, scale, value_scales, MOST_WORD, &mut weights[seen.clone()]);
            // Slots of the first and the last blocks that this token must not see.
            weights[..seen.start].fill(0);
            weights[seen.end..].fill(0);
        }
    }

    /// Adds up the values. Sums of integers become floats where the place of a block says so, not where a pass begins.
    fn add_up(&self, scratch: &mut Scratch) {
        let Parts { layout, blocks, first_block, .. } = self.parts;
        let (count, context, columns) = (self.rows.count(), self.context(), self.rows.geometry.value_columns());
        let sums = at_least(&mut scratch.sums, count * columns);
        sums.fill(0.0);
        let mut start = 0;
        while start < blocks.len() {
            let length = (MOST_SUMMED - (first_block + start) % MOST_SUMMED).min(blocks.len() - start);
            for_tiles(count, ROWS, |first, count| {
                let weights = scratch.weights[first * context + start * BLOCK_TOKENS..].as_ptr();
                let quants = |block: usize, first_column: usize| {
                    self.look_ahead(start + block, Some(first_column));
                    self.parts.of_block(start + block)[layout.values..].as_ptr()
                };
                let values = byte_tile::Values { blocks: length, quants, columns };
                let scales = scratch.weight_scales[first..].as_ptr();
                let sums = sums[first * columns..].as_mut_ptr();
                // SAFETY: `count` rows of weights, `context` apart, for so many blocks of values; scales and rows of sums.
                unsafe { byte_tile::add_up(instruction_set(), count, (weights, context), &values, scales, sums) };
            });
            start += length;
        }
    }
}

/// The largest integer of 16 bits.
pub(super) const MOST_WORD: f32 = 32_767.0;

/// The largest integer of a query with so many inputs, an even number: sums of its products have 31 bits.
pub(super) fn most_of_query(inputs: usize) -> f32 {
    (i32::MAX as usize / (127 * inputs)).min(MOST_WORD as usize) as f32
}

/// How many blocks ahead these rows' own keys and values are asked for.
const AHEAD: usize = 2;

/// How many of the next rows' blocks are asked for: 70 KB of the second-level cache, with heads of 64 inputs.
const MOST_AHEAD: usize = 32;
