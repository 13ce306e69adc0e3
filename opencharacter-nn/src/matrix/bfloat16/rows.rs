//! Activations in bfloat16.

use super::{
    super::{
        activations::in_runs,
        blocks::{BLOCK, GROUP},
    },
    RAISED, few_rows,
};
use crate::{simd::vectorised, team::Pointer, tile_registers::LINES};

/// A row's 32 values of a block: of each 8, the first, the fifth, the second, the sixth and so on, as
/// [`weights`](super::weights) pairs them.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(PartialEq))]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u16; BLOCK]);

/// Most rows of a pass: 64 KiB of sums.
const MOST_ROWS: usize = 512;

/// Least magnitude of a raised activation that is not taken for zero: `bfloat16/mod.rs` says why.
const LEAST: f32 = 16_384.0;

/// Rows of activations in bfloat16, raised by 2^96 and in the layout of tiles.
///
/// A row's values depend on that row alone, so a product with them keeps the promise of all products here.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) struct Bfloat16Rows {
    /// `[tiles][inputs / 32][rows of the tile]`, 16 rows to a tile but for the last one; behind them as many lines as that
    /// one lacks, because a tile is loaded whole.
    lines: Vec<Line>,
    rows: usize,
    inputs: usize,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Bfloat16Rows {
    /// Rounds `total` values, rows of `inputs`, that `body` computes: as
    /// [`EightBitRows::of`](super::super::activations::EightBitRows::of).
    pub(crate) fn of(total: usize, inputs: usize, length: usize, body: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        assert!(inputs.is_multiple_of(BLOCK) && total.is_multiple_of(inputs), "rows are whole blocks");
        assert!(length.is_multiple_of(BLOCK) && length > 0, "runs are whole blocks");
        let steps = inputs / BLOCK;
        let write = |lines: &Lines| {
            in_runs(total, length, body, |first, values| {
                let mut index = first / BLOCK;
                let mut values = values.as_chunks::<BLOCK>().0;
                while !values.is_empty() {
                    let (row, step) = (index / steps, index % steps);
                    let (of_row, rest) = values.split_at((steps - step).min(values.len()));
                    // SAFETY: each run has blocks of its own.
                    unsafe { lines.put_row(row, step, of_row) };
                    index += of_row.len();
                    values = rest;
                }
            });
        };
        // SAFETY: the runs write all blocks of all rows.
        unsafe { Self::written(total / inputs, inputs, write) }
    }

    /// Rows of `inputs` values that `write` puts into their lines.
    ///
    /// # Safety
    /// It puts all of them.
    pub(super) unsafe fn written(rows: usize, inputs: usize, write: impl FnOnce(&Lines)) -> Self {
        let (count, spare) = (rows * inputs / BLOCK, LINES);
        let mut lines = Vec::<Line>::with_capacity(count + spare);
        write(&Lines { start: Pointer(lines.as_mut_ptr()), rows, steps: inputs / BLOCK });
        // SAFETY: the caller's promise, and zero bytes are a line.
        unsafe {
            lines.as_mut_ptr().add(count).write_bytes(0, spare);
            lines.set_len(count + spare);
        }
        Self { lines, rows, inputs }
    }

    /// Rows that meet panel after panel together: as many as stay in a core's second-level cache, in whole tiles.
    pub(crate) fn rows_of_a_pass(&self) -> usize {
        const BYTES: usize = 1 << 20;
        let fit = BYTES / (self.inputs * size_of::<u16>());
        (fit / few_rows::ROWS * few_rows::ROWS).clamp(few_rows::ROWS, MOST_ROWS)
    }

    /// Rows, and values of each.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows, self.inputs)
    }

    /// The first line of the tile that begins with `row`, and how many lines further its next block lies.
    pub(super) fn tile(&self, row: usize) -> (*const Line, usize) {
        assert!(row.is_multiple_of(LINES) && row < self.rows, "a tile's first row");
        (&raw const self.lines[place(self.rows, self.inputs / BLOCK, row, 0)], lines_of_tile(self.rows, row))
    }
}

/// Rows that are being written.
pub(super) struct Lines {
    start: Pointer<Line>,
    rows: usize,
    /// Blocks of a row.
    steps: usize,
}

impl Lines {
    /// Rounds some blocks of a row, from block `step` on.
    ///
    /// # Safety
    /// The row has these blocks, and nobody else writes them.
    unsafe fn put_row(&self, row: usize, step: usize, blocks: &[[f32; BLOCK]]) {
        // SAFETY: the caller's promise: each block has a line of its own.
        unsafe { round(blocks, self.line(row, step), lines_of_tile(self.rows, row)) };
    }

    /// Rounds one block of some rows of a tile, from `row` on.
    ///
    /// # Safety
    /// As [`Lines::put_row`].
    pub(super) unsafe fn put_column(&self, row: usize, step: usize, blocks: &[[f32; BLOCK]]) {
        // SAFETY: the caller's promise: a tile's lines of one block lie side by side.
        unsafe { round(blocks, self.line(row, step), 1) };
    }

    /// # Safety
    /// The row has the block.
    unsafe fn line(&self, row: usize, step: usize) -> *mut Line {
        // SAFETY: the caller's promise.
        unsafe { self.start.get().add(place(self.rows, self.steps, row, step)) }
    }
}

/// Lines of the tile that a row belongs to.
fn lines_of_tile(rows: usize, row: usize) -> usize {
    LINES.min(rows - row / LINES * LINES)
}

/// Which line holds a block of a row.
fn place(rows: usize, steps: usize, row: usize, step: usize) -> usize {
    row / LINES * LINES * steps + step * lines_of_tile(rows, row) + row % LINES
}

vectorised! {
    /// Raises and rounds blocks into lines so far apart, half-way cases to even. What is no number, or was raised to
    /// none, is none.
    fn round(blocks: &[[f32; BLOCK]], first: *mut Line, apart: usize) {
        for (index, values) in blocks.iter().enumerate() {
            let mut words = [0_u32; BLOCK];
            for (word, value) in words.iter_mut().zip(values) {
                let raised = value * RAISED;
                let bits = raised.to_bits();
                let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
                let rounded = if raised.abs() < LEAST { 0 } else { rounded };
                *word = if raised.abs() < f32::INFINITY { rounded } else { 0x7FC0 };
            }
            let mut out = Line([0; BLOCK]);
            for (out, words) in out.0.as_chunks_mut::<GROUP>().0.iter_mut().zip(words.as_chunks::<GROUP>().0) {
                for pair in 0..GROUP / 2 {
                    out[2 * pair] = words[pair] as u16;
                    out[2 * pair + 1] = words[pair + GROUP / 2] as u16;
                }
            }
            // SAFETY: the caller has a line for each block.
            unsafe { first.add(index * apart).write(out) };
        }
    }
}
