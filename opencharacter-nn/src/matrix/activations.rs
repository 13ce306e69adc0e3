//! Activations in 8 bits, as they meet quantised weights in generation.

use std::{cell::RefCell, slice};

use super::blocks::{BLOCK, GROUP};
use crate::{
    simd::vectorised,
    team::{self, Pointer, RUN},
};

/// Rows of activations in blocks of 32, each with a scale of its own: `x = scale * quant`, `quant` from -127 to 127.
///
/// A row's quants depend on that row alone, so a product with them keeps the promise of all products here: a row's
/// result does not depend on its company.
#[derive(Debug)]
pub(crate) struct EightBitRows {
    /// `[rows][inputs]`; of each 8 inputs first the even ones, then the odd ones, as
    /// [`BlockFormat`](super::BlockFormat)'s quants lie.
    quants: Vec<i8>,
    /// `[rows][inputs / 32]`.
    blocks: Vec<RowBlock>,
    inputs: usize,
}

/// What a block's quants have in common.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct RowBlock {
    pub(super) scale: f32,
    /// Sum of the quants.
    pub(super) sum: i32,
    /// `scale * sum`: what a weight's offset is multiplied by.
    pub(super) scaled_sum: f32,
}

impl EightBitRows {
    /// Quantises `[rows, inputs]` values. `inputs` is a multiple of 32.
    pub(crate) fn new(values: &[f32], inputs: usize) -> Self {
        Self::of(values.len(), inputs, RUN, |run, out| out.copy_from_slice(&values[run * RUN..][..out.len()]))
    }

    /// Quantises `total` values, rows of `inputs`, that `body` computes: it is called with the place of each run of
    /// `length` values, a multiple of 32, and must write all of them. They never leave the first-level cache.
    pub(crate) fn of(total: usize, inputs: usize, length: usize, body: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        assert!(inputs.is_multiple_of(BLOCK) && total.is_multiple_of(inputs), "rows are whole blocks");
        assert!(length.is_multiple_of(BLOCK) && length > 0, "runs are whole blocks");
        let mut quants = Vec::<i8>::with_capacity(total);
        let mut blocks = Vec::<RowBlock>::with_capacity(total / BLOCK);
        let (quants_start, blocks_start) = (Pointer(quants.as_mut_ptr()), Pointer(blocks.as_mut_ptr()));
        team::for_each(total.div_ceil(length), |run| {
            let first = run * length;
            let count = length.min(total - first);
            // SAFETY: every run has quants and blocks of its own, inside the capacities; zero bytes are values of both.
            let (quants, blocks) = unsafe {
                let (quants, blocks) = (quants_start.get().add(first), blocks_start.get().add(first / BLOCK));
                quants.write_bytes(0, count);
                blocks.write_bytes(0, count / BLOCK);
                (slice::from_raw_parts_mut(quants, count), slice::from_raw_parts_mut(blocks, count / BLOCK))
            };
            VALUES.with_borrow_mut(|values| {
                if values.len() < count {
                    values.resize(count, 0.0);
                }
                body(run, &mut values[..count]);
                quantise(&values[..count], quants, blocks);
            });
        });
        // SAFETY: the runs have written all of both.
        unsafe {
            quants.set_len(total);
            blocks.set_len(total / BLOCK);
        }
        Self { quants, blocks, inputs }
    }

    /// Rows, and values of each.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.quants.len() / self.inputs, self.inputs)
    }

    /// Panics unless this is `[rows, inputs]`.
    pub(super) fn check(&self, rows: usize, inputs: usize) {
        assert!(self.inputs == inputs && self.quants.len() == rows * inputs, "x has rows x inner elements");
    }

    /// Quants and blocks of the rows from `first` on, and blocks of a row.
    pub(super) fn rows_from(&self, first: usize) -> (&[i8], &[RowBlock], usize) {
        let blocks = self.inputs / BLOCK;
        (&self.quants[first * self.inputs..], &self.blocks[first * blocks..], blocks)
    }
}

thread_local! {
    /// A run's values on their way into 8 bits.
    static VALUES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

vectorised! {
    fn quantise(values: &[f32], quants: &mut [i8], blocks: &mut [RowBlock]) {
        // Adding and subtracting it rounds to the nearest integer, and leaves that integer in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let (values, quants) = (values.as_chunks::<BLOCK>().0, quants.as_chunks_mut::<BLOCK>().0);
        for ((values, quants), block) in values.iter().zip(quants).zip(blocks) {
            // As bits, in which a value that is no number lies above all others: it must show, not vanish.
            let mut largest = 0;
            for value in values {
                largest = largest.max(value.to_bits() & 0x7FFF_FFFF);
            }
            let largest = f32::from_bits(largest);
            let scale = largest / 127.0;
            if !scale.is_finite() {
                // What it scales must be a number, so that every product with it is none.
                quants.fill(0);
                *block = RowBlock { scale: f32::NAN, sum: 0, scaled_sum: f32::NAN };
                continue;
            }
            // Below that, the inverse would overflow; the block is as good as zero.
            let inverse = if largest < 1e-35 { 0.0 } else { 127.0 / largest };
            let mut rounded = [0_i32; BLOCK];
            let mut sum = 0;
            for (rounded, value) in rounded.iter_mut().zip(values) {
                *rounded = (value * inverse + ROUND).to_bits().cast_signed() - ROUND.to_bits().cast_signed();
                sum += *rounded;
            }
            for (quants, rounded) in quants.as_chunks_mut::<GROUP>().0.iter_mut().zip(rounded.as_chunks::<GROUP>().0) {
                for place in 0..GROUP / 2 {
                    quants[place] = rounded[2 * place] as i8;
                    quants[GROUP / 2 + place] = rounded[2 * place + 1] as i8;
                }
            }
            *block = RowBlock { scale, sum, scaled_sum: scale * sum as f32 };
        }
    }
}
