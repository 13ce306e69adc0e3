//! Rows by panels, in tiles: 64 rows by 16 columns at a time, whose sums fill four of the eight registers.
//!
//! Tiles leave the units for vectors idle, so these unpack the weights of the next block meanwhile, anew for every 64 rows,
//! and the two kilobytes that hold them never leave the first-level cache. Unpacked before, 36 KiB of two panels at a time,
//! they took as long as the product of 64 rows by them, most of it in stores that missed that cache (Granite Rapids).

use std::{
    arch::{
        asm,
        x86_64::{
            __m512, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_load_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
            _mm512_mul_ps,
        },
    },
    array::from_fn,
    mem::MaybeUninit,
    ops::Range,
};

use super::{
    super::{
        PANEL,
        block_tile::{AHEAD, Q4_0, Q4_1, Q8_0},
        blocks::{BlockFormat, BlockPanels},
        packed::GROUP,
        tile_registers::{LINE_BYTES, LINES},
    },
    Bfloat16Rows, COLUMNS, Target,
    rows::Line,
    weights::{Affine, Step, affine, unpack, unpack_group},
};

/// Tiles of rows that meet a panel together.
const TILES: usize = 4;
/// Rows that meet a panel together.
pub(crate) const ROWS: usize = TILES * LINES;
/// `[rows][columns]`: results of neighbouring panels lie side by side, as they are stored afterwards.
#[repr(C, align(64))]
struct Sums([[f32; COLUMNS]; ROWS]);

/// A tile of rows: its first line, and how many lines further its next block lies.
type RowTile = (*const Line, usize);

/// Multiplies rows by some panels, at most [`GROUP`](super::super::packed::GROUP).
///
/// Their results are stored together: rows lie pages apart, often in the same few sets of the first-level cache, so that 64
/// bytes of each at a time would drive each other out.
///
/// # Safety
/// As [`super::multiply`], with tiles.
pub(super) unsafe fn multiply(
    x: &Bfloat16Rows,
    rows: &Range<usize>,
    blocks: &BlockPanels,
    panels: &Range<usize>,
    target: Target,
) {
    // Both panels of the last pair, where only one is asked for.
    let last = panels.end.next_multiple_of(2) - 1;
    let weights: [Weights<'_>; GROUP] = from_fn(|place| Weights::new(blocks, (panels.start + place).min(last)));
    let weights = &weights[..panels.len().next_multiple_of(2)];
    let mut sums = MaybeUninit::<Sums>::uninit();
    for row in rows.clone().step_by(ROWS) {
        let count = (rows.end - row).min(ROWS);
        let mut tiles = [(std::ptr::null(), 0); TILES];
        for (tile, first) in tiles.iter_mut().zip((row..row + count).step_by(LINES)) {
            *tile = x.tile(first);
        }
        let sums = sums.as_mut_ptr().cast::<f32>();
        // SAFETY: the caller's promise; as many tiles of rows exist as are named, and sums of their rows are written.
        unsafe {
            match blocks.pair(panels.start / 2).format {
                BlockFormat::Q4_0 => add_up_format::<Q4_0>(&tiles, count, weights, sums),
                BlockFormat::Q4_1 => add_up_format::<Q4_1>(&tiles, count, weights, sums),
                BlockFormat::Q8_0 => add_up_format::<Q8_0>(&tiles, count, weights, sums),
            }
            let out = target.out.add((row - rows.start) * target.stride);
            store(sums, count, panels.len(), Target { out, ..target });
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
            2 => add_up::<FORMAT, 2>(tiles, weights, sums),
            3 => add_up::<FORMAT, 3>(tiles, weights, sums),
            _ => add_up::<FORMAT, TILES>(tiles, weights, sums),
        }
    }
}

/// A panel of a pair.
#[derive(Clone, Copy)]
struct Weights<'a> {
    /// From its first block on; between two of them lies one of the other panel.
    bytes: &'a [u8],
    blocks: usize,
    /// What scales are multiplied by to be multiples of their outputs' units.
    inverses: [f32; PANEL],
}

impl<'a> Weights<'a> {
    fn new(blocks: &'a BlockPanels, panel: usize) -> Self {
        let pair = blocks.pair(panel / 2);
        assert!(pair.blocks() > 0, "there are inputs");
        Self {
            bytes: &pair.bytes[panel % 2 * pair.format.panel_block_bytes()..],
            blocks: pair.blocks(),
            inverses: pair.inverse_units()[panel % 2],
        }
    }

    /// Where a block lies, and what its scales are multiplied by.
    ///
    /// # Safety
    /// The panel has the block, of `bytes` bytes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn block(&self, block: usize, bytes: usize) -> (*const u8, __m512) {
        // SAFETY: the caller's promise.
        unsafe { (self.bytes.as_ptr().add(2 * block * bytes), _mm512_loadu_ps(self.inverses.as_ptr())) }
    }
}

