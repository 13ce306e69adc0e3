//! Few rows by panels: up to 64 by 16 columns at a time, whose sums fill four of the eight registers.
//!
//! Tiles leave the units for vectors idle, so these unpack the weights of the next block meanwhile, and the two kilobytes
//! that hold them never leave the first-level cache. Unpacked before, both panels of a pair, they took as long as this for
//! 64 rows and longer for fewer (16.9 against 15.9 ms, and 11.1 against 8.3 for 24 rows: all of SmolLM2-135M's matrices on
//! two cores of Emerald Rapids).

use std::{
    arch::{
        asm,
        x86_64::{__m512, _MM_HINT_T0, _MM_HINT_T1},
    },
    mem::MaybeUninit,
    ops::Range,
};

use super::{
    super::{
        PANEL,
        block_tile::{AHEAD, Q4_0, Q4_1, Q8_0},
        blocks::BlockFormat,
    },
    Bfloat16Rows, COLUMNS,
    tiles::{RowTile, Weights, format_of, prefetch},
    weights::{Affine, Step, affine, unpack, unpack_group},
};
use crate::tile_registers::{LINE_BYTES, LINES, tile};

/// Tiles of rows that meet a panel together.
const TILES: usize = 4;
/// Rows that meet a panel together.
pub(crate) const ROWS: usize = TILES * LINES;
/// Bytes from one row's sums to the next one's.
const APART: usize = COLUMNS * size_of::<f32>();

/// `[rows][columns]`: results of neighbouring panels lie side by side, as they are stored afterwards. Stored 64 bytes at a
/// time, they would drive each other out of the first-level cache: rows lie pages apart, often in the same few of its sets.
#[repr(C, align(64))]
pub(super) struct Sums([[f32; COLUMNS]; ROWS]);

