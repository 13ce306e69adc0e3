//! The tile on AVX2 for 4-bit weights and many rows: a panel's weights are turned into bytes once, into a buffer that
//! stays in the first-level cache, and meet four rows at a time.
//!
//! Four rows' 8 sums, the even and the odd weights of 16 lanes, two activations and a product are 15 of 16 registers, and
//! every instruction has its place: left to itself, the compiler adds up the groups in an order of its own and keeps sums
//! in memory meanwhile. On Zen 3, with 64 rows of 576 inputs, a row, 16 lanes and a block take 12.2 cycles, of which 11.5
//! are the products of bytes and their sums; they took 17.6 with scales in f32, blocks of 32 activations, and weights that
//! were unpacked for every four rows.

use std::{
    arch::{
        asm,
        x86_64::{
            __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_load_ps,
            _mm256_load_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_mul_ps, _mm256_or_si256,
            _mm256_set1_epi8, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_slli_epi32,
            _mm256_srli_epi16, _mm256_store_ps, _mm256_store_si256, _mm256_storeu_ps,
        },
    },
    cell::RefCell,
};

use super::{
    super::blocks::CacheLine,
    BLOCK, BlockTile, COLUMNS, GROUP, PANEL, RowBlock, Target,
    avx2::{LANES, both_halves, integers, low_half, panel_block, quants},
};

/// Rows that meet a panel at a time.
pub(super) const ROWS: usize = 4;

/// One of the weights' blocks in bytes: `[4 groups of inputs][even, odd][16 lanes][4]`.
const QUANTS: usize = PANEL * BLOCK;
/// Its scales, each twice in a lane's 32 bits; and the offsets of up to two blocks, the second one's above.
const INTEGERS: usize = 4 * PANEL;
/// Most of the weights' blocks that are unpacked together: 20 KiB of the first-level cache's 32.
const MOST_BLOCKS: usize = 32;

/// Four rows' sums for a panel.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([[f32; PANEL]; ROWS]);

impl Sums {
    const NOTHING: Self = Self([[0.0; PANEL]; ROWS]);
}

/// Buffers whose contents nobody relies on.
struct Scratch {
    /// Blocks of activations, one after the other: of as many of the weights' blocks as one spans first the quants, then
    /// the scales, then the offsets.
    unpacked: Vec<CacheLine>,
    /// Sums of all rows between two parts of their inputs.
    partial: Vec<Sums>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { unpacked: Vec::new(), partial: Vec::new() }) };
}

