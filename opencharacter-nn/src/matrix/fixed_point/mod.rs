//! Products of f32 matrices by a processor's integer tiles (AMX), to the accuracy of f32.
//!
//! Each row of the left matrix and each column of the right one is written as its largest magnitude's share times integers
//! of 24 bits, and these as three digits of 8 bits (Ozaki, Ogita, Oishi and Rump, 2012, on error-free splitting; Ootomo,
//! Ozaki and Yokota, 2024, on integer units). A product of two such numbers is nine products of digits, and integers add up
//! without rounding: only the last one, of both lowest digits, is left out, some 2^-32 of the largest products. What
//! remains is the rounding of values to 24 bits of the largest magnitude in their row. In the products of SmolLM2-135M's
//! layers, forward and backward, that is a third to four times what a chain of as many fused multiply-adds rounds away
//! (2 to 16e-7 of a result's root mean square against 2 to 8e-7), more where a row has large outliers, less where it is
//! long; leaving two more products out, 1.3 times as fast on paper, made it 2 to 9 times.
//!
//! Exact sums have no order. A result's bits therefore depend neither on the rows beside it nor on threads, only on how
//! the inner product is cut into chunks, which is a constant.
//!
//! A tile multiplies 64 digits of 16 rows by 64 of 16 columns in 16 cycles, 32 times what two units for multiply-adds of 16
//! lanes do: with eight products of digits for one, four times as much is left. On a core of Emerald Rapids whose best loop
//! of multiply-adds gives 155 GFLOP/s, sums of this kind give 475, and 200 while something runs on its second thread.
//! Writing values as digits takes its share of that.

#[cfg(target_arch = "x86_64")]
mod amx;
mod split;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, ops::Range, slice, sync::OnceLock};

use super::{PANEL, Panels, outer::copy_strip, turn::turn};
use crate::{
    simd,
    team::{self, Pointer},
    tile_registers::{LINES, TileType, has_tiles_of},
};
use split::{STEP, Step, split_panel, split_row};

/// Most values of an inner product that share a scale. 6 panels of 1,536 x 16 digits are 432 KiB, which with the f32 they
/// are made of fits the second-level cache of 2 MiB that every core with these tiles has.
pub(super) const CHUNK: usize = 1536;

/// Rows of a tile.
pub(super) const ROWS: usize = LINES;

/// Whether this machine has the tiles, and its system lets this process use them.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| simd::has_avx512() && has_tiles_of(TileType::Int8))
}

/// The chunks of an inner product of `length` values: whole steps, about equally long.
pub(super) fn chunks(length: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let chunk = length.div_ceil(length.div_ceil(CHUNK).max(1)).next_multiple_of(STEP).max(STEP);
    (0..length).step_by(chunk).map(move |start| start..(start + chunk).min(length))
}

/// Digits of one chunk of many lines (rows of a left matrix, or its columns where it is turned), 16 lines to a tile.
struct Lines {
    /// `[tiles][steps]`.
    digits: Vec<Step>,
    steps: usize,
    /// What a line's sums are multiplied with.
    scales: Vec<[f32; LINES]>,
}

impl Lines {
    /// `fill` is called with each tile's place, its digits, all zero, and its scales, also zero.
    fn new(lines: usize, length: usize, fill: impl Fn(usize, &mut [Step], &mut [f32; LINES]) + Sync) -> Self {
        let (tiles, steps) = (lines.div_ceil(LINES), length.div_ceil(STEP));
        let mut digits = Vec::<Step>::with_capacity(tiles * steps);
        let mut scales = vec![[0.0; LINES]; tiles];
        let start = Pointer(digits.as_mut_ptr());
        team::for_each_chunk(&mut scales, 1, |tile, scales| {
            // SAFETY: each tile has steps of its own inside the capacity, and zero bytes are digits.
            let digits = unsafe {
                let first = start.get().add(tile * steps);
                first.write_bytes(0, steps);
                slice::from_raw_parts_mut(first, steps)
            };
            fill(tile, digits, &mut scales[0]);
        });
        // SAFETY: the loop has written all of them.
        unsafe { digits.set_len(tiles * steps) };
        Self { digits, steps, scales }
    }

    fn tile(&self, index: usize) -> (&[Step], &[f32; LINES]) {
        (&self.digits[index * self.steps..(index + 1) * self.steps], &self.scales[index])
    }
}

/// Most chunks of a very long inner product that are digits at once: so many are at home in the caches, and a head's
/// gradients, as wide as the vocabulary, would be tens of megabytes.
const PART: usize = 4;

/// A left factor, `[rows, inner]`, in digits: by its rows' scales in each chunk of the inner product.
pub(crate) struct FixedPointRows {
    chunks: Vec<(Range<usize>, Lines)>,
    rows: usize,
    inner: usize,
}

impl FixedPointRows {
    /// Splits `[rows, inner]` values.
    pub(super) fn new(values: &[f32], inner: usize) -> Self {
        Self::of(values, inner, chunks(inner))
    }

