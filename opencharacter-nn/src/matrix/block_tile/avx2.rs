//! The tile on AVX2, with weights as they lie in memory: 8-bit ones, and 4-bit ones for what rows
//! [`unpacked`](super::unpacked) leaves.

use std::arch::{
    asm,
    x86_64::{
        __m256, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_abs_epi8, _mm256_add_epi16,
        _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_or_si256,
        _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_sign_epi8,
        _mm256_slli_epi32, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_sub_epi32,
    },
};

use super::{
    super::blocks::inverse_units, AHEAD, BLOCK, BlockFormat, BlockTile, COLUMNS, GROUP, PANEL, Q4_0, Q4_1, Q8_0,
    Target, unpacked,
};

/// Lanes of a register.
pub(super) const LANES: usize = 8;
/// Most rows of a tile.
const ROWS: usize = 4;

/// # Safety
/// As [`BlockTile::run_on`].
#[target_feature(enable = "avx2,fma,f16c")]
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

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_format<const FORMAT: u8>(tile: BlockTile<'_>, rows: usize, target: Target) {
    let inverses: [f32; COLUMNS] = inverse_units(tile.units);
    let unpacked = if FORMAT == Q8_0 { 0 } else { rows / unpacked::ROWS * unpacked::ROWS };
    // SAFETY: the caller's promise.
    unsafe {
        if unpacked > 0 {
            unpacked::run::<FORMAT>(tile, &inverses, unpacked, target);
        }
        for row in (unpacked..rows).step_by(ROWS) {
            let (tile, target) = (tile.skip_rows(row), target.skip_rows(row));
            // The others' next weights were asked for while the unpacked ones met most rows.
            if FORMAT == Q8_0 && rows > ROWS {
                tile.prefetch_next(row / ROWS, rows.div_ceil(ROWS));
            }
            match rows - row {
                1 => run_rows::<FORMAT, 1, 4>(tile, &inverses, target),
                2 => run_rows::<FORMAT, 2, 2>(tile, &inverses, target),
                3 => run_rows::<FORMAT, 3, 2>(tile, &inverses, target),
                _ => run_rows::<FORMAT, ROWS, 2>(tile, &inverses, target),
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_rows<const FORMAT: u8, const ROWS: usize, const PARTS: usize>(
    tile: BlockTile<'_>,
    inverses: &[f32; COLUMNS],
    target: Target,
) {
    // Not in the target, whose rows may drive each other out of the first-level cache.
    let mut sums = [[0.0_f32; COLUMNS]; ROWS];
    // SAFETY: the target has ROWS rows, and the tile's slices were looked at.
    unsafe {
        add_rows::<FORMAT, ROWS, PARTS>(tile, inverses, &mut sums);
        for (row, sums) in sums.iter().enumerate() {
            for first in (0..COLUMNS).step_by(LANES) {
                let unit = _mm256_loadu_ps(tile.units.as_ptr().add(first));
                let scaled = _mm256_mul_ps(_mm256_loadu_ps(sums.as_ptr().add(first)), unit);
                _mm256_storeu_ps(target.out.add(row * target.stride + first), scaled);
            }
        }
    }
}

/// Sums stay in memory from block to block. Were this part of its caller, the compiler would want all of them in
/// registers at once and move them to and fro instead.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_rows<const FORMAT: u8, const ROWS: usize, const PARTS: usize>(
    tile: BlockTile<'_>,
    inverses: &[f32; COLUMNS],
    sums: &mut [[f32; COLUMNS]; ROWS],
) {
    let block_bytes = tile.span * 2 * format_of::<FORMAT>().panel_block_bytes();
    for block in 0..tile.row_blocks() {
        // SAFETY: the tile's slices were looked at; a prefetch reads nothing.
        unsafe {
            // Many rows read the weights from a near cache, and have no time for this.
            for line in (0..if ROWS == 1 { block_bytes } else { 0 }).step_by(64) {
                let source = tile.pair.as_ptr().add(block * block_bytes);
                _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD + line).cast());
            }
            for first in (0..COLUMNS / LANES).step_by(PARTS) {
                if FORMAT == Q8_0 {
                    add_eight_bits::<ROWS, PARTS>(tile, block, first, sums);
                } else {
                    add_four_bits::<FORMAT, ROWS, PARTS>(tile, inverses, block, first, sums);
                }
            }
        }
    }
}

/// Adds the share of a block of activations and `PARTS` parts of 8 lanes, from the `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_four_bits<const FORMAT: u8, const ROWS: usize, const PARTS: usize>(
    tile: BlockTile<'_>,
    inverses: &[f32; COLUMNS],
    block: usize,
    first: usize,
    sums: &mut [[f32; COLUMNS]; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let of_rows = tile.blocks.as_ptr().add(block);
        let mut totals = [[_mm256_setzero_si256(); PARTS]; ROWS];
        for index in 0..tile.span {
            let weights = block * tile.span + index;
            let dots = dots::<FORMAT, ROWS, PARTS>(tile, weights, first);
            for part in 0..PARTS {
                let source = panel_block::<FORMAT>(tile, weights, first + part);
                let lanes = (first + part) % (PANEL / LANES) * LANES;
                let inverse = _mm256_loadu_ps(inverses.as_ptr().add((first + part) * LANES));
                let (scale, offset) = integers::<FORMAT>(source, lanes, inverse);
                for (row, (totals, dots)) in totals.iter_mut().zip(&dots).enumerate() {
                    let row_sum = i32::from((*of_rows.add(row * tile.row_blocks())).sums[index]);
                    // The upper half of each product's second factor is nothing, or the scale again.
                    let of_row = _mm256_madd_epi16(_mm256_set1_epi32(row_sum), low_half(offset));
                    let share = _mm256_add_epi32(_mm256_madd_epi16(dots[part], both_halves(scale)), of_row);
                    totals[part] = _mm256_add_epi32(totals[part], share);
                }
            }
        }
        for (row, (totals, sums)) in totals.iter().zip(sums).enumerate() {
            let scale = _mm256_set1_ps((*of_rows.add(row * tile.row_blocks())).scale);
            for (part, total) in totals.iter().enumerate() {
                let place = sums.as_mut_ptr().add((first + part) * LANES);
                let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(*total), scale, _mm256_loadu_ps(place));
                _mm256_storeu_ps(place, sum);
            }
        }
    }
}