/// Multiplies `rows` rows, a multiple of [`ROWS`].
///
/// # Safety
/// As [`BlockTile::run_on`]; the weights have 4 bits.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<const FORMAT: u8>(
    tile: BlockTile<'_>,
    inverses: &[f32; COLUMNS],
    rows: usize,
    target: Target,
) {
    for panel in 0..COLUMNS / PANEL {
        // SAFETY: the caller's promise.
        unsafe {
            match tile.span {
                1 => run_panel::<FORMAT, 1>(tile, inverses, panel, rows, target),
                _ => run_panel::<FORMAT, 2>(tile, inverses, panel, rows, target),
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_panel<const FORMAT: u8, const SPAN: usize>(
    tile: BlockTile<'_>,
    inverses: &[f32; COLUMNS],
    panel: usize,
    rows: usize,
    target: Target,
) {
    let total = tile.row_blocks();
    let length = total.div_ceil(total.div_ceil(MOST_BLOCKS / SPAN).max(1)).max(1);
    SCRATCH.with_borrow_mut(|Scratch { unpacked, partial }| {
        unpacked.resize(MOST_BLOCKS * bytes::<1>() / size_of::<CacheLine>(), CacheLine::EMPTY);
        let unpacked = unpacked.as_mut_ptr().cast::<u8>();
        if length < total {
            partial.resize(rows / ROWS, Sums::NOTHING);
        }
        for first in (0..total).step_by(length) {
            let count = length.min(total - first);
            // SAFETY: the caller's promise; `count` blocks of activations span at most MOST_BLOCKS of the weights'.
            unsafe {
                for block in 0..count {
                    unpack::<FORMAT, SPAN>(tile, inverses, panel, first + block, unpacked.add(block * bytes::<SPAN>()));
                }
                for row in (0..rows).step_by(ROWS) {
                    let mut sums = if first == 0 { Sums::NOTHING } else { partial[row / ROWS] };
                    let place = row * total + first;
                    let values = tile.quants.as_ptr().add(place * SPAN * BLOCK);
                    let target = target.skip_rows(row);
                    target.prefetch(panel, ROWS);
                    tile.prefetch_next(panel * rows / ROWS + row / ROWS, 2 * rows / ROWS);
                    add_rows::<SPAN>(unpacked, count, (values, tile.blocks.as_ptr().add(place)), total, &mut sums);
                    if first + count < total {
                        partial[row / ROWS] = sums;
                    } else {
                        store(&sums, panel, tile.units, target);
                    }
                }
            }
        }
    });
}

/// Gives four rows' results for a panel.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store(sums: &Sums, panel: usize, units: &[f32], target: Target) {
    for (row, sums) in sums.0.iter().enumerate() {
        for first in (0..PANEL).step_by(LANES) {
            let column = panel * PANEL + first;
            // SAFETY: the target has these rows and columns.
            unsafe {
                let unit = _mm256_loadu_ps(units.as_ptr().add(column));
                let scaled = _mm256_mul_ps(_mm256_load_ps(sums.as_ptr().add(first)), unit);
                _mm256_storeu_ps(target.out.add(row * target.stride + column), scaled);
            }
        }
    }
}

/// Bytes of an unpacked block of activations.
const fn bytes<const SPAN: usize>() -> usize {
    SPAN * (QUANTS + INTEGERS) + INTEGERS
}

/// Unpacks the weights that meet a block of activations.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack<const FORMAT: u8, const SPAN: usize>(
    tile: BlockTile<'_>,
    inverses: &[f32; COLUMNS],
    panel: usize,
    block: usize,
    target: *mut u8,
) {
    let mask = _mm256_set1_epi8(15);
    for part in 0..PANEL / LANES {
        let of_pair = panel * PANEL / LANES + part;
        let mut offsets = _mm256_setzero_si256();
        // SAFETY: the target has a block's bytes, and the tile has the block.
        unsafe {
            let store =
                |place: usize, values: __m256i| _mm256_store_si256(target.add(place + part * 32).cast(), values);
            let inverse = _mm256_loadu_ps(inverses.as_ptr().add(of_pair * LANES));
            for index in 0..SPAN {
                let weights = block * SPAN + index;
                let source = quants::<FORMAT>(tile, weights, of_pair);
                for group in 0..BLOCK / GROUP {
                    let both = _mm256_loadu_si256(source.add(group * 4 * PANEL).cast());
                    let place = index * QUANTS + group * GROUP * PANEL;
                    store(place, _mm256_and_si256(both, mask));
                    store(place + GROUP * PANEL / 2, _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask));
                }
                let (scale, offset) =
                    integers::<FORMAT>(panel_block::<FORMAT>(tile, weights, of_pair), part * LANES, inverse);
                store(SPAN * QUANTS + index * INTEGERS, both_halves(scale));
                offsets = if index == 0 {
                    low_half(offset)
                } else {
                    _mm256_or_si256(offsets, _mm256_slli_epi32::<16>(offset))
                };
            }
            store(SPAN * (QUANTS + INTEGERS), offsets);
        }
    }
}

/// Adds the share of `count` blocks of activations. `values` and `blocks` begin with the first of them of the first row;
/// a row has `total`.
///
/// Sums stay in memory from block to block. Were this part of its caller, the compiler would want all of them in
/// registers at once and move them to and fro instead.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_rows<const SPAN: usize>(
    unpacked: *const u8,
    count: usize,
    (values, blocks): (*const i8, *const RowBlock),
    total: usize,
    sums: &mut Sums,
) {
    for block in 0..count {
        // SAFETY: the caller's promise.
        unsafe {
            let source = unpacked.add(block * bytes::<SPAN>());
            let (values, of_rows) = (values.add(block * SPAN * BLOCK), blocks.add(block));
            let integers = source.add(SPAN * QUANTS);
            let load = |place: usize| _mm256_load_si256(integers.add(place).cast());
            let mut totals = [[_mm256_setzero_si256(); PANEL / LANES]; ROWS];
            for index in 0..SPAN {
                let dots = dots(source.add(index * QUANTS), values.add(index * BLOCK), total * SPAN * BLOCK);
                for (row, (totals, dots)) in totals.iter_mut().zip(dots).enumerate() {
                    let row_sums = (&raw const (*of_rows.add(row * total)).sums).cast::<i32>().read_unaligned();
                    for (part, (sum, dot)) in totals.iter_mut().zip(dots).enumerate() {
                        let share = _mm256_madd_epi16(dot, load(index * INTEGERS + part * 32));
                        let before = if index == 0 {
                            _mm256_madd_epi16(_mm256_set1_epi32(row_sums), load(SPAN * INTEGERS + part * 32))
                        } else {
                            *sum
                        };
                        *sum = _mm256_add_epi32(before, share);
                    }
                }
            }
            for (row, (totals, sums)) in totals.iter().zip(&mut sums.0).enumerate() {
                let scale = _mm256_set1_ps((*of_rows.add(row * total)).scale);
                for (part, sum) in totals.iter().enumerate() {
                    let place = sums.as_mut_ptr().add(part * LANES);
                    _mm256_store_ps(place, _mm256_fmadd_ps(_mm256_cvtepi32_ps(*sum), scale, _mm256_load_ps(place)));
                }
            }
        }
    }
}