    /// The same, a part of the inner product at a time; the parts' products add up.
    pub(super) fn parts(values: &[f32], inner: usize) -> impl Iterator<Item = Self> {
        let count = chunks(inner).count();
        (0..count).step_by(PART).map(move |first| Self::of(values, inner, chunks(inner).skip(first).take(PART)))
    }

    fn of(values: &[f32], inner: usize, chunks: impl Iterator<Item = Range<usize>>) -> Self {
        let rows = values.len() / inner.max(1);
        assert_eq!(values.len(), rows * inner, "values are whole rows");
        let split = |chunk: Range<usize>| {
            let lines = Lines::new(rows, chunk.len(), |tile, steps, scales| {
                let rows = values[tile * LINES * inner..].chunks(inner).take(LINES);
                for ((line, row), scale) in rows.enumerate().zip(scales) {
                    *scale = split_row(&row[chunk.clone()], line, steps);
                }
            });
            (chunk, lines)
        };
        Self { chunks: chunks.map(split).collect(), rows, inner }
    }

    /// Panics unless this is `[rows, inner]`.
    pub(super) fn check(&self, rows: usize, inner: usize) {
        assert!(self.inner == inner && self.rows == rows, "x has rows x inner elements");
    }

    /// Each chunk's place in the inner product, and its digits.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (&Range<usize>, LeftDigits<'_>)> {
        self.chunks.iter().map(|(place, lines)| (place, LeftDigits(lines)))
    }
}

/// A left factor of weight gradients: the columns of `[tokens, features]` values, at most [`CHUNK`] tokens.
pub(super) struct FixedPointColumns(Lines);

impl FixedPointColumns {
    pub(super) fn new(values: &[f32], features: usize) -> Self {
        let tokens = values.len() / features.max(1);
        Self(Lines::new(features, tokens, |tile, steps, scales| {
            STRIP.with_borrow_mut(|strip| {
                strip.resize(CHUNK * PANEL, 0.0);
                let strip = &mut strip[..tokens * PANEL];
                copy_strip(values, features, tile * LINES, tokens, PANEL, strip);
                split_panel(strip, steps, scales);
            });
            for digits in steps.iter_mut().flat_map(|step| &mut step.0) {
                // A column's digits lie four by four below each other; as a row they lie side by side.
                let words = digits.as_floats();
                turn(&words, digits.as_floats_mut());
            }
        }))
    }

    pub(super) fn digits(&self) -> LeftDigits<'_> {
        LeftDigits(&self.0)
    }
}

/// One chunk of a left factor.
#[derive(Clone, Copy)]
pub(super) struct LeftDigits<'a>(&'a Lines);

thread_local! {
    /// A strip of values on its way into digits.
    static STRIP: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PANEL_DIGITS: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

/// One chunk of some panels of the right factor.
pub(super) struct RightDigits<'a> {
    /// `[panels][steps]`.
    digits: &'a [Step],
    steps: usize,
    scales: Vec<[f32; LINES]>,
}

impl RightDigits<'_> {
    /// Splits panels of `length` rows, and calls `body` with them; the buffer is kept for the next ones.
    ///
    /// # Safety
    /// Behind each panel lie `length` x 16 elements.
    pub(super) unsafe fn with<R>(panels: Panels<f32>, length: usize, body: impl FnOnce(&RightDigits<'_>) -> R) -> R {
        let steps = length.div_ceil(STEP);
        PANEL_DIGITS.with_borrow_mut(|digits| {
            if digits.len() < panels.count * steps {
                digits.resize(panels.count * steps, Step::ZERO);
            }
            let mut scales = vec![[0.0; LINES]; panels.count];
            for (index, (digits, scales)) in digits.chunks_exact_mut(steps).zip(&mut scales).enumerate() {
                // SAFETY: the caller's promise.
                let values = unsafe { slice::from_raw_parts(panels.first.add(index * panels.stride), length * PANEL) };
                split_panel(values, digits, scales);
            }
            body(&RightDigits { digits: &digits[..panels.count * steps], steps, scales })
        })
    }

    /// Multiplies a tile of the left factor by one panel, and stores to, or adds to, `out`.
    ///
    /// # Safety
    /// This thread's [`Tiles`](crate::tile_registers::Tiles) are configured. `out` is writable (and, to accumulate,
    /// initialised) for its rows and columns.
    pub(super) unsafe fn multiply(&self, left: LeftDigits<'_>, tile: usize, panel: usize, out: &Corner) {
        let (left, left_scales) = left.0.tile(tile);
        assert_eq!(left.len(), self.steps, "both factors are as long");
        let right = &self.digits[panel * self.steps..(panel + 1) * self.steps];
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise.
        unsafe {
            amx::multiply(left, right, [left_scales, &self.scales[panel]], out);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (left, left_scales, right, out);
    }
}

/// Where a tile's results go.
pub(super) struct Corner {
    pub(super) out: *mut f32,
    /// Elements from one row to the next.
    pub(super) stride: usize,
    /// How much of a tile exists, up to 16 x 16.
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) accumulate: bool,
}
