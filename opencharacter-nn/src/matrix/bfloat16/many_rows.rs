//! Many rows by a pair of panels: 32 by 32 at a time, whose sums fill four of the eight registers.
//!
//! The pair's weights are unpacked once for all of them, and stay in the first-level cache while rows stream past it: tiles
//! of rows are loaded with the hint that leaves them out of that cache. A step, 32 rows by 32 inputs by 32 columns, then
//! takes 28 ns, what its four products take with all factors near; without the hint it took 37, and with 64 rows by one panel
//! twice as many bytes of rows come from the second-level cache (Emerald Rapids, whose tiles run at 2.3 GHz).

use std::{
    arch::{asm, x86_64::_MM_HINT_T0},
    mem::MaybeUninit,
    ops::Range,
};

use super::{
    super::{
        PANEL,
        block_tile::{AHEAD, Q4_0, Q4_1, Q8_0},
        blocks::BlockFormat,
    },
    Bfloat16Rows,
    tiles::{RowTile, Weights, format_of, prefetch},
    weights::{Step, affine, unpack},
};
use crate::tile_registers::{LINE_BYTES, LINES, spaced, tile};

/// Rows that meet a pair of panels together: two tiles.
pub(super) const ROWS: usize = 2 * LINES;
/// Columns of a pair of panels.
pub(super) const COLUMNS: usize = 2 * PANEL;
/// Bytes from one row's sums to the next one's.
const APART: usize = COLUMNS * size_of::<f32>();
/// Most blocks of a pair of panels that are unpacked at once: 40 of the first-level cache's 48 KiB.
const MOST_STEPS: usize = 20;

/// Sums of 32 rows with a pair of panels.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[f32; COLUMNS]; ROWS]);

/// Where sums stay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of them, in their order.
    All,
    /// Where they are needed again: the next rows' take their place as soon as they were given away.
    UntilGiven,
}

/// The sums of `rows` with a pair of panels. Those of 32 rows at a time are given to `give`, with the first row and how many
/// rows there are.
///
/// # Safety
/// As [`super::multiply`].
pub(super) unsafe fn add_up(
    x: &Bfloat16Rows,
    rows: &Range<usize>,
    weights: &[Weights<'_>; 2],
    (sums, kept): (&mut Vec<Sums>, Kept),
    give: impl FnMut(&Sums, usize, usize),
) {
    let blocks = rows.len().div_ceil(ROWS);
    if sums.len() < blocks {
        sums.resize(blocks, Sums([[0.0; COLUMNS]; ROWS]));
    }
    // SAFETY: the caller's promise.
    unsafe {
        match weights[0].format {
            BlockFormat::Q4_0 => add_up_format::<Q4_0>(x, rows, weights, (sums, kept), give),
            BlockFormat::Q4_1 => add_up_format::<Q4_1>(x, rows, weights, (sums, kept), give),
            BlockFormat::Q8_0 => add_up_format::<Q8_0>(x, rows, weights, (sums, kept), give),
        }
    }
}

/// # Safety
/// As [`add_up`].
unsafe fn add_up_format<const FORMAT: u8>(
    x: &Bfloat16Rows,
    rows: &Range<usize>,
    weights: &[Weights<'_>; 2],
    (sums, kept): (&mut [Sums], Kept),
    mut give: impl FnMut(&Sums, usize, usize),
) {
    let steps = weights[0].blocks;
    let length = steps.div_ceil(steps.div_ceil(MOST_STEPS));
    let mut unpacked = MaybeUninit::<[[Step; 2]; MOST_STEPS]>::uninit();
    let unpacked = unpacked.as_mut_ptr().cast::<[Step; 2]>();
    for first in (0..steps).step_by(length) {
        let chunk = first..(first + length).min(steps);
        // SAFETY: the panels have these blocks, and there is room for so many.
        unsafe { unpack_chunk::<FORMAT>(weights, chunk.clone(), unpacked) };
        for (block, row) in rows.clone().step_by(ROWS).enumerate() {
            let count = (rows.end - row).min(ROWS);
            let sums = if kept == Kept::UntilGiven && length == steps { &mut sums[0] } else { &mut sums[block] };
            let tile = |row| {
                let (line, apart) = x.tile(row);
                (line.wrapping_add(first * apart), apart)
            };
            // Where the second tile does not exist, the first one is multiplied once more, for sums that nobody looks at.
            let tiles = [tile(row), tile(if count > LINES { row + LINES } else { row })];
            // SAFETY: the caller's promise; the tiles have the chunk's blocks.
            unsafe { add_chunk(tiles, unpacked, chunk.len(), sums, first > 0) };
            if chunk.end == steps {
                give(sums, row, count);
            }
        }
    }
}

/// Unpacks some blocks of a pair of panels.
///
/// # Safety
/// The machine has what is needed, the panels have the blocks, and so many are writable.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
unsafe fn unpack_chunk<const FORMAT: u8>(weights: &[Weights<'_>; 2], chunk: Range<usize>, out: *mut [Step; 2]) {
    let bytes = format_of::<FORMAT>().panel_block_bytes();
    for (place, block) in chunk.enumerate() {
        for (panel, weights) in weights.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let (source, inverses) = weights.block(block, bytes);
                (0..4).for_each(|quarter| prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, quarter));
                let out = out.add(place).cast::<Step>().add(panel);
                unpack::<FORMAT>(source, affine::<FORMAT>(source, inverses), out);
            }
        }
    }
}

