//! Activations in 8 bits, as they meet quantised weights in generation.

use super::blocks::{BLOCK, GROUP};
use crate::{simd::vectorised, team};

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
        assert!(inputs.is_multiple_of(BLOCK) && values.len().is_multiple_of(inputs), "rows are whole blocks");
        let mut quants = vec![0; values.len()];
        let mut blocks = vec![RowBlock::default(); values.len() / BLOCK];
        let mut parts: Vec<_> =
            values.chunks(PART).zip(quants.chunks_mut(PART).zip(blocks.chunks_mut(PART / BLOCK))).collect();
        team::for_each_chunk(&mut parts, 1, |_, parts| {
            for (values, (quants, blocks)) in parts {
                quantise(values, quants, blocks);
            }
        });
        Self { quants, blocks, inputs }
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

/// Values that a task quantises: some microseconds' worth.
const PART: usize = 512 * BLOCK;

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
