//! Attention over keys and values in f32 or f16, through the kernel of every matrix product.

use std::cell::RefCell;

use half::{f16, slice::HalfFloatSliceExt as _};

use super::{
    BLOCK_TOKENS, CacheBlock, Contents, Geometry,
    attend::{HeadRows, at_least, for_tiles},
};
use crate::{
    matrix::{Layout, PANEL, PanelElement, Results, Tile, instruction_set, tile_rows},
    simd,
};

/// An element of one of the formats.
pub(super) trait CacheElement: PanelElement + Default {
    /// What a block of this format holds.
    fn of(block: &CacheBlock) -> &Elements<Self>;

    /// Rounds values.
    fn round(values: &[f32], rounded: &mut [Self]);
}

impl CacheElement for f32 {
    fn of(block: &CacheBlock) -> &Elements<Self> {
        match &block.0 {
            Contents::Floats(elements) => elements,
            _ => unreachable!("all blocks of a cache have one format"),
        }
    }

    fn round(values: &[f32], rounded: &mut [Self]) {
        rounded.copy_from_slice(values);
    }
}

impl CacheElement for f16 {
    fn of(block: &CacheBlock) -> &Elements<Self> {
        match &block.0 {
            Contents::Halves(elements) => elements,
            _ => unreachable!("all blocks of a cache have one format"),
        }
    }

    fn round(values: &[f32], rounded: &mut [Self]) {
        rounded.convert_from_f32_slice(values);
    }
}

/// A block's contents, laid out as the panels of a [`PackedMatrix`](crate::PackedMatrix).
#[derive(Debug, Clone)]
pub(super) struct Elements<E> {
    /// `[parts][head_dim][16 tokens]`.
    keys: Vec<E>,
    /// `[parts][head_dim / 16][16 tokens][16]`.
    values: Vec<E>,
}

impl<E: CacheElement> Elements<E> {
    pub(super) fn new(geometry: Geometry, parts: usize) -> Self {
        let zeros = |part: usize| vec![E::default(); parts * part];
        Self { keys: zeros(key_panel(geometry)), values: zeros(value_panels(geometry)) }
    }

    pub(super) fn part_bytes(geometry: Geometry) -> usize {
        (key_panel(geometry) + value_panels(geometry)) * size_of::<E>()
    }

    pub(super) fn store(&mut self, geometry: Geometry, part: usize, token: usize, key: &[f32], value: &[f32]) {
        let mut rounded = [E::default(); PANEL];
        let keys = &mut self.keys[part * key_panel(geometry) + token..];
        for (chunk, key) in key.chunks(PANEL).enumerate() {
            E::round(key, &mut rounded[..key.len()]);
            let places = keys[chunk * PANEL * BLOCK_TOKENS..].iter_mut().step_by(BLOCK_TOKENS);
            places.zip(&rounded[..key.len()]).for_each(|(place, key)| *place = *key);
        }
        let values = &mut self.values[part * value_panels(geometry)..];
        for (panel, value) in value.chunks(PANEL).enumerate() {
            E::round(value, &mut values[(panel * BLOCK_TOKENS + token) * PANEL..][..value.len()]);
        }
    }

    fn keys_of(&self, rows: &HeadRows<'_>) -> &[E] {
        let length = key_panel(rows.geometry);
        &self.keys[rows.part() * length..][..length]
    }

    fn values_of(&self, rows: &HeadRows<'_>) -> &[E] {
        let length = value_panels(rows.geometry);
        &self.values[rows.part() * length..][..length]
    }
}

/// Elements of one head's keys in a block.
fn key_panel(geometry: Geometry) -> usize {
    geometry.head_dim * BLOCK_TOKENS
}

/// Elements of one head's values in a block.
fn value_panels(geometry: Geometry) -> usize {
    geometry.value_columns() * BLOCK_TOKENS
}

