//! Values as digits, in the layout of the tiles.

use super::super::PANEL;
use crate::{
    simd::{largest_magnitude, vectorised},
    tile_registers::{LINE_BYTES, LINES},
};

/// Values of an inner product that one tile of digits holds.
pub(super) const STEP: usize = LINE_BYTES;
/// Digits of a number.
pub(super) const DIGITS: usize = 3;
/// The greatest number: as digits of -128 to 127 it is 127, 127, 0. Some room is left for a quotient's rounding.
const GREATEST: f32 = 8_355_584.0;
/// A result's first sum counts 2^32 times what the digits say; half of that is each factor's.
const FIRST: f32 = 65_536.0;

/// Half of each digit's range.
const HALVES: i32 = 0x0080_8080;

/// 16 lines of 64 bytes, as a tile is loaded. A left factor has a line for each row. A right factor has one for each 4
/// values of the inner product, and in it those of 16 columns side by side.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Digits(pub(super) [[i8; STEP]; LINES]);

/// The digits of a step, the highest ones first.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Step(pub(super) [Digits; DIGITS]);

impl Step {
    pub(super) const ZERO: Self = Self([Digits([[0; STEP]; LINES]); DIGITS]);
}

impl Digits {
    /// Four digits at a time, as something that [`turn`](super::turn) moves; nobody computes with it.
    pub(super) fn as_floats(&self) -> [f32; LINES * LINES] {
        // SAFETY: both are 1,024 bytes of which every pattern is a value.
        unsafe { std::mem::transmute(self.0) }
    }

    pub(super) fn as_floats_mut(&mut self) -> &mut [f32; LINES * LINES] {
        // SAFETY: as above, and better aligned.
        unsafe { &mut *std::ptr::from_mut(self).cast() }
    }
}

/// What a line's sums are multiplied with, and its values before they are rounded; no number where a value is none.
fn scales(largest: f32) -> (f32, f32) {
    if !largest.is_finite() {
        return (f32::NAN, 0.0);
    }
    // Below that, the inverse would overflow; the values are as good as zero.
    let inverse = if largest < 1e-30 { 0.0 } else { GREATEST / largest };
    (largest / GREATEST * FIRST, inverse)
}

/// The three digits of `value * inverse`, each in 8 bits, the highest one above the others.
#[expect(clippy::inline_always, reason = "a helper must become part of the copy that is compiled for newer processors")]
#[inline(always)]
fn digits(value: f32, inverse: f32) -> u32 {
    let scaled = if inverse == 0.0 { 0.0 } else { value * inverse };
    // SAFETY: the largest finite magnitude times its inverse is near 2^23; where a value is no number, the inverse is 0.
    let number: i32 = unsafe { scaled.round_ties_even().to_int_unchecked() };
    // Added, it carries; then it is taken away from each digit alone.
    ((number + HALVES) ^ HALVES).cast_unsigned()
}

vectorised! {
    /// Splits `values`, at most 64 for each of `steps`, into a line of them. Returns the line's scale.
    pub(super) fn split_row(values: &[f32], line: usize, steps: &mut [Step]) -> f32 {
        let (scale, inverse) = scales(largest_magnitude(values));
        let (whole, rest) = values.as_chunks::<STEP>();
        let mut last = [0.0; STEP];
        last[..rest.len()].copy_from_slice(rest);
        for (values, Step([high, middle, low])) in whole.iter().chain([&last]).zip(steps) {
            let [high, middle, low] = [high, middle, low].map(|digits| &mut digits.0[line]);
            for (place, value) in values.iter().enumerate() {
                let digits = digits(*value, inverse);
                high[place] = (digits >> 16) as i8;
                middle[place] = (digits >> 8) as i8;
                low[place] = digits as i8;
            }
        }
        scale
    }
}

vectorised! {
    /// Splits a panel, rows of 16 columns, into all of `steps`, and sets its columns' scales.
    pub(super) fn split_panel(values: &[f32], steps: &mut [Step], column_scales: &mut [f32; LINES]) {
        let rows = values.as_chunks::<PANEL>().0;
        let mut largest = [0_u32; PANEL];
        for row in rows {
            for (largest, value) in largest.iter_mut().zip(row) {
                *largest = (value.to_bits() & 0x7FFF_FFFF).max(*largest);
            }
        }
        let mut inverses = [0.0; PANEL];
        for ((scale, inverse), largest) in column_scales.iter_mut().zip(&mut inverses).zip(largest) {
            (*scale, *inverse) = scales(f32::from_bits(largest));
        }
        let (fours, rest) = rows.as_chunks::<4>();
        for (place, four) in fours.iter().enumerate() {
            split_four(four, &inverses, &mut steps[place / LINES], place % LINES);
        }
        let mut last = [[0.0; PANEL]; 4];
        last[..rest.len()].copy_from_slice(rest);
        for place in fours.len()..steps.len() * LINES {
            split_four(&last, &inverses, &mut steps[place / LINES], place % LINES);
            last = [[0.0; PANEL]; 4];
        }
    }
}

/// Splits four rows of a panel into a line of a step. Each column's four digits are put side by side in registers.
#[expect(clippy::inline_always, reason = "as `digits`")]
#[inline(always)]
fn split_four(four: &[[f32; PANEL]; 4], inverses: &[f32; PANEL], Step(step): &mut Step, line: usize) {
    let mut words = [[0_u32; PANEL]; DIGITS];
    for column in 0..PANEL {
        let [first, second, third, fourth] = [0, 1, 2, 3].map(|row| digits(four[row][column], inverses[column]));
        let upper = |digits: u32| digits & 0x00FF_0000;
        let middle = |digits: u32| digits & 0x0000_FF00;
        let lower = |digits: u32| digits & 0x0000_00FF;
        words[0][column] = upper(first) >> 16 | upper(second) >> 8 | upper(third) | upper(fourth) << 8;
        words[1][column] = middle(first) >> 8 | middle(second) | middle(third) << 8 | middle(fourth) << 16;
        words[2][column] = lower(first) | lower(second) << 8 | lower(third) << 16 | lower(fourth) << 24;
    }
    for (digits, words) in step.iter_mut().zip(&words) {
        for (bytes, word) in digits.0[line].as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes().map(u8::cast_signed);
        }
    }
}
