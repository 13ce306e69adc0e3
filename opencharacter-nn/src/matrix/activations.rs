//! Activations in 8 bits, as they meet quantised weights in generation.

use std::{cell::RefCell, slice};

use super::blocks::{BLOCK, GROUP};
use crate::{
    simd::{largest_magnitude, nearest, vectorised},
    team::{self, Pointer},
};

/// Rows of activations in blocks, each with a scale of its own: `x = scale * quant`, `quant` from -127 to 127. A block is
/// two of the weights' blocks long, or one where a row is no whole number of pairs.
///
/// Longer blocks are rounded more coarsely (llama.cpp takes 256 where weights have less than 5 bits), but integers are
/// scaled and added up as floats once per block: with blocks of 32, that was a third of a product's time on AVX2.
///
/// A row's quants depend on that row alone, so a product with them keeps the promise of all products here: a row's
/// result does not depend on its company.
#[derive(Debug)]
pub(crate) struct EightBitRows {
    /// `[rows][inputs]`; of each 8 inputs first the even ones, then the odd ones, as
    /// [`BlockFormat`](super::BlockFormat)'s quants lie.
    quants: Vec<i8>,
    /// `[rows][inputs / 32 / span]`.
    blocks: Vec<RowBlock>,
    inputs: usize,
}

/// Most weights' blocks that one of activations spans.
pub(super) const MOST_SPAN: usize = 2;

/// How many of the weights' blocks one of activations spans, in rows of `inputs`.
pub(super) fn span(inputs: usize) -> usize {
    if inputs.is_multiple_of(MOST_SPAN * BLOCK) { MOST_SPAN } else { 1 }
}

/// What a block's quants have in common.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(super) struct RowBlock {
    pub(super) scale: f32,
    /// Sums of the quants that meet each of the weights' blocks: at most 32 x 127.
    pub(super) sums: [i16; MOST_SPAN],
}

impl EightBitRows {
    /// Quantises `[rows, inputs]` values. `inputs` is a multiple of 32.
    #[cfg(test)]
    pub(crate) fn new(values: &[f32], inputs: usize) -> Self {
        use crate::team::RUN;
        Self::of(values.len(), inputs, RUN, |run, out| out.copy_from_slice(&values[run * RUN..][..out.len()]))
    }

    /// Quantises `total` values, rows of `inputs`, that `body` computes: it is called with the place of each run of
    /// `length` values, whole blocks, and must write all of them. They never leave the first-level cache.
    pub(crate) fn of(total: usize, inputs: usize, length: usize, body: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        assert!(inputs.is_multiple_of(BLOCK) && total.is_multiple_of(inputs), "rows are whole blocks");
        let block = span(inputs) * BLOCK;
        assert!(length.is_multiple_of(block) && length > 0, "runs are whole blocks");
        let mut quants = Vec::<i8>::with_capacity(total);
        let mut blocks = Vec::<RowBlock>::with_capacity(total / block);
        let (quants_start, blocks_start) = (Pointer(quants.as_mut_ptr()), Pointer(blocks.as_mut_ptr()));
        in_runs(total, length, body, |first, values| {
            let count = values.len();
            // SAFETY: every run has quants and blocks of its own, inside the capacities; zero bytes are values of both.
            let (quants, blocks) = unsafe {
                let (quants, blocks) = (quants_start.get().add(first), blocks_start.get().add(first / block));
                quants.write_bytes(0, count);
                blocks.write_bytes(0, count / block);
                (slice::from_raw_parts_mut(quants, count), slice::from_raw_parts_mut(blocks, count / block))
            };
            quantise(values, block, quants, blocks);
        });
        // SAFETY: the runs have written all of both.
        unsafe {
            quants.set_len(total);
            blocks.set_len(total / block);
        }
        Self { quants, blocks, inputs }
    }

    /// Rows, and values of each.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.quants.len() / self.inputs, self.inputs)
    }

    /// Rows that stay in a core's second-level cache while panel after panel meets them, in whole tiles of any kernel. Each
    /// panel of quantised weights is a few kilobytes, so rows, not weights, are what products of bytes read most of.
    pub(super) fn rows_in_second_level_cache(&self) -> usize {
        const BYTES: usize = 192 << 10;
        const TILE: usize = 4;
        (BYTES / self.inputs.max(1) / TILE).max(1) * TILE
    }

    /// Quants and blocks of the rows from `first` on.
    pub(super) fn rows_from(&self, first: usize) -> (&[i8], &[RowBlock]) {
        let blocks = self.inputs / (span(self.inputs) * BLOCK);
        (&self.quants[first * self.inputs..], &self.blocks[first * blocks..])
    }
}

thread_local! {
    /// A run's values before they are rounded.
    static VALUES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Has `body` compute each run of `length` of `total` values, and `round` take them, with the place of the first.
pub(super) fn in_runs(
    total: usize,
    length: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
    round: impl Fn(usize, &[f32]) + Sync,
) {
    team::for_each(total.div_ceil(length), |run| {
        let first = run * length;
        let count = length.min(total - first);
        VALUES.with_borrow_mut(|values| {
            if values.len() < count {
                values.resize(count, 0.0);
            }
            body(run, &mut values[..count]);
            round(first, &values[..count]);
        });
    });
}

vectorised! {
    /// Quantises blocks of `length` values.
    fn quantise(values: &[f32], length: usize, quants: &mut [i8], blocks: &mut [RowBlock]) {
        for ((values, quants), block) in values.chunks_exact(length).zip(quants.chunks_exact_mut(length)).zip(blocks) {
            let (values, quants) = (values.as_chunks::<BLOCK>().0, quants.as_chunks_mut::<BLOCK>().0);
            let largest = largest_magnitude(values.as_flattened());
            let scale = largest / 127.0;
            if !scale.is_finite() {
                // What it scales must be a number, so that every product with it is none.
                quants.as_flattened_mut().fill(0);
                *block = RowBlock { scale: f32::NAN, sums: [0; MOST_SPAN] };
                continue;
            }
            // Below that, the inverse would overflow; the block is as good as zero.
            let inverse = if largest < 1e-35 { 0.0 } else { 127.0 / largest };
            *block = RowBlock { scale, sums: [0; MOST_SPAN] };
            for ((values, quants), block_sum) in values.iter().zip(quants).zip(&mut block.sums) {
                let mut rounded = [0_i32; BLOCK];
                let mut sum = 0;
                for (rounded, value) in rounded.iter_mut().zip(values) {
                    *rounded = nearest(value * inverse);
                    sum += *rounded;
                }
                let groups = quants.as_chunks_mut::<GROUP>().0.iter_mut().zip(rounded.as_chunks::<GROUP>().0);
                for (quants, rounded) in groups {
                    for place in 0..GROUP / 2 {
                        quants[place] = rounded[2 * place] as i8;
                        quants[GROUP / 2 + place] = rounded[2 * place + 1] as i8;
                    }
                }
                *block_sum = sum as i16;
            }
        }
    }
}
