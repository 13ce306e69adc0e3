//! Products with quantised weights in the bfloat16 tiles of AMX (Intel's servers since 2023).
//!
//! Generation rounds activations where they meet quantised weights: to 8 bits
//! ([`block_tile`](super::block_tile)) on most machines. One with these tiles multiplies bfloat16 several times as fast as
//! bytes outside of them, and without a scale per block; there both factors are rounded to its 8 significant bits, which
//! is half of the error. Which way it goes depends on the machine, on what an engine was made for and, in one for a single
//! sequence, on whether a token is a prompt's or an answer's ([`Activations`](super::Activations)); never on the rows beside a
//! row. Texts of the two ways are not the same, bit for bit.
//!
//! **What an element is.** Inputs are taken 32 at a time, a block of the weights, as 16 pairs. Two chains of fused
//! multiply-adds in f32, both from zero, add up the products of the pairs' first and second members; the element grows
//! by the two chains' sum, block after block (`TDPBF16PS` in Intel's Software Developer's Manual). So an element's bits
//! depend on its row and its weights alone, as those of every other product do. A row alone takes the tiles, too.
//!
//! **Nothing is ever too small.** Tiles take what is smaller than the smallest normal number for zero. Weights are integer
//! multiples of their output's unit, brought to 2^-126 and more; activations are brought up by 2^96, and what is then below
//! 2^14 is zero from the start. So each product, and each sum of them, is a multiple of 2^-119 or nothing, and the chains
//! above are those of any other f32 arithmetic.
//!
//! Weights are made from quants in half precision (AVX512-FP16, which every machine with these tiles has), 32 at a time
//! ([`weights`]): for [`few_rows`] while the tiles multiply those of the block before, for [`many_rows`] beforehand.

mod few_rows;
mod gated;
mod many_rows;
mod rows;
#[cfg(test)]
mod tests;
mod tiles;
mod weights;

use std::{cell::RefCell, mem::MaybeUninit, ops::Range, sync::OnceLock};

use super::{PANEL, blocks::BlockPanels, packed::GROUP};
use crate::tile_registers::{TileType, has_tiles_of};
pub(super) use few_rows::ROWS;
pub(crate) use gated::gated_product;
pub(crate) use rows::Bfloat16Rows;
use tiles::{Weights, store};

thread_local! {
    /// Sums of many rows, of two products.
    static SUMS: RefCell<[Vec<many_rows::Sums>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Most results of a row at a time: those of a group of panels.
const COLUMNS: usize = GROUP * PANEL;
/// How much activations are larger than they were: 2^96.
const RAISED: f32 = f32::from_bits((127 + 96) << 23);
/// What a result of raised activations and weights of 2^-126 and more is multiplied with, and its output's unit.
const LOWERED: f32 = (1_u32 << 30) as f32;

/// Whether this machine has what is needed, and its system lets this process use it.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        crate::simd::has_avx512()
            && std::arch::is_x86_feature_detected!("avx512fp16")
            && has_tiles_of(TileType::Bfloat16)
    })
}

/// Where results go.
#[derive(Clone, Copy)]
struct Target<'a> {
    /// The first of the first row.
    out: *mut f32,
    /// Elements from one row to the next.
    stride: usize,
    /// How many columns exist from the first one on.
    columns: usize,
    /// What each column's sums are multiplied with.
    scales: &'a [f32],
}

impl Target<'_> {
    /// The same from a later column and row on.
    fn from(self, row: usize, column: usize) -> Self {
        Self {
            out: self.out.wrapping_add(row * self.stride + column),
            columns: self.columns - column,
            scales: &self.scales[column..],
            ..self
        }
    }
}

/// Multiplies some rows by a group of panels, or less, which begins with a pair. `out` is the first result of the first of
/// these rows, in rows of `features`.
///
/// # Safety
/// The machine has what is [`available`], and its tiles are configured. `rows` begin with a tile; of
/// each of them the panels' features are writable by nobody else.
pub(super) unsafe fn multiply(
    x: &Bfloat16Rows,
    rows: &Range<usize>,
    blocks: &BlockPanels,
    panels: &Range<usize>,
    (out, features): (*mut f32, usize),
) {
    assert!(panels.len() <= GROUP && panels.start.is_multiple_of(2), "a group of panels begins with a pair");
    assert_eq!(x.shape().1, blocks.inputs(), "a row has a value for each input");
    let mut scales = [0.0; COLUMNS];
    for (pair, scales) in (panels.start / 2..).zip(scales.as_chunks_mut().0).take(panels.len().div_ceil(2)) {
        *scales = scales_of_pair(blocks, pair);
    }
    let target = Target { out, stride: features, columns: features - panels.start * PANEL, scales: &scales };
    let weights = Weights::of_group(blocks, panels);
    let weights = &weights[..panels.len().next_multiple_of(2)];
    if rows.len() <= few_rows::ROWS {
        let mut sums = MaybeUninit::<few_rows::Sums>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        // SAFETY: the caller's promise; sums of these rows are written.
        unsafe {
            few_rows::add_up(x, rows, weights, sums);
            store((sums, COLUMNS), rows.len(), panels.len(), target);
        }
        return;
    }
    SUMS.with_borrow_mut(|[sums, _]| {
        for (pair, weights) in weights.as_chunks().0.iter().enumerate() {
            let panels = (panels.len() - 2 * pair).min(2);
            let give = |sums: &many_rows::Sums, row: usize, count: usize| {
                let sums = (sums.0.as_flattened().as_ptr(), many_rows::COLUMNS);
                // SAFETY: the caller's promise.
                unsafe { store(sums, count, panels, target.from(row - rows.start, pair * many_rows::COLUMNS)) };
            };
            // SAFETY: the caller's promise.
            unsafe { many_rows::add_up(x, rows, weights, (sums, many_rows::Kept::UntilGiven), give) };
        }
    });
}

/// What sums with a pair of panels are multiplied with.
fn scales_of_pair(blocks: &BlockPanels, pair: usize) -> [f32; 2 * PANEL] {
    let mut scales = [0.0; 2 * PANEL];
    scales.iter_mut().zip(blocks.pair(pair).units).for_each(|(scale, unit)| *scale = unit * LOWERED);
    scales
}