/// An instruction on tiles. Their registers hold their contents from one piece of assembly to the next: nothing else in
/// this program names them.
macro_rules! tile {
    (load $register:tt, $from:expr) => {
        asm!(
            concat!("tileloadd ", $register, ", [{from} + {line}]"),
            from = in(reg) $from,
            line = in(reg) LINE_BYTES,
            out($register) _,
            options(nostack, readonly, preserves_flags),
        )
    };
    (multiply $sum:tt, $rows:tt, $weights:tt) => {
        asm!(
            concat!("tdpbf16ps ", $sum, ", ", $rows, ", ", $weights),
            out($sum) _,
            options(nostack, nomem, preserves_flags),
        )
    };
    (zero $register:tt) => {
        asm!(concat!("tilezero ", $register), out($register) _, options(nostack, nomem, preserves_flags))
    };
    (store $register:tt, $to:expr) => {
        asm!(
            concat!("tilestored [{to} + {line}], ", $register),
            to = in(reg) $to,
            line = in(reg) COLUMNS * size_of::<f32>(),
            options(nostack, preserves_flags),
        )
    };
}

/// The sums of two to four tiles of rows with some panels.
///
/// # Safety
/// The tiles are configured; as many tiles of rows as `COUNT` says have the panels' blocks, and are whole or followed by
/// enough lines.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
unsafe fn add_up<const FORMAT: u8, const COUNT: usize>(
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
                tile!(load "tmm4", from);
                tile!(load "tmm5", tiles[0].0);
                tile!(multiply "tmm0", "tmm5", "tmm4");
                prefetch::<_MM_HINT_T1>(source.wrapping_add(pair), bytes, 0);
                unpack_group::<FORMAT>(source, 0, affine, out);
                tile!(load "tmm6", tiles[1].0);
                tile!(multiply "tmm1", "tmm6", "tmm4");
                prefetch::<_MM_HINT_T1>(source.wrapping_add(pair), bytes, 1);
                unpack_group::<FORMAT>(source, 1, affine, out);
                if COUNT > 2 {
                    tile!(load "tmm7", tiles[2].0);
                    tile!(multiply "tmm2", "tmm7", "tmm4");
                }
                prefetch::<_MM_HINT_T1>(source.wrapping_add(pair), bytes, 2);
                unpack_group::<FORMAT>(source, 2, affine, out);
                if COUNT > 3 {
                    tile!(load "tmm5", tiles[3].0);
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
            tile!(store "tmm0", sums);
            tile!(store "tmm1", sums.add(LINES * COLUMNS));
            if COUNT > 2 {
                tile!(store "tmm2", sums.add(2 * LINES * COLUMNS));
            }
            if COUNT > 3 {
                tile!(store "tmm3", sums.add(3 * LINES * COLUMNS));
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
/// As [`add_up`]; panels are pairs.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
unsafe fn add_up_one<const FORMAT: u8>((rows, apart): RowTile, weights: &[Weights<'_>], sums: *mut f32) {
    let bytes = format_of::<FORMAT>().panel_block_bytes();
    let mut kept = MaybeUninit::<[[Step; 2]; 2]>::uninit();
    let (mut from, mut out) = (kept.as_mut_ptr().cast::<Step>(), kept.as_mut_ptr().cast::<Step>().wrapping_add(2));
    // SAFETY: as in `add_up`.
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
                tile!(load "tmm6", rows);
                unpack_group::<FORMAT>(source, 0, affines[0], out);
                prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD), bytes, 1);
                tile!(load "tmm4", from);
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
                tile!(load "tmm5", from.add(1));
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
            tile!(store "tmm0", sums.add(place * PANEL));
            tile!(store "tmm1", sums.add((place + 1) * PANEL));
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

/// Asks memory for a quarter of the `bytes` bytes from `place` on. It takes requests one after the other, so they are spread.
#[inline]
fn prefetch<const HINT: i32>(place: *const u8, bytes: usize, quarter: usize) {
    let length = bytes.div_ceil(4 * LINE_BYTES) * LINE_BYTES;
    for line in (quarter * length..((quarter + 1) * length).min(bytes)).step_by(LINE_BYTES) {
        // SAFETY: a prefetch of any address does nothing that a program can see.
        unsafe { _mm_prefetch::<HINT>(place.wrapping_add(line).cast()) };
    }
}

const fn format_of<const FORMAT: u8>() -> BlockFormat {
    match FORMAT {
        Q4_0 => BlockFormat::Q4_0,
        Q4_1 => BlockFormat::Q4_1,
        _ => BlockFormat::Q8_0,
    }
}

/// Which of a panel's columns exist, where so many do from its first one on.
fn mask(columns: usize) -> u16 {
    match columns {
        0..PANEL => (1 << columns) - 1,
        _ => u16::MAX,
    }
}

/// The results that sums stand for.
///
/// # Safety
/// `sums` has the sums of `rows` rows with `panels` panels, and so many are writable in `target`.
#[target_feature(enable = "avx512f")]
unsafe fn store(sums: *const f32, rows: usize, panels: usize, target: Target) {
    for row in 0..rows {
        for panel in 0..panels {
            let first = panel * PANEL;
            let exists = mask(target.columns - first);
            // SAFETY: the caller's promise; columns that do not exist are not written.
            unsafe {
                let scale = _mm512_loadu_ps(target.scales.as_ptr().add(first));
                let sum = _mm512_load_ps(sums.add(row * COLUMNS + first));
                let out = target.out.add(row * target.stride + first);
                _mm512_mask_storeu_ps(out, exists, _mm512_mul_ps(sum, scale));
            }
        }
    }
}