/// Takes in a row's 8 inputs, whose values lie at `$address`, for its sums `$low` and `$high` of 8 lanes each.
macro_rules! row {
    (first, $address:expr, $low:literal, $high:literal) => {
        concat!(
            "vpbroadcastd {even_value}, [",
            $address,
            "]\n",
            "vpbroadcastd {odd_value}, [",
            $address,
            " + 4]\n",
            "vpmaddubsw {",
            $low,
            "}, {even_low}, {even_value}\n",
            "vpmaddubsw {",
            $high,
            "}, {even_high}, {even_value}\n",
            "vpmaddubsw {product}, {odd_low}, {odd_value}\n",
            "vpmaddubsw {odd_value}, {odd_high}, {odd_value}\n",
            "vpaddw {",
            $low,
            "}, {",
            $low,
            "}, {product}\n",
            "vpaddw {",
            $high,
            "}, {",
            $high,
            "}, {odd_value}\n",
        )
    };
    (next, $address:expr, $low:literal, $high:literal) => {
        concat!(
            "vpbroadcastd {even_value}, [",
            $address,
            "]\n",
            "vpbroadcastd {odd_value}, [",
            $address,
            " + 4]\n",
            "vpmaddubsw {product}, {even_low}, {even_value}\n",
            "vpmaddubsw {even_value}, {even_high}, {even_value}\n",
            "vpaddw {",
            $low,
            "}, {",
            $low,
            "}, {product}\n",
            "vpmaddubsw {product}, {odd_low}, {odd_value}\n",
            "vpaddw {",
            $high,
            "}, {",
            $high,
            "}, {even_value}\n",
            "vpmaddubsw {odd_value}, {odd_high}, {odd_value}\n",
            "vpaddw {",
            $low,
            "}, {",
            $low,
            "}, {product}\n",
            "vpaddw {",
            $high,
            "}, {",
            $high,
            "}, {odd_value}\n",
        )
    };
}

/// Takes in 8 inputs of four rows: the weights lie `$weights` bytes behind `quants`, a row's values `$values` behind
/// `values`.
macro_rules! group {
    ($order:ident, $weights:literal, $values:literal) => {
        concat!(
            "vmovdqa {even_low}, [{quants} + ",
            $weights,
            "]\n",
            "vmovdqa {even_high}, [{quants} + ",
            $weights,
            " + 32]\n",
            "vmovdqa {odd_low}, [{quants} + ",
            $weights,
            " + 64]\n",
            "vmovdqa {odd_high}, [{quants} + ",
            $weights,
            " + 96]\n",
            row!($order, concat!("{values} + ", $values), "a", "b"),
            row!($order, concat!("{values} + {stride} + ", $values), "c", "d"),
            row!($order, concat!("{values} + 2 * {stride} + ", $values), "e", "f"),
            row!($order, concat!("{values} + {three_strides} + ", $values), "g", "h"),
        )
    };
}

/// Sums of products with one of the weights' blocks, for each row and part of 8 lanes in pairs of 16 bits, where there is
/// room: each takes in 16 products of at most 15 x 127. `stride` is bytes from one row's values to the next.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots(quants: *const u8, values: *const i8, stride: usize) -> [[__m256i; PANEL / LANES]; ROWS] {
    let (a, b, c, d, e, f, g, h);
    // SAFETY: the block's quants and 32 values of each row are read, and nothing is written to memory.
    unsafe {
        asm!(
            group!(first, "0", "0"),
            group!(next, "128", "8"),
            group!(next, "256", "16"),
            group!(next, "384", "24"),
            quants = in(reg) quants,
            values = in(reg) values,
            stride = in(reg) stride,
            three_strides = in(reg) 3 * stride,
            a = out(ymm_reg) a,
            b = out(ymm_reg) b,
            c = out(ymm_reg) c,
            d = out(ymm_reg) d,
            e = out(ymm_reg) e,
            f = out(ymm_reg) f,
            g = out(ymm_reg) g,
            h = out(ymm_reg) h,
            even_low = out(ymm_reg) _,
            even_high = out(ymm_reg) _,
            odd_low = out(ymm_reg) _,
            odd_high = out(ymm_reg) _,
            even_value = out(ymm_reg) _,
            odd_value = out(ymm_reg) _,
            product = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    [[a, b], [c, d], [e, f], [g, h]]
}
