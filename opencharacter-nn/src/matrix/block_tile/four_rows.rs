//! The tile on AVX-512 with VNNI for many rows: four at a time meet both panels.
//!
//! With 4-bit weights and blocks of activations of 64, four rows' sums of floats for two panels, their products with two
//! of the weights' blocks, the even and the odd weights of both panels, two activations and a constant are 31 of 32
//! registers, so that no sum is kept in memory: on Zen 5 a store of 64 bytes takes as long as two multiplications, and
//! tiles of eight rows, whose sums had to be stored, were slower. The processor's multipliers limit: of the 20
//! multiplications for a row, 16 lanes and 64 inputs of 4 bits, 16 are dot products. What scales and offsets are in
//! integers is found out once for all rows. As in [`unpacked`](super::unpacked), every instruction between a block's
//! products has its place.
//!
//! One core of Zen 5 at 4.2 GHz, 64 rows of 576 inputs by 1,536 outputs: 750 billion operations a second, where dot
//! products alone, two in a cycle, do 1,075; tiles of six rows from intrinsics, whose scales were made anew for each, 610.

use std::{
    arch::{
        asm,
        x86_64::{
            __m512, __m512i, _mm512_add_epi32, _mm512_cvtepi32_ps, _mm512_dpwssd_epi32, _mm512_fmadd_ps,
            _mm512_load_ps, _mm512_load_si512, _mm512_loadu_ps, _mm512_mask_mov_epi16, _mm512_mul_ps,
            _mm512_mullo_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
            _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srai_epi32, _mm512_store_ps, _mm512_store_si512,
            _mm512_storeu_ps, _mm512_sub_epi32,
        },
    },
    cell::RefCell,
};

use super::{
    super::blocks::{CacheLine, inverse_units},
    BLOCK, BlockTile, COLUMNS, PANEL, Q8_0, Target,
    vnni::{halves, integers},
};

/// Rows that meet two panels at a time.
pub(super) const ROWS: usize = 4;
/// Panels of a pair.
const PANELS: usize = 2;

thread_local! {
    /// What [`Factors`] lie in, whose contents nobody relies on.
    static FACTORS: RefCell<Vec<CacheLine>> = const { RefCell::new(Vec::new()) };
}

/// What products of bytes with a pair of panels are multiplied by: for each of the weights' blocks and each panel, 16
/// scales (integers, or floats of 8-bit weights); then, for each block of activations and each panel, 16 pairs of
/// offsets in 16 bits, the second of the weights' blocks above the first.
#[derive(Clone, Copy)]
struct Factors {
    scales: *mut CacheLine,
    offsets: *mut CacheLine,
}

/// Multiplies `rows` rows, a multiple of [`ROWS`].
///
/// # Safety
/// As [`BlockTile::run_on`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn run<const FORMAT: u8>(tile: BlockTile<'_>, rows: usize, target: Target) {
    FACTORS.with_borrow_mut(|lines| {
        let needed = PANELS * (tile.count + tile.row_blocks());
        if lines.len() < needed {
            lines.resize(needed, CacheLine::EMPTY);
        }
        let scales = lines.as_mut_ptr();
        let factors = Factors { scales, offsets: scales.wrapping_add(PANELS * tile.count) };
        // SAFETY: the caller's promise; the factors' lines were just made.
        unsafe {
            prepare::<FORMAT>(tile, factors);
            for row in (0..rows).step_by(ROWS) {
                let (of_rows, target) = (tile.skip_rows(row), target.skip_rows(row));
                for panel in 0..PANELS {
                    target.prefetch(panel, ROWS);
                }
                tile.prefetch_next(row / ROWS, rows / ROWS);
                match tile.span {
                    1 => run_rows::<FORMAT, 1>(of_rows, factors, target),
                    _ => run_rows::<FORMAT, 2>(of_rows, factors, target),
                }
            }
        }
    });
}

