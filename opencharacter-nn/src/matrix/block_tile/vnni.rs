//! The tile on AVX-512 with VNNI, whose dot product takes in four bytes of a lane at once: for few rows, and for what
//! [`four_rows`] leaves of many.

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_add_epi32, _mm512_and_si512,
    _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_cvtps_epi32, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_mullo_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps, _mm512_sub_epi32, _mm512_xor_si512,
};

use super::{
    super::blocks::inverse_units, AHEAD, BLOCK, BlockFormat, BlockTile, COLUMNS, GROUP, PANEL, Q4_0, Q4_1, Q8_0,
    Target, four_rows,
};

/// Rows of a tile: twelve sums of a block and twelve of two, the weights of 8 inputs of two panels and a row's
/// activations fill 29 of the 32 registers.
const ROWS: usize = 6;
/// Fewest rows that are worth [`four_rows`]: what it finds out once for all rows must serve two tiles at least. Given to
/// it, 4 to 7 rows took 1.01 to 1.36 times as long (Zen 5).
const FEWEST: usize = 2 * four_rows::ROWS;

/// # Safety
/// As [`BlockTile::run_on`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn run(tile: BlockTile<'_>, rows: usize, target: Target) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.format {
            BlockFormat::Q4_0 => run_format::<Q4_0>(tile, rows, target),
            BlockFormat::Q4_1 => run_format::<Q4_1>(tile, rows, target),
            BlockFormat::Q8_0 => run_format::<Q8_0>(tile, rows, target),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn run_format<const FORMAT: u8>(tile: BlockTile<'_>, rows: usize, target: Target) {
    let whole = if rows < FEWEST { 0 } else { rows / four_rows::ROWS * four_rows::ROWS };
    // SAFETY: the caller's promise.
    unsafe {
        if whole > 0 {
            four_rows::run::<FORMAT>(tile, whole, target);
        }
        for row in (whole..rows).step_by(ROWS) {
            let (tile, target) = (tile.skip_rows(row), target.skip_rows(row));
            match rows - row {
                1 => run_rows::<FORMAT, 1>(tile, target),
                2 => run_rows::<FORMAT, 2>(tile, target),
                3 => run_rows::<FORMAT, 3>(tile, target),
                4 => run_rows::<FORMAT, 4>(tile, target),
                5 => run_rows::<FORMAT, 5>(tile, target),
                _ => run_rows::<FORMAT, ROWS>(tile, target),
            }
        }
    }
}

/// The even and the odd inputs of 8, as bytes without sign: 4-bit quants as they are, 8-bit ones plus 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn weights<const FORMAT: u8>(quants: *const u8, group: usize) -> [__m512i; 2] {
    // SAFETY: the group lies inside the block.
    unsafe {
        if FORMAT == Q8_0 {
            let source = quants.add(group * GROUP * PANEL);
            let high = _mm512_set1_epi8(-128);
            return [
                _mm512_xor_si512(_mm512_loadu_si512(source.cast()), high),
                _mm512_xor_si512(_mm512_loadu_si512(source.add(64).cast()), high),
            ];
        }
        let mask = _mm512_set1_epi8(15);
        let both = _mm512_loadu_si512(quants.add(group * GROUP * PANEL / 2).cast());
        [_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask)]
    }
}

/// 16 halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn halves(source: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(source.cast())) }
}

/// The scales and offsets of a panel's 4-bit block as multiples of their outputs' units.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn integers<const FORMAT: u8>(source: *const u8, inverse: __m512) -> (__m512i, __m512i) {
    // SAFETY: the block has these halves.
    unsafe {
        let scale = _mm512_cvtps_epi32(_mm512_mul_ps(halves(source), inverse));
        let offset = if FORMAT == Q4_1 {
            _mm512_cvtps_epi32(_mm512_mul_ps(halves(source.add(2 * PANEL)), inverse))
        } else {
            _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<3>(scale))
        };
        (scale, offset)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn run_rows<const FORMAT: u8, const ROWS: usize>(tile: BlockTile<'_>, target: Target) {
    let inverses: [f32; COLUMNS] = inverse_units(tile.units);
    let mut sums = [[0.0_f32; COLUMNS]; ROWS];
    // SAFETY: the target has ROWS rows, and the tile's slices were looked at.
    unsafe {
        add_rows::<FORMAT, ROWS>(tile, &inverses, &mut sums);
        for (row, sums) in sums.iter().enumerate() {
            for first in (0..COLUMNS).step_by(PANEL) {
                let unit = _mm512_loadu_ps(tile.units.as_ptr().add(first));
                let scaled = _mm512_mul_ps(_mm512_loadu_ps(sums.as_ptr().add(first)), unit);
                _mm512_storeu_ps(target.out.add(row * target.stride + first), scaled);
            }
        }
    }
}