/// The scales and offsets of 8 lanes of a panel's block as multiples of their units, given the units' inverses.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn integers<const FORMAT: u8>(
    panel_block: *const u8,
    lanes: usize,
    inverse: __m256,
) -> (__m256i, __m256i) {
    // SAFETY: the caller's promise.
    unsafe {
        let source = panel_block.add(2 * lanes);
        let scale = _mm256_cvtps_epi32(_mm256_mul_ps(halves(source), inverse));
        let offset = if FORMAT == Q4_1 {
            _mm256_cvtps_epi32(_mm256_mul_ps(halves(source.add(2 * PANEL)), inverse))
        } else {
            _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<3>(scale))
        };
        (scale, offset)
    }
}

/// Integers of 16 bits in the lower half of 32, with nothing above.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn low_half(values: __m256i) -> __m256i {
    _mm256_and_si256(values, _mm256_set1_epi32(0xFFFF))
}

/// Integers of 16 bits in both halves of 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn both_halves(values: __m256i) -> __m256i {
    _mm256_or_si256(low_half(values), _mm256_slli_epi32::<16>(values))
}

/// As [`add_four_bits`], where each of the weights' blocks has a scale of its own in f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_eight_bits<const ROWS: usize, const PARTS: usize>(
    tile: BlockTile<'_>,
    block: usize,
    first: usize,
    sums: &mut [[f32; COLUMNS]; ROWS],
) {
    for index in 0..tile.span {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = block * tile.span + index;
            let dots = dots::<Q8_0, ROWS, PARTS>(tile, weights, first);
            for part in 0..PARTS {
                let lanes = (first + part) % (PANEL / LANES) * LANES;
                let scale = halves(panel_block::<Q8_0>(tile, weights, first + part).add(2 * lanes));
                for (row, (dots, sums)) in dots.iter().zip(&mut *sums).enumerate() {
                    let of_row = &*tile.blocks.as_ptr().add(row * tile.row_blocks() + block);
                    let place = sums.as_mut_ptr().add((first + part) * LANES);
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[part]), scale);
                    let sum = _mm256_fmadd_ps(scaled, _mm256_set1_ps(of_row.scale), _mm256_loadu_ps(place));
                    _mm256_storeu_ps(place, sum);
                }
            }
        }
    }
}