/// Adds the products of a chunk's `steps` blocks to the sums of two tiles of rows; sums begin with them unless they are to
/// `go_on`.
///
/// # Safety
/// The tiles are configured; so many blocks lie in both tiles of rows, which are whole or followed by enough lines, and in
/// `weights`.
unsafe fn add_chunk(
    [(first, first_apart), (second, second_apart)]: [RowTile; 2],
    weights: *const [Step; 2],
    steps: usize,
    sums: &mut Sums,
    go_on: bool,
) {
    let [upper_left, upper_right, lower_left, lower_right] = corners(sums);
    // SAFETY: the caller's promise; the four corners are all of the sums.
    unsafe {
        if go_on {
            tile!(load "tmm0", upper_left, APART);
            tile!(load "tmm1", upper_right, APART);
            tile!(load "tmm2", lower_left, APART);
            tile!(load "tmm3", lower_right, APART);
        } else {
            tile!(zero "tmm0");
            tile!(zero "tmm1");
            tile!(zero "tmm2");
            tile!(zero "tmm3");
        }
        asm!(
            "2:",
            spaced!("tileloaddt1 tmm4, [{first} + {line}]"),
            spaced!("tileloadd tmm6, [{weights} + {line}]"),
            spaced!("tdpbf16ps tmm0, tmm4, tmm6"),
            spaced!("tileloadd tmm7, [{weights} + {line} + 1024]"),
            spaced!("tdpbf16ps tmm1, tmm4, tmm7"),
            spaced!("tileloaddt1 tmm5, [{second} + {line}]"),
            spaced!("tdpbf16ps tmm2, tmm5, tmm6"),
            spaced!("tdpbf16ps tmm3, tmm5, tmm7"),
            "add {weights}, 2048",
            "add {first}, {first_apart}",
            "add {second}, {second_apart}",
            "sub {steps}, 1",
            "jnz 2b",
            first = inout(reg) first => _,
            first_apart = in(reg) first_apart * LINE_BYTES,
            second = inout(reg) second => _,
            second_apart = in(reg) second_apart * LINE_BYTES,
            weights = inout(reg) weights => _,
            steps = inout(reg) steps => _,
            line = in(reg) LINE_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
        tile!(store "tmm0", upper_left, APART);
        tile!(store "tmm1", upper_right, APART);
        tile!(store "tmm2", lower_left, APART);
        tile!(store "tmm3", lower_right, APART);
    }
}

/// The first sum of each tile: those of the first 16 rows with both panels, then those of the others.
fn corners(sums: &mut Sums) -> [*mut f32; 4] {
    let first = sums.0.as_flattened_mut().as_mut_ptr();
    [0, PANEL, LINES * COLUMNS, LINES * COLUMNS + PANEL].map(|place| first.wrapping_add(place))
}
