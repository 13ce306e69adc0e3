//! A whole tile on AVX2: six rows by the 16 columns of a panel, each instruction in its place.
//!
//! Every multiply-add costs two thirds of an instruction around it: an input's weights are 2 loads and its six values 6
//! broadcasts for 12 multiply-adds. Compiled from intrinsics, with strides that are known at run time only, each input
//! took 6 to 9 further instructions for addresses and the loop. With a core of its own that cost nothing; on a virtual
//! core that shares its front end with a busy sibling it did: medians of alternating runs of a product alone (Zen 3, both
//! cores at work) were 75 GFLOP/s a core and are 83, those of steps with an adapter 181 tokens/s and 204.

use std::arch::{
    asm,
    x86_64::{__m256, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps},
};

use super::{
    input_loop::over_inputs,
    kernel::{Layout, PANEL, Tile},
};

/// Rows of the tile.
pub(super) const ROWS: usize = 6;

/// Multiplies an input's weights, `$weights` bytes behind `panel`, with the values of six rows.
macro_rules! input {
    ($weights:literal, $($low:literal $high:literal $value:expr),*) => {
        concat!(
            "vmovups {weights_low}, [{panel} + ", $weights, "]\n",
            "vmovups {weights_high}, [{panel} + ", $weights, " + 32]\n",
            $(
                "vbroadcastss {value}, [", $value, "]\n",
                "vfmadd231ps {", $low, "}, {value}, {weights_low}\n",
                "vfmadd231ps {", $high, "}, {value}, {weights_high}\n",
            )*
        )
    };
}

/// An input whose values lie `stride` bytes apart, `$offset` bytes behind `x` and, for the last three rows, `fourth_row`.
macro_rules! input_of_rows {
    ($offset:literal, $weights:literal) => {
        input!(
            $weights,
            "a" "b" concat!("{x} + ", $offset),
            "c" "d" concat!("{x} + {stride} + ", $offset),
            "e" "f" concat!("{x} + 2 * {stride} + ", $offset),
            "g" "h" concat!("{fourth_row} + ", $offset),
            "i" "j" concat!("{fourth_row} + {stride} + ", $offset),
            "k" "l" concat!("{fourth_row} + 2 * {stride} + ", $offset)
        )
    };
}

/// An input whose values lie side by side at `$place`.
macro_rules! input_of_columns {
    ($place:literal, $weights:literal) => {
        input!(
            $weights,
            "a" "b" concat!($place, ""),
            "c" "d" concat!($place, " + 4"),
            "e" "f" concat!($place, " + 8"),
            "g" "h" concat!($place, " + 12"),
            "i" "j" concat!($place, " + 16"),
            "k" "l" concat!($place, " + 20")
        )
    };
}

/// `inputs` inputs, four at a time; `$advance` and `$advance_one` take the addresses of values along.
macro_rules! multiply {
    ($sums:ident, $tile:ident, $panel:ident, [$($four:expr),*], [$($advance:literal),*], $one:expr, [$($advance_one:literal),*],
     $($operands:tt)*) => {
        let [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]] = &mut *$sums;
        asm!(
            over_inputs!([$($four),*], [$($advance),*], $one, [$($advance_one),*]),
            panel = inout(reg) $panel => _,
            fours = inout(reg) $tile.inputs / 4 => _,
            ones = inout(reg) $tile.inputs % 4 => _,
            weights_low = out(ymm_reg) _,
            weights_high = out(ymm_reg) _,
            value = out(ymm_reg) _,
            a = inout(ymm_reg) *a, b = inout(ymm_reg) *b, c = inout(ymm_reg) *c, d = inout(ymm_reg) *d,
            e = inout(ymm_reg) *e, f = inout(ymm_reg) *f, g = inout(ymm_reg) *g, h = inout(ymm_reg) *h,
            i = inout(ymm_reg) *i, j = inout(ymm_reg) *j, k = inout(ymm_reg) *k, l = inout(ymm_reg) *l,
            options(readonly, nostack),
            $($operands)*
        );
    };
}

/// Sums of a row, for its first and its last 8 columns.
type Sums = [[__m256; 2]; ROWS];

/// Six rows of `tile` by one panel.
///
/// # Safety
/// As [`Tile::run_on`] for six rows, on a machine with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run(tile: Tile, panel: *const f32, out: *mut f32, out_stride: usize, accumulate: bool) {
    // SAFETY: the caller's promise covers every address.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate().take(if accumulate { ROWS } else { 0 }) {
            let place = out.add(row * out_stride);
            *sums = [_mm256_loadu_ps(place), _mm256_loadu_ps(place.add(PANEL / 2))];
        }
        match tile.layout {
            Layout::Rows(stride) => add_rows(tile, stride, panel, &mut sums),
            Layout::Columns(stride) => add_columns(tile, stride, panel, &mut sums),
        }
        for (row, sums) in sums.iter().enumerate() {
            let place = out.add(row * out_stride);
            _mm256_storeu_ps(place, sums[0]);
            _mm256_storeu_ps(place.add(PANEL / 2), sums[1]);
        }
    }
}

/// A row's inputs lie side by side.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_rows(tile: Tile, stride: usize, panel: *const f32, sums: &mut Sums) {
    // SAFETY: six rows of `inputs` values and as many lines of the panel are read; nothing is written to memory.
    unsafe {
        multiply!(
            sums, tile, panel,
            [
                input_of_rows!("0", "0"),
                input_of_rows!("4", "64"),
                input_of_rows!("8", "128"),
                input_of_rows!("12", "192")
            ],
            ["add {x}, 16", "add {fourth_row}, 16"],
            input_of_rows!("0", "0"),
            ["add {x}, 4", "add {fourth_row}, 4"],
            x = inout(reg) tile.x => _,
            fourth_row = inout(reg) tile.x.wrapping_add(3 * stride) => _,
            stride = in(reg) stride * size_of::<f32>(),
        );
    }
}

/// An input's six values lie side by side.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_columns(tile: Tile, stride: usize, panel: *const f32, sums: &mut Sums) {
    // SAFETY: as for rows.
    unsafe {
        multiply!(
            sums, tile, panel,
            [
                input_of_columns!("{x}", "0"),
                input_of_columns!("{x} + {stride}", "64"),
                input_of_columns!("{x} + 2 * {stride}", "128"),
                input_of_columns!("{x} + {three_strides}", "192")
            ],
            ["lea {x}, [{x} + 4 * {stride}]"],
            input_of_columns!("{x}", "0"),
            ["add {x}, {stride}"],
            x = inout(reg) tile.x => _,
            stride = in(reg) stride * size_of::<f32>(),
            three_strides = in(reg) 3 * stride * size_of::<f32>(),
        );
    }
}