/// Sums of floats stay in memory from block to block: those of integers have the registers.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_rows<const FORMAT: u8, const ROWS: usize>(
    tile: BlockTile<'_>,
    inverses: &[f32; COLUMNS],
    sums: &mut [[f32; COLUMNS]; ROWS],
) {
    let block_bytes = tile.span * 2 * tile.format.panel_block_bytes();
    for block in 0..tile.row_blocks() {
        // SAFETY: the tile's slices were looked at; a prefetch reads nothing.
        unsafe {
            for line in (0..block_bytes).step_by(64) {
                // Beyond the matrix this asks for what may not exist, which does nothing.
                let source = tile.pair.as_ptr().add(block * block_bytes);
                _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD + line).cast());
            }
            if FORMAT == Q8_0 {
                add_eight_bits::<ROWS>(tile, block, sums);
            } else {
                add_four_bits::<FORMAT, ROWS>(tile, inverses, block, sums);
            }
        }
    }
}

/// Adds the share of a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_four_bits<const FORMAT: u8, const ROWS: usize>(
    tile: BlockTile<'_>,
    inverses: &[f32; COLUMNS],
    block: usize,
    sums: &mut [[f32; COLUMNS]; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let of_rows = tile.blocks.as_ptr().add(block);
        let mut totals = [[_mm512_setzero_si512(); 2]; ROWS];
        for index in 0..tile.span {
            let weights = block * tile.span + index;
            let dots = dots::<FORMAT, ROWS>(tile, weights, [[_mm512_setzero_si512(); 2]; ROWS]);
            for panel in 0..2 {
                let source = tile.panel_block(weights, panel);
                let inverse = _mm512_loadu_ps(inverses.as_ptr().add(panel * PANEL));
                let (scale, offset) = integers::<FORMAT>(source, inverse);
                for (row, (totals, dots)) in totals.iter_mut().zip(&dots).enumerate() {
                    let row_sum = i32::from((*of_rows.add(row * tile.row_blocks())).sums[index]);
                    let of_row = _mm512_mullo_epi32(_mm512_set1_epi32(row_sum), offset);
                    let share = _mm512_add_epi32(_mm512_mullo_epi32(dots[panel], scale), of_row);
                    totals[panel] = _mm512_add_epi32(totals[panel], share);
                }
            }
        }
        for (row, (totals, sums)) in totals.iter().zip(sums).enumerate() {
            let scale = _mm512_set1_ps((*of_rows.add(row * tile.row_blocks())).scale);
            for (panel, total) in totals.iter().enumerate() {
                let place = sums.as_mut_ptr().add(panel * PANEL);
                _mm512_storeu_ps(place, _mm512_fmadd_ps(_mm512_cvtepi32_ps(*total), scale, _mm512_loadu_ps(place)));
            }
        }
    }
}

/// As [`add_four_bits`], where each of the weights' blocks has a scale of its own in f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_eight_bits<const ROWS: usize>(tile: BlockTile<'_>, block: usize, sums: &mut [[f32; COLUMNS]; ROWS]) {
    // SAFETY: the caller's promise.
    unsafe {
        let of_rows = tile.blocks.as_ptr().add(block);
        for index in 0..tile.span {
            let weights = block * tile.span + index;
            let mut start = [[_mm512_setzero_si512(); 2]; ROWS];
            for (row, start) in start.iter_mut().enumerate() {
                // The weights' bytes are without sign: the 128 that was added to them is taken off here.
                let row_sum = i32::from((*of_rows.add(row * tile.row_blocks())).sums[index]);
                *start = [_mm512_set1_epi32(-128 * row_sum); 2];
            }
            let dots = dots::<Q8_0, ROWS>(tile, weights, start);
            for panel in 0..2 {
                let scale = halves(tile.panel_block(weights, panel));
                for (row, (dots, sums)) in dots.iter().zip(&mut *sums).enumerate() {
                    let of_row = _mm512_set1_ps((*of_rows.add(row * tile.row_blocks())).scale);
                    let place = sums.as_mut_ptr().add(panel * PANEL);
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[panel]), scale);
                    _mm512_storeu_ps(place, _mm512_fmadd_ps(scaled, of_row, _mm512_loadu_ps(place)));
                }
            }
        }
    }
}

/// Adds the products with one of the weights' blocks to `dots`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dots<const FORMAT: u8, const ROWS: usize>(
    tile: BlockTile<'_>,
    block: usize,
    mut dots: [[__m512i; 2]; ROWS],
) -> [[__m512i; 2]; ROWS] {
    let halves_bytes = tile.format.halves_bytes();
    // SAFETY: the caller's promise; a block has four groups.
    unsafe {
        let panels = [0, 1].map(|panel| tile.panel_block(block, panel).add(halves_bytes));
        let values = tile.quants.as_ptr().add(block * BLOCK);
        for group in 0..BLOCK / GROUP {
            let first = weights::<FORMAT>(panels[0], group);
            let second = weights::<FORMAT>(panels[1], group);
            for (row, dots) in dots.iter_mut().enumerate() {
                let values = values.add(row * tile.count * BLOCK + group * GROUP).cast::<[u8; 4]>();
                for (half, (first, second)) in first.into_iter().zip(second).enumerate() {
                    let values = _mm512_set1_epi32(i32::from_le_bytes(*values.add(half)));
                    dots[0] = _mm512_dpbusd_epi32(dots[0], first, values);
                    dots[1] = _mm512_dpbusd_epi32(dots[1], second, values);
                }
            }
        }
    }
    dots
}
