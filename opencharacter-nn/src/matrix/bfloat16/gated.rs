//! Two products as one: a gate and what passes it, whose results never become rows of f32.

use std::{mem::MaybeUninit, ops::Range};

use super::{
    super::{
        BLOCK,
        packed::{GROUP, QuantisedMatrix},
        product::FEWEST_ROWS,
    },
    Bfloat16Rows, COLUMNS, SUMS, few_rows,
    many_rows::{self, Kept},
    rows::Lines,
    scales_of_pair,
    tiles::Weights,
};
use crate::{
    team,
    tile_registers::{LINES, Tiles},
};

/// What `activate` makes of the products of `x` with two matrices of one shape, value by value, rounded again. It is handed
/// as many values of the one as of the other, and must write so many.
///
/// With the products stored as f32 and read again, gate and up of all of SmolLM2-135M's blocks took 51 ms for 512 rows, and
/// as one product 37; for 64 rows 7.6 and 6.1 (two cores of Emerald Rapids).
pub(crate) fn gated_product(
    x: &Bfloat16Rows,
    matrices: [QuantisedMatrix<'_>; 2],
    activate: impl Fn([&[f32]; 2], &mut [f32]) + Sync,
) -> Bfloat16Rows {
    let (rows, inputs) = x.shape();
    let [outputs, _] = matrices.map(|matrix| matrix.outputs);
    for matrix in matrices {
        assert_eq!((matrix.outputs, matrix.blocks.inputs()), (outputs, inputs), "both matrices have one shape");
    }
    assert!(outputs.is_multiple_of(BLOCK), "results are whole blocks");
    let steps = outputs / BLOCK;
    // Rows are cut where there are more threads than blocks of the result.
    let cuts = (2 * team::threads()).div_ceil(steps).min(rows / FEWEST_ROWS).max(1);
    let pass = x.rows_of_a_pass().min(rows.max(1).div_ceil(cuts).next_multiple_of(few_rows::ROWS));
    // Few rows take each block's weights from memory, which hands over few long runs faster than many short ones.
    let length = if rows > few_rows::ROWS { 1 } else { steps.div_ceil(8 * team::threads()) };
    let groups = steps.div_ceil(length);
    let write = |lines: &Lines| {
        let both = Both { x, matrices, lines, activate };
        team::for_each(rows.div_ceil(pass) * groups, |task| {
            let (first, group) = (task / groups * pass, task % groups);
            let rows = first..(first + pass).min(rows);
            let steps = group * length..((group + 1) * length).min(steps);
            // SAFETY: rows in bfloat16 exist on machines with tiles only, a pass begins with a tile, and no other task has
            // these rows' blocks.
            unsafe {
                let _tiles = Tiles::configure();
                if rows.len() <= few_rows::ROWS { both.few_rows(&rows, steps) } else { both.many_rows(&rows, steps) }
            }
        });
    };
    // SAFETY: the tasks write all blocks of all rows.
    unsafe { Bfloat16Rows::written(rows, outputs, write) }
}

/// Both products. A pair of panels gives one block of the result.
struct Both<'a, F> {
    x: &'a Bfloat16Rows,
    matrices: [QuantisedMatrix<'a>; 2],
    lines: &'a Lines,
    activate: F,
}

impl<F: Fn([&[f32]; 2], &mut [f32])> Both<'_, F> {
    /// # Safety
    /// Tiles are configured, the rows begin with a tile, and nobody else writes these blocks of them.
    unsafe fn few_rows(&self, rows: &Range<usize>, steps: Range<usize>) {
        let mut gates = MaybeUninit::<few_rows::Sums>::uninit();
        let mut ups = MaybeUninit::<few_rows::Sums>::uninit();
        let sums = [&mut gates, &mut ups].map(|sums| sums.as_mut_ptr().cast::<f32>());
        for first in steps.clone().step_by(GROUP / 2) {
            let steps = first..(first + GROUP / 2).min(steps.end);
            for (matrix, sums) in self.matrices.iter().zip(sums) {
                let weights = Weights::of_group(matrix.blocks, &(2 * steps.start..2 * steps.end));
                // SAFETY: the caller's promise.
                unsafe { few_rows::add_up(self.x, rows, &weights[..2 * steps.len()], sums) };
            }
            for (place, step) in steps.enumerate() {
                let scales = self.scales(step);
                for row in rows.clone().step_by(LINES) {
                    let start = (row - rows.start) * COLUMNS + place * BLOCK;
                    let sums = sums.map(|sums| sums.wrapping_add(start).cast_const());
                    let rows = (rows.end - row).min(LINES);
                    // SAFETY: the sums have been written; else the caller's promise.
                    unsafe { self.give((row, step), rows, (sums, COLUMNS), &scales) };
                }
            }
        }
    }

    /// # Safety
    /// As [`Both::few_rows`].
    unsafe fn many_rows(&self, rows: &Range<usize>, steps: Range<usize>) {
        SUMS.with_borrow_mut(|[gates, ups]| {
            for step in steps {
                let scales = self.scales(step);
                let [gate, up] = self.matrices.map(|QuantisedMatrix { blocks, .. }| {
                    [2 * step, 2 * step + 1].map(|panel| Weights::new(blocks, panel))
                });
                // SAFETY: the caller's promise; sums of so many rows are there.
                unsafe {
                    many_rows::add_up(self.x, rows, &gate, (gates, Kept::All), |_, _, _| {});
                    many_rows::add_up(self.x, rows, &up, (ups, Kept::UntilGiven), |ups, row, count| {
                        let gates = &gates[(row - rows.start) / many_rows::ROWS];
                        for place in (0..count).step_by(LINES) {
                            let sums = [gates, ups].map(|sums| sums.0[place..].as_flattened().as_ptr());
                            let count = (count - place).min(LINES);
                            self.give((row + place, step), count, (sums, many_rows::COLUMNS), &scales);
                        }
                    });
                }
            }
        });
    }

    /// What both products' sums are multiplied with, for a block of the result.
    fn scales(&self, step: usize) -> [[f32; BLOCK]; 2] {
        self.matrices.map(|matrix| scales_of_pair(matrix.blocks, step))
    }

    /// Activates a block of some rows of a tile, given both products' sums in rows so many elements apart.
    ///
    /// # Safety
    /// 32 sums of each of so many rows are readable, and nobody else writes this block of the rows.
    unsafe fn give(
        &self,
        (row, step): (usize, usize),
        rows: usize,
        (sums, apart): ([*const f32; 2], usize),
        scales: &[[f32; BLOCK]; 2],
    ) {
        let mut values = [[[0.0; BLOCK]; LINES]; 2];
        let mut out = [[0.0; BLOCK]; LINES];
        for ((values, sums), scales) in values.iter_mut().zip(sums).zip(scales) {
            for (row, values) in values[..rows].iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                scale(unsafe { &*sums.add(row * apart).cast() }, scales, values);
            }
        }
        let values = values.each_ref().map(|values| values[..rows].as_flattened());
        (self.activate)(values, out[..rows].as_flattened_mut());
        // SAFETY: the caller's promise.
        unsafe { self.lines.put_column(row, step, &out[..rows]) };
    }
}

/// The results that a row's sums stand for.
fn scale(sums: &[f32; BLOCK], scales: &[f32; BLOCK], out: &mut [f32; BLOCK]) {
    for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
        *out = sum * scale;
    }
}