/// Sums of products with one of the weights' blocks for `PARTS` parts of 8 lanes from the `first` on: pairs of sums of
/// 16 bits for weights of 4 bits, else sums of 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<const FORMAT: u8, const ROWS: usize, const PARTS: usize>(
    tile: BlockTile<'_>,
    weights: usize,
    first: usize,
) -> [[__m256i; PARTS]; ROWS] {
    let mut dots = [[_mm256_setzero_si256(); PARTS]; ROWS];
    if let (Q8_0, Ok(dots)) = (FORMAT, <&mut [__m256i; 8]>::try_from(dots.as_flattened_mut()))
        && ROWS == 4
    {
        // SAFETY: the caller's promise.
        unsafe { add_four_rows_of_eight_bits(tile, weights, first, dots) };
    } else {
        for group in 0..BLOCK / GROUP {
            // SAFETY: the caller's promise; a block has four groups.
            unsafe { add_group::<FORMAT, ROWS, PARTS>(tile, weights, first, group, &mut dots) };
        }
    }
    dots
}

/// Takes in a row's four inputs, whose values lie at `$address`, for its sums `$low` and `$high` of 8 lanes each. One
/// factor must be without sign: the weights' signs go over to the values.
macro_rules! row {
    ($address:expr, $low:literal, $high:literal) => {
        concat!(
            "vpbroadcastd {value}, [",
            $address,
            "]\n",
            "vpsignb {product}, {value}, {weights_low}\n",
            "vpsignb {value}, {value}, {weights_high}\n",
            "vpmaddubsw {product}, {sizes_low}, {product}\n",
            "vpmaddubsw {value}, {sizes_high}, {value}\n",
            "vpmaddwd {product}, {product}, {ones}\n",
            "vpmaddwd {value}, {value}, {ones}\n",
            "vpaddd {",
            $low,
            "}, {",
            $low,
            "}, {product}\n",
            "vpaddd {",
            $high,
            "}, {",
            $high,
            "}, {value}\n",
        )
    };
}

/// The products of one of the weights' blocks for 4 rows and 16 lanes: 8 sums, two lots of weights with and without
/// their signs, a row's values, a product and ones are all 16 registers. As for 4 bits, the compiler would spill them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_four_rows_of_eight_bits(tile: BlockTile<'_>, weights: usize, first: usize, dots: &mut [__m256i; 8]) {
    let [a, b, c, d, e, f, g, h] = dots;
    let stride = tile.count * BLOCK;
    // SAFETY: the block's quants and each row's values are read, and nothing is written to memory.
    unsafe {
        let (mut source, mut values) =
            (quants::<Q8_0>(tile, weights, first), tile.quants.as_ptr().add(weights * BLOCK));
        for _ in 0..BLOCK / 4 {
            asm!(
                "vmovdqu {weights_low}, [{source}]",
                "vmovdqu {weights_high}, [{source} + 32]",
                "vpabsb {sizes_low}, {weights_low}",
                "vpabsb {sizes_high}, {weights_high}",
                row!("{values}", "a", "b"),
                row!("{values} + {stride}", "c", "d"),
                row!("{values} + 2 * {stride}", "e", "f"),
                row!("{values} + {three_strides}", "g", "h"),
                source = in(reg) source,
                values = in(reg) values,
                stride = in(reg) stride,
                three_strides = in(reg) 3 * stride,
                ones = in(ymm_reg) _mm256_set1_epi16(1),
                a = inout(ymm_reg) *a,
                b = inout(ymm_reg) *b,
                c = inout(ymm_reg) *c,
                d = inout(ymm_reg) *d,
                e = inout(ymm_reg) *e,
                f = inout(ymm_reg) *f,
                g = inout(ymm_reg) *g,
                h = inout(ymm_reg) *h,
                weights_low = out(ymm_reg) _,
                weights_high = out(ymm_reg) _,
                sizes_low = out(ymm_reg) _,
                sizes_high = out(ymm_reg) _,
                value = out(ymm_reg) _,
                product = out(ymm_reg) _,
                options(pure, readonly, nostack, preserves_flags),
            );
            source = source.add(4 * PANEL);
            values = values.add(4);
        }
    }
}