/// Writes a pair's factors.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn prepare<const FORMAT: u8>(tile: BlockTile<'_>, factors: Factors) {
    let inverses: [f32; COLUMNS] = inverse_units(tile.units);
    for panel in 0..PANELS {
        for block in 0..tile.row_blocks() {
            let mut offsets = _mm512_setzero_si512();
            for index in 0..tile.span {
                let weights = block * tile.span + index;
                // SAFETY: the tile has the block, and there are as many lines.
                unsafe {
                    let source = tile.panel_block(weights, panel);
                    let target = factors.scales.add(weights * PANELS + panel);
                    if FORMAT == Q8_0 {
                        _mm512_store_ps(target.cast(), halves(source));
                        continue;
                    }
                    let inverse = _mm512_loadu_ps(inverses.as_ptr().add(panel * PANEL));
                    let (scale, offset) = integers::<FORMAT>(source, inverse);
                    _mm512_store_si512(target.cast(), scale);
                    let place = if index == 0 { offset } else { _mm512_slli_epi32::<16>(offset) };
                    let mask = if index == 0 { 0x5555_5555 } else { 0xAAAA_AAAA };
                    offsets = _mm512_mask_mov_epi16(offsets, mask, place);
                }
            }
            if FORMAT != Q8_0 {
                // SAFETY: there are as many lines.
                unsafe { _mm512_store_si512(factors.offsets.add(block * PANELS + panel).cast(), offsets) };
            }
        }
    }
}

/// Adds the share of all blocks and gives four rows' results.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn run_rows<const FORMAT: u8, const SPAN: usize>(tile: BlockTile<'_>, factors: Factors, target: Target) {
    let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
    // SAFETY: the caller's promise.
    unsafe {
        for block in 0..tile.count / SPAN {
            if FORMAT == Q8_0 {
                add_eight_bits::<SPAN>(tile, block, factors, &mut sums);
            } else {
                add_four_bits::<FORMAT, SPAN>(tile, block, factors, &mut sums);
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (panel, sum) in sums.into_iter().enumerate() {
                let unit = _mm512_loadu_ps(tile.units.as_ptr().add(panel * PANEL));
                let out = target.out.add(row * target.stride + panel * PANEL);
                _mm512_storeu_ps(out, _mm512_mul_ps(sum, unit));
            }
        }
    }
}

/// A block of activations of one of the rows: its scale in all lanes, and the sums of its quants in each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn row_block(tile: BlockTile<'_>, block: usize, row: usize) -> (__m512, __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        let of_row = &*tile.blocks.as_ptr().add(block + row * tile.row_blocks());
        let sums = (&raw const of_row.sums).cast::<i32>().read_unaligned();
        (_mm512_set1_ps(of_row.scale), _mm512_set1_epi32(sums))
    }
}

/// Adds the share of a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_four_bits<const FORMAT: u8, const SPAN: usize>(
    tile: BlockTile<'_>,
    block: usize,
    factors: Factors,
    sums: &mut [[__m512; PANELS]; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots_of = [[[_mm512_setzero_si512(); PANELS]; ROWS]; SPAN];
        for (index, dots_of) in dots_of.iter_mut().enumerate() {
            *dots_of = dots::<FORMAT>(tile, block * SPAN + index);
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let (scale, row_sums) = row_block(tile, block, row);
            for (panel, sum) in sums.iter_mut().enumerate() {
                let line =
                    |lines: *mut CacheLine, index: usize| _mm512_load_si512(lines.add(index * PANELS + panel).cast());
                let mut total = _mm512_setzero_si512();
                for (index, dots) in dots_of.iter().enumerate() {
                    let scales = line(factors.scales, block * SPAN + index);
                    total = _mm512_add_epi32(total, _mm512_mullo_epi32(dots[row][panel], scales));
                }
                let total = _mm512_dpwssd_epi32(total, row_sums, line(factors.offsets, block));
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), scale, *sum);
            }
        }
    }
}

/// As [`add_four_bits`], where each of the weights' blocks has a scale of its own in f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_eight_bits<const SPAN: usize>(
    tile: BlockTile<'_>,
    block: usize,
    factors: Factors,
    sums: &mut [[__m512; PANELS]; ROWS],
) {
    for index in 0..SPAN {
        let weights = block * SPAN + index;
        // SAFETY: the caller's promise.
        unsafe {
            let scales = [0, 1].map(|panel| _mm512_load_ps(factors.scales.add(weights * PANELS + panel).cast()));
            let dots = dots::<Q8_0>(tile, weights);
            for (row, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
                let (of_row, row_sums) = row_block(tile, block, row);
                // The weights' bytes are without sign: the 128 that was added to them is taken off here, without a
                // multiplication: that was some 8% faster.
                let high = if index == 0 { _mm512_slli_epi32::<16>(row_sums) } else { row_sums };
                let added = _mm512_slli_epi32::<7>(_mm512_srai_epi32::<16>(high));
                for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(scales) {
                    let total = _mm512_sub_epi32(dot, added);
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(total), scale);
                    *sum = _mm512_fmadd_ps(scaled, of_row, *sum);
                }
            }
        }
    }
}