thread_local! {
    /// Kept from one task to the next: clearing new buffers was a twentieth of a decoding step.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Buffers whose contents nobody relies on.
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

/// Attention of `rows`, each over the tokens up to its own.
///
/// # Safety
/// As [`HeadRows::attend`], over blocks in this format.
pub(super) unsafe fn attend<E: CacheElement>(rows: &HeadRows<'_>, q: &[f32], out: *mut f32) {
    let head_dim = rows.geometry.head_dim;
    SCRATCH.with_borrow_mut(|scratch| {
        for rows in rows.portions(tile_rows()) {
            let queries = at_least(&mut scratch.queries, rows.count() * head_dim);
            for (row, query) in queries.chunks_exact_mut(head_dim).enumerate() {
                query.copy_from_slice(&q[rows.place(row)..][..head_dim]);
            }
            score::<E>(&rows, scratch);
            weigh(&rows, scratch);
            add_up::<E>(&rows, scratch);
            // SAFETY: the caller's promise.
            unsafe { rows.give(0..rows.count(), &scratch.sums, out) };
        }
    });
}

/// Scores of the keys.
fn score<E: CacheElement>(rows: &HeadRows<'_>, scratch: &mut Scratch) {
    let head_dim = rows.geometry.head_dim;
    let (_, blocks) = rows.blocks();
    let (count, context) = (rows.count(), blocks.len() * BLOCK_TOKENS);
    let Scratch { queries, scores, .. } = scratch;
    let scores = at_least(scores, count * context);
    for (index, side) in blocks.chunks(SIDE).enumerate() {
        // What is read next: the keys behind these, and behind the last keys the first values.
        for next in blocks[index * SIDE..].iter().skip(side.len()).take(SIDE) {
            simd::prefetch(E::of(next).keys_of(rows));
        }
        if index * SIDE + side.len() == blocks.len() {
            simd::prefetch(E::of(&blocks[0]).values_of(rows));
        }
        for_tiles(count, tile_rows(), |first, count| {
            let x = queries[first * head_dim..].as_ptr();
            let tile = Tile { x, layout: Layout::Rows(head_dim), inputs: head_dim };
            let scores = scores[first * context + index * SIDE * BLOCK_TOKENS..].as_mut_ptr();
            let keys = |block: usize| E::of(&side[block]).keys_of(rows).as_ptr();
            // SAFETY: `count` queries, a key panel per block, and `count` rows of 16 scores each, `context` apart.
            unsafe {
                tile.run_beside(instruction_set(), count, side.len(), keys, Results::rows(scores, context), false);
            };
        });
    }
}

/// Turns the scores into probabilities.
fn weigh(rows: &HeadRows<'_>, scratch: &mut Scratch) {
    let (_, blocks) = rows.blocks();
    let context = blocks.len() * BLOCK_TOKENS;
    for (row, scores) in scratch.scores.chunks_exact_mut(context).take(rows.count()).enumerate() {
        let seen = rows.seen_slots(row);
        let (_, total) = simd::exponentiate(&mut scores[seen.clone()], rows.score_scale());
        simd::scale(&mut scores[seen.clone()], 1.0 / total);
        // Slots of the first and the last blocks that this token must not see.
        scores[..seen.start].fill(0.0);
        scores[seen.end..].fill(0.0);
    }
}

/// Adds up the values by their probabilities.
fn add_up<E: CacheElement>(rows: &HeadRows<'_>, scratch: &mut Scratch) {
    let (_, blocks) = rows.blocks();
    let (count, context, columns) = (rows.count(), blocks.len() * BLOCK_TOKENS, rows.geometry.value_columns());
    let Scratch { scores, sums, .. } = scratch;
    let sums = at_least(sums, count * columns);
    for (index, block) in blocks.iter().enumerate() {
        if let Some(next) = blocks.get(index + 1) {
            simd::prefetch(E::of(next).values_of(rows));
        }
        let values = E::of(block).values_of(rows);
        let panel = |panel: usize| values[panel * PANEL * BLOCK_TOKENS..].as_ptr();
        for_tiles(count, tile_rows(), |first, count| {
            let x = scores[first * context + index * BLOCK_TOKENS..].as_ptr();
            let tile = Tile { x, layout: Layout::Rows(context), inputs: BLOCK_TOKENS };
            let sums = sums[first * columns..].as_mut_ptr();
            // SAFETY: `count` rows of 16 probabilities, the block's value panels, `count` rows of sums.
            unsafe {
                tile.run_beside(
                    instruction_set(),
                    count,
                    columns / PANEL,
                    panel,
                    Results::rows(sums, columns),
                    index > 0,
                );
            }
        });
    }
}

/// Key blocks that are multiplied side by side.
const SIDE: usize = 4;