/// Adds the products of 8 inputs to what [`dots`] gives.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_group<const FORMAT: u8, const ROWS: usize, const PARTS: usize>(
    tile: BlockTile<'_>,
    block: usize,
    first: usize,
    group: usize,
    dots: &mut [[__m256i; PARTS]; ROWS],
) {
    // SAFETY: the group lies in the block, and each row has its values.
    unsafe {
        let row_stride = tile.count * BLOCK;
        let values = tile.quants.as_ptr().add(block * BLOCK + group * GROUP).cast::<[u8; 4]>();
        // The even inputs of a row, or the odd ones, in every lane.
        let value = |row: usize, half: usize| {
            _mm256_set1_epi32(i32::from_le_bytes(*values.byte_add(row * row_stride).add(half)))
        };
        if FORMAT == Q8_0 {
            let ones = _mm256_set1_epi16(1);
            for half in 0..2 {
                let mut weights = [_mm256_setzero_si256(); PARTS];
                for (part, weights) in weights.iter_mut().enumerate() {
                    let source = quants::<FORMAT>(tile, block, first + part).add((group * 2 + half) * 4 * PANEL);
                    *weights = _mm256_loadu_si256(source.cast());
                }
                for (row, dots) in dots.iter_mut().enumerate() {
                    let value = value(row, half);
                    for (dot, weights) in dots.iter_mut().zip(weights) {
                        // One side must be without sign: the weights' signs go over to the values.
                        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(value, weights));
                        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
        } else {
            let mask = _mm256_set1_epi8(15);
            let [mut even, mut odd] = [[_mm256_setzero_si256(); PARTS]; 2];
            for (part, (even, odd)) in even.iter_mut().zip(&mut odd).enumerate() {
                let both =
                    _mm256_loadu_si256(quants::<FORMAT>(tile, block, first + part).add(group * 4 * PANEL).cast());
                *even = _mm256_and_si256(both, mask);
                *odd = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
            }
            for (row, dots) in dots.iter_mut().enumerate() {
                let (of_even, of_odd) = (value(row, 0), value(row, 1));
                for (dot, (even, odd)) in dots.iter_mut().zip(even.into_iter().zip(odd)) {
                    // In 16 bits there is room: 16 products of at most 15 x 127 for each sum.
                    let sums = _mm256_add_epi16(_mm256_maddubs_epi16(even, of_even), _mm256_maddubs_epi16(odd, of_odd));
                    *dot = _mm256_add_epi16(*dot, sums);
                }
            }
        }
        for dot in dots.as_flattened_mut() {
            // Keeps the groups in their order; nothing is executed here.
            asm!("/* {0} */", inout(ymm_reg) * dot, options(pure, nomem, nostack, preserves_flags));
        }
    }
}

/// What a kernel's parameter stands for.
pub(super) const fn format_of<const FORMAT: u8>() -> BlockFormat {
    match FORMAT {
        Q4_0 => BlockFormat::Q4_0,
        Q4_1 => BlockFormat::Q4_1,
        _ => BlockFormat::Q8_0,
    }
}

/// The quants of a part of 8 lanes.
#[inline]
pub(super) unsafe fn quants<const FORMAT: u8>(tile: BlockTile<'_>, block: usize, part: usize) -> *const u8 {
    let lanes = part % (PANEL / LANES) * LANES;
    // SAFETY: the caller's promise.
    unsafe { panel_block::<FORMAT>(tile, block, part).add(format_of::<FORMAT>().halves_bytes() + lanes * 4) }
}

/// The block of the panel that a part of 8 lanes lies in.
#[inline]
pub(super) unsafe fn panel_block<const FORMAT: u8>(tile: BlockTile<'_>, block: usize, part: usize) -> *const u8 {
    let panel = part / (PANEL / LANES);
    // SAFETY: the caller's promise.
    unsafe { tile.pair.as_ptr().add((block * 2 + panel) * format_of::<FORMAT>().panel_block_bytes()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn halves(source: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(source.cast())) }
}
