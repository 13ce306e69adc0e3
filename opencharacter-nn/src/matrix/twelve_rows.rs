//! A whole tile on AVX-512: twelve rows by the columns of one panel or two, each instruction in its place.
//!
//! Two panels of twelve rows take 27 of 32 registers. Each value is then loaded once for two multiply-adds; with one panel
//! every multiply-add loads a value, and as many loads as multiplications start in a cycle. Compiled from intrinsics, with
//! strides that are known at run time only, each input took a dozen further instructions for addresses, which compete
//! with the multiplications for where they start. Of two cores' 325 GFLOP/s, a product of 1,024 x 576 by 576 x 1,536
//! reached 206 compiled with one panel, 286 compiled with two and 303 like this (Emerald Rapids, medians of 15 in quiet
//! minutes). Zen 4, which starts half as many multiplications in a cycle, gained nothing from a second panel when both
//! were compiled (training 270 against 260 tokens/s, prefill 764 against 781); the assembly was not measured there.

use std::arch::{
    asm,
    x86_64::{__m512, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps},
};

use super::{
    input_loop::over_inputs,
    kernel::{Layout, Results, Tile},
};

/// Rows of the tile.
pub(super) const ROWS: usize = 12;

/// A row's value at `$value`, times two panels' weights of its input.
macro_rules! row_by_two {
    ($sum:literal, $value:expr) => {
        concat!(
            "vbroadcastss {value}, [",
            $value,
            "]\n",
            "vfmadd231ps {",
            $sum,
            "}, {value}, {weights}\n",
            "vfmadd231ps {",
            $sum,
            "_second}, {value}, {weights_second}\n",
        )
    };
}

/// The same with one panel's.
macro_rules! row_by_one {
    ($sum:literal, $value:expr) => {
        concat!("vfmadd231ps {", $sum, "}, {weights}, dword ptr [", $value, "]{{1to16}}\n")
    };
}

/// Loads an input's weights, `$weights` bytes behind each panel.
macro_rules! load_two {
    ($weights:literal) => {
        concat!(
            "vmovups {weights}, [{panel} + ",
            $weights,
            "]\n",
            "vmovups {weights_second}, [{panel_second} + ",
            $weights,
            "]\n",
        )
    };
}

macro_rules! load_one {
    ($weights:literal) => {
        concat!("vmovups {weights}, [{panel} + ", $weights, "]\n")
    };
}

/// An input whose values lie `stride` bytes apart, `$offset` bytes behind every third row.
macro_rules! input_of_rows {
    ($load:ident, $row:ident, $offset:literal, $weights:literal) => {
        concat!(
            $load!($weights),
            $row!("a", concat!("{x} + ", $offset)),
            $row!("b", concat!("{x} + {stride} + ", $offset)),
            $row!("c", concat!("{x} + 2 * {stride} + ", $offset)),
            $row!("d", concat!("{fourth_row} + ", $offset)),
            $row!("e", concat!("{fourth_row} + {stride} + ", $offset)),
            $row!("f", concat!("{fourth_row} + 2 * {stride} + ", $offset)),
            $row!("g", concat!("{seventh_row} + ", $offset)),
            $row!("h", concat!("{seventh_row} + {stride} + ", $offset)),
            $row!("i", concat!("{seventh_row} + 2 * {stride} + ", $offset)),
            $row!("j", concat!("{tenth_row} + ", $offset)),
            $row!("k", concat!("{tenth_row} + {stride} + ", $offset)),
            $row!("l", concat!("{tenth_row} + 2 * {stride} + ", $offset)),
        )
    };
}

/// An input whose values lie side by side at `$place`.
macro_rules! input_of_columns {
    ($load:ident, $row:ident, $place:literal, $weights:literal) => {
        concat!(
            $load!($weights),
            $row!("a", $place),
            $row!("b", concat!($place, " + 4")),
            $row!("c", concat!($place, " + 8")),
            $row!("d", concat!($place, " + 12")),
            $row!("e", concat!($place, " + 16")),
            $row!("f", concat!($place, " + 20")),
            $row!("g", concat!($place, " + 24")),
            $row!("h", concat!($place, " + 28")),
            $row!("i", concat!($place, " + 32")),
            $row!("j", concat!($place, " + 36")),
            $row!("k", concat!($place, " + 40")),
            $row!("l", concat!($place, " + 44")),
        )
    };
}

/// `inputs` inputs, four at a time; `$advance` and `$advance_one` take addresses along.
macro_rules! multiply {
    ($sums:ident, $tile:ident, $panel:expr, [$($four:expr),*], [$($advance:literal),*], $one:expr,
     [$($advance_one:literal),*], $($operands:tt)*) => {
        asm!(
            over_inputs!([$($four),*], [$($advance),*], $one, [$($advance_one),*]),
            panel = inout(reg) $panel => _,
            fours = inout(reg) $tile.inputs / 4 => _,
            ones = inout(reg) $tile.inputs % 4 => _,
            weights = out(zmm_reg) _,
            a = inout(zmm_reg) $sums[0], b = inout(zmm_reg) $sums[1], c = inout(zmm_reg) $sums[2],
            d = inout(zmm_reg) $sums[3], e = inout(zmm_reg) $sums[4], f = inout(zmm_reg) $sums[5],
            g = inout(zmm_reg) $sums[6], h = inout(zmm_reg) $sums[7], i = inout(zmm_reg) $sums[8],
            j = inout(zmm_reg) $sums[9], k = inout(zmm_reg) $sums[10], l = inout(zmm_reg) $sums[11],
            options(readonly, nostack),
            $($operands)*
        )
    };
}