/// Takes in a row's 8 inputs, whose values lie at `$address`, for its sums for two panels.
macro_rules! row {
    ($address:expr, $first:literal, $second:literal) => {
        concat!(
            "vpbroadcastd {even_value}, [",
            $address,
            "]\n",
            "vpbroadcastd {odd_value}, [",
            $address,
            " + 4]\n",
            "vpdpbusd {",
            $first,
            "}, {first_even}, {even_value}\n",
            "vpdpbusd {",
            $second,
            "}, {second_even}, {even_value}\n",
            "vpdpbusd {",
            $first,
            "}, {first_odd}, {odd_value}\n",
            "vpdpbusd {",
            $second,
            "}, {second_odd}, {odd_value}\n",
        )
    };
}

/// Takes in the 8 inputs of four rows whose values lie `$values` bytes behind `values`.
macro_rules! rows {
    ($values:literal) => {
        concat!(
            row!(concat!("{values} + ", $values), "a", "b"),
            row!(concat!("{values} + {stride} + ", $values), "c", "d"),
            row!(concat!("{values} + 2 * {stride} + ", $values), "e", "f"),
            row!(concat!("{values} + {three_strides} + ", $values), "g", "h"),
        )
    };
}

/// 8 inputs whose 4-bit weights lie `$weights` bytes behind those of a panel.
macro_rules! four_bits {
    ($weights:literal, $values:literal) => {
        concat!(
            "vpandd {first_even}, {constant}, [{first} + ",
            $weights,
            "]\n",
            "vpandd {second_even}, {constant}, [{second} + ",
            $weights,
            "]\n",
            "vpsrlw {first_odd}, [{first} + ",
            $weights,
            "], 4\n",
            "vpsrlw {second_odd}, [{second} + ",
            $weights,
            "], 4\n",
            "vpandd {first_odd}, {constant}, {first_odd}\n",
            "vpandd {second_odd}, {constant}, {second_odd}\n",
            rows!($values),
        )
    };
}

/// 8 inputs whose 8-bit weights, which have a sign, lie `$weights` bytes behind those of a panel.
macro_rules! eight_bits {
    ($weights:literal, $values:literal) => {
        concat!(
            "vpxord {first_even}, {constant}, [{first} + ",
            $weights,
            "]\n",
            "vpxord {second_even}, {constant}, [{second} + ",
            $weights,
            "]\n",
            "vpxord {first_odd}, {constant}, [{first} + ",
            $weights,
            " + 64]\n",
            "vpxord {second_odd}, {constant}, [{second} + ",
            $weights,
            " + 64]\n",
            rows!($values),
        )
    };
}

/// The four groups of a block.
macro_rules! block {
    ($group:ident $second_group:literal $third_group:literal $fourth_group:literal, $constant:expr, $tile:ident, $block:ident,
        $($sum:ident)*) => {{
        let stride = $tile.count * BLOCK;
        let [first, second] = [0, 1].map(|panel| $tile.panel_block($block, panel).add($tile.format.halves_bytes()));
        asm!(
            $group!("0", "0"),
            $group!($second_group, "8"),
            $group!($third_group, "16"),
            $group!($fourth_group, "24"),
            first = in(reg) first,
            second = in(reg) second,
            values = in(reg) $tile.quants.as_ptr().add($block * BLOCK),
            stride = in(reg) stride,
            three_strides = in(reg) 3 * stride,
            constant = in(zmm_reg) $constant,
            $($sum = inout(zmm_reg) $sum,)*
            first_even = out(zmm_reg) _,
            second_even = out(zmm_reg) _,
            first_odd = out(zmm_reg) _,
            second_odd = out(zmm_reg) _,
            even_value = out(zmm_reg) _,
            odd_value = out(zmm_reg) _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }};
}

/// Sums of products with one of the weights' blocks: 4-bit quants as they are, 8-bit ones plus 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dots<const FORMAT: u8>(tile: BlockTile<'_>, block: usize) -> [[__m512i; PANELS]; ROWS] {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = [_mm512_setzero_si512(); ROWS * PANELS];
    // SAFETY: the block's quants and 32 values of each row are read, and nothing is written to memory.
    unsafe {
        if FORMAT == Q8_0 {
            block!(eight_bits "128" "256" "384", _mm512_set1_epi8(-128), tile, block, a b c d e f g h);
        } else {
            block!(four_bits "64" "128" "192", _mm512_set1_epi8(15), tile, block, a b c d e f g h);
        }
    }
    [[a, b], [c, d], [e, f], [g, h]]
}