/// The sums of at most 64 rows with some panels of one format, whole pairs: into `[rows][COLUMNS]`, or a part of it.
///
/// # Safety
/// As [`super::multiply`], with an element behind `sums` for each panel's columns in whole tiles of rows.
pub(super) unsafe fn add_up(x: &Bfloat16Rows, rows: &Range<usize>, weights: &[Weights<'_>], sums: *mut f32) {
    let mut tiles = [(std::ptr::null(), 0); TILES];
    for (tile, first) in tiles.iter_mut().zip(rows.clone().step_by(LINES)) {
        *tile = x.tile(first);
    }
    // SAFETY: the caller's promise; as many tiles of rows exist as are named.
    unsafe {
        match weights[0].format {
            BlockFormat::Q4_0 => add_up_format::<Q4_0>(&tiles, rows.len(), weights, sums),
            BlockFormat::Q4_1 => add_up_format::<Q4_1>(&tiles, rows.len(), weights, sums),
            BlockFormat::Q8_0 => add_up_format::<Q8_0>(&tiles, rows.len(), weights, sums),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
unsafe fn add_up_format<const FORMAT: u8>(
    tiles: &[RowTile; TILES],
    rows: usize,
    weights: &[Weights<'_>],
    sums: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows.div_ceil(LINES) {
            1 => add_up_one::<FORMAT>(tiles[0], weights, sums),
            2 => add_up_several::<FORMAT, 2>(tiles, weights, sums),
            3 => add_up_several::<FORMAT, 3>(tiles, weights, sums),
            _ => add_up_several::<FORMAT, TILES>(tiles, weights, sums),
        }
    }
}

/// The sums of two to four tiles of rows with some panels.
///
/// # Safety
/// The tiles are configured; as many tiles of rows as `COUNT` says have the panels' blocks, and are whole or followed by
/// enough lines.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
unsafe fn add_up_several<const FORMAT: u8, const COUNT: usize>(
    tiles: &[RowTile; TILES],
    weights: &[Weights<'_>],
    sums: *mut f32,
) {
    let bytes = format_of::<FORMAT>().panel_block_bytes();
    let mut kept = MaybeUninit::<[Step; 2]>::uninit();
    let (mut from, mut out) = (kept.as_mut_ptr().cast::<Step>(), kept.as_mut_ptr().cast::<Step>().wrapping_add(1));
    // SAFETY: the caller's promise: each round reads a block of each tile of rows, and unpacked weights that were written
    // in the round before; the end of each panel writes its sums.
    unsafe {
        let (first, inverses) = weights[0].block(0, bytes);
        unpack::<FORMAT>(first, affine::<FORMAT>(first, inverses), from);
        for (place, panel) in weights.iter().enumerate() {
            let mut tiles = *tiles;
            tile!(zero "tmm0");
            tile!(zero "tmm1");
            tile!(zero "tmm2");
            tile!(zero "tmm3");
            // Each panel asks for its like in the next pair, which is read next by one of the threads.
            let pair = 2 * panel.blocks * bytes;
            for block in 0..panel.blocks {
                let (source, inverses) = next_block(weights, place, block, bytes);
                let affine = affine::<FORMAT>(source, inverses);
                tile!(load "tmm4", from, LINE_BYTES);
                tile!(load "tmm5", tiles[0].0, LINE_BYTES);
                tile!(multiply "tmm0", "tmm5", "tmm4");
                prefetch::<_MM_HINT_T1>(source.wrapping_add(pair), bytes, 0);
                unpack_group::<FORMAT>(source, 0, affine, out);
                tile!(load "tmm6", tiles[1].0, LINE_BYTES);
                tile!(multiply "tmm1", "tmm6", "tmm4");
                prefetch::<_MM_HINT_T1>(source.wrapping_add(pair), bytes, 1);
                unpack_group::<FORMAT>(source, 1, affine, out);
                if COUNT > 2 {
                    tile!(load "tmm7", tiles[2].0, LINE_BYTES);
                    tile!(multiply "tmm2", "tmm7", "tmm4");
                }
                prefetch::<_MM_HINT_T1>(source.wrapping_add(pair), bytes, 2);
                unpack_group::<FORMAT>(source, 2, affine, out);
                if COUNT > 3 {
                    tile!(load "tmm5", tiles[3].0, LINE_BYTES);
                    tile!(multiply "tmm3", "tmm5", "tmm4");
                }
                prefetch::<_MM_HINT_T1>(source.wrapping_add(pair), bytes, 3);
                unpack_group::<FORMAT>(source, 3, affine, out);
                for (tile, apart) in tiles.iter_mut().take(COUNT) {
                    *tile = tile.wrapping_add(*apart);
                }
                (from, out) = (out, from);
            }
            let sums = sums.add(place * PANEL);
            tile!(store "tmm0", sums, APART);
            tile!(store "tmm1", sums.add(LINES * COLUMNS), APART);
            if COUNT > 2 {
                tile!(store "tmm2", sums.add(2 * LINES * COLUMNS), APART);
            }
            if COUNT > 3 {
                tile!(store "tmm3", sums.add(3 * LINES * COLUMNS), APART);
            }
        }
    }
}

/// The block to unpack while one of a panel is multiplied: the panel's next one, the first of the next panel, or,
/// behind the last one, the same once more.
///
/// # Safety
/// The panel has the block.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn next_block(weights: &[Weights<'_>], place: usize, block: usize, bytes: usize) -> (*const u8, __m512) {
    // SAFETY: the caller's promise; the next block exists.
    unsafe {
        match weights.get(place + 1) {
            _ if block + 1 < weights[place].blocks => weights[place].block(block + 1, bytes),
            Some(next) => next.block(0, bytes),
            None => weights[place].block(block, bytes),
        }
    }
}

/// The sums of one tile of rows, with both panels of a pair at a time: a tile has less to do for it than it takes to unpack
/// the weights. A row alone, too, is multiplied in a tile: as fast as sixteen.
///
/// # Safety
/// As [`add_up_several`]; panels are pairs.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
unsafe fn add_up_one<const FORMAT: u8>((rows, apart): RowTile, weights: &[Weights<'_>], sums: *mut f32) {
    let bytes = format_of::<FORMAT>().panel_block_bytes();
    let mut kept = MaybeUninit::<[[Step; 2]; 2]>::uninit();
    let (mut from, mut out) = (kept.as_mut_ptr().cast::<Step>(), kept.as_mut_ptr().cast::<Step>().wrapping_add(2));
    // SAFETY: as in `add_up_several`.
    unsafe {
        for (place, panel) in weights.iter().take(2).enumerate() {
            let (first, inverses) = panel.block(0, bytes);
            unpack::<FORMAT>(first, affine::<FORMAT>(first, inverses), from.add(place));
        }
        let mut ahead = Place::default().next(weights);
        let mut affines = ahead.affines::<FORMAT>(weights, bytes);
        for place in (0..weights.len()).step_by(2) {
            let mut rows = rows;
            tile!(zero "tmm0");
            tile!(zero "tmm1");
            for _ in 0..weights[place].blocks {
                let source = weights[ahead.panel].block(ahead.block, bytes).0;
                prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, 0);
                tile!(load "tmm6", rows, LINE_BYTES);
                unpack_group::<FORMAT>(source, 0, affines[0], out);
                prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, 1);
                tile!(load "tmm4", from, LINE_BYTES);
                unpack_group::<FORMAT>(source, 1, affines[0], out);
                prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, 2);
                tile!(multiply "tmm0", "tmm6", "tmm4");
                unpack_group::<FORMAT>(source, 2, affines[0], out);
                prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, 3);
                unpack_group::<FORMAT>(source, 3, affines[0], out);
                // Half a round before they are needed: everything waits for these.
                let following = ahead.next(weights);
                let next_affines = following.affines::<FORMAT>(weights, bytes);
                let source = weights[ahead.panel + 1].block(ahead.block, bytes).0;
                prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, 0);
                unpack_group::<FORMAT>(source, 0, affines[1], out.add(1));
                prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, 1);
                tile!(load "tmm5", from.add(1), LINE_BYTES);
                unpack_group::<FORMAT>(source, 1, affines[1], out.add(1));
                prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, 2);
                tile!(multiply "tmm1", "tmm6", "tmm5");
                unpack_group::<FORMAT>(source, 2, affines[1], out.add(1));
                prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, 3);
                unpack_group::<FORMAT>(source, 3, affines[1], out.add(1));
                (ahead, affines) = (following, next_affines);
                rows = rows.wrapping_add(apart);
                (from, out) = (out, from);
            }
            tile!(store "tmm0", sums.add(place * PANEL), APART);
            tile!(store "tmm1", sums.add((place + 1) * PANEL), APART);
        }
    }
}

/// A block of a pair of panels.
#[derive(Clone, Copy, Default)]
struct Place {
    /// The first of the two.
    panel: usize,
    block: usize,
}

impl Place {
    /// The pair's next block, or the next pair's first one; the last one is followed by itself.
    #[inline]
    fn next(self, weights: &[Weights<'_>]) -> Self {
        match (self.block + 1 < weights[self.panel].blocks, self.panel + 2 < weights.len()) {
            (true, _) => Self { block: self.block + 1, ..self },
            (false, true) => Self { panel: self.panel + 2, block: 0 },
            (false, false) => self,
        }
    }

    /// What makes weights of both panels' quants.
    ///
    /// # Safety
    /// The panels have the block, of `bytes` bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
    unsafe fn affines<const FORMAT: u8>(self, weights: &[Weights<'_>], bytes: usize) -> [Affine; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (first, inverses) = weights[self.panel].block(self.block, bytes);
            let (second, other_inverses) = weights[self.panel + 1].block(self.block, bytes);
            [affine::<FORMAT>(first, inverses), affine::<FORMAT>(second, other_inverses)]
        }
    }
}