/// [`multiply!`] with rows or columns of values.
macro_rules! multiply_tile {
    ($load:ident, $row:ident, $sums:ident, $tile:ident, $panel:expr, [$($advance:literal),*], [$($advance_one:literal),*],
     $($operands:tt)*) => {
        match $tile.layout {
            Layout::Rows(stride) => multiply!(
                $sums, $tile, $panel,
                [
                    input_of_rows!($load, $row, "0", "0"),
                    input_of_rows!($load, $row, "4", "64"),
                    input_of_rows!($load, $row, "8", "128"),
                    input_of_rows!($load, $row, "12", "192")
                ],
                ["add {x}, 16", "add {fourth_row}, 16", "add {seventh_row}, 16", "add {tenth_row}, 16" $(, $advance)*],
                input_of_rows!($load, $row, "0", "0"),
                ["add {x}, 4", "add {fourth_row}, 4", "add {seventh_row}, 4", "add {tenth_row}, 4" $(, $advance_one)*],
                x = inout(reg) $tile.x => _,
                fourth_row = inout(reg) $tile.x.wrapping_add(3 * stride) => _,
                seventh_row = inout(reg) $tile.x.wrapping_add(6 * stride) => _,
                tenth_row = inout(reg) $tile.x.wrapping_add(9 * stride) => _,
                stride = in(reg) stride * size_of::<f32>(),
                $($operands)*
            ),
            Layout::Columns(stride) => multiply!(
                $sums, $tile, $panel,
                [
                    input_of_columns!($load, $row, "{x}", "0"),
                    input_of_columns!($load, $row, "{x} + {stride}", "64"),
                    input_of_columns!($load, $row, "{x} + 2 * {stride}", "128"),
                    input_of_columns!($load, $row, "{x} + {three_strides}", "192")
                ],
                ["lea {x}, [{x} + 4 * {stride}]" $(, $advance)*],
                input_of_columns!($load, $row, "{x}", "0"),
                ["add {x}, {stride}" $(, $advance_one)*],
                x = inout(reg) $tile.x => _,
                stride = in(reg) stride * size_of::<f32>(),
                three_strides = in(reg) 3 * stride * size_of::<f32>(),
                $($operands)*
            ),
        }
    };
}

/// Twelve rows of `tile` by one panel.
///
/// # Safety
/// As [`Tile::run_on`] for twelve rows, on a machine with AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run(tile: Tile, panel: *const f32, out: Results, accumulate: bool) {
    // SAFETY: the caller's promise covers every address; the assembly reads twelve rows of `inputs` values and as many
    // lines of the panel, and writes nothing to memory.
    unsafe {
        let mut sums = load(out, accumulate);
        multiply_tile!(load_one, row_by_one, sums, tile, panel, [], [],);
        store(out, &sums);
    }
}

/// Twelve rows of `tile` by two panels.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run_two(tile: Tile, panels: [*const f32; 2], out: [Results; 2], accumulate: bool) {
    // SAFETY: as in `run`.
    unsafe {
        let [mut sums, mut second] = [load(out[0], accumulate), load(out[1], accumulate)];
        multiply_tile!(
            load_two, row_by_two, sums, tile, panels[0], ["add {panel_second}, 256"], ["add {panel_second}, 64"],
            panel_second = inout(reg) panels[1] => _,
            value = out(zmm_reg) _,
            weights_second = out(zmm_reg) _,
            a_second = inout(zmm_reg) second[0], b_second = inout(zmm_reg) second[1],
            c_second = inout(zmm_reg) second[2], d_second = inout(zmm_reg) second[3],
            e_second = inout(zmm_reg) second[4], f_second = inout(zmm_reg) second[5],
            g_second = inout(zmm_reg) second[6], h_second = inout(zmm_reg) second[7],
            i_second = inout(zmm_reg) second[8], j_second = inout(zmm_reg) second[9],
            k_second = inout(zmm_reg) second[10], l_second = inout(zmm_reg) second[11],
        );
        store(out[0], &sums);
        store(out[1], &second);
    }
}

/// What one panel's sums begin with.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(out: Results, accumulate: bool) -> [__m512; ROWS] {
    let mut sums = [_mm512_setzero_ps(); ROWS];
    for (row, sum) in sums.iter_mut().enumerate().take(if accumulate { ROWS } else { 0 }) {
        // SAFETY: the caller's promise.
        *sum = unsafe { _mm512_loadu_ps(out.first.add(row * out.row_stride)) };
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(out: Results, sums: &[__m512; ROWS]) {
    for (row, &sum) in sums.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(out.first.add(row * out.row_stride), sum) };
    }
}
