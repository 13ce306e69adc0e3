//! Sums of digits in the tiles of AMX.

use std::arch::{
    asm,
    x86_64::{
        _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_load_si512, _mm512_loadu_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps,
    },
};

use super::{
    Corner, LINES,
    split::{STEP, Step},
};
use crate::tile_registers::spaced;

/// Sums of products of digits, by how much they count: of the highest ones, and 2^-8, 2^-16 and 2^-24 of that.
const LEVELS: usize = 4;

/// `[levels][rows][columns]`.
#[repr(C, align(64))]
struct Sums([[[i32; LINES]; LINES]; LEVELS]);

/// Multiplies one tile of lines by one panel.
///
/// # Safety
/// The tiles are configured, both factors have as many steps, and `out` is writable (and, to accumulate, initialised) for
/// its rows and columns.
pub(super) unsafe fn multiply(left: &[Step], right: &[Step], scales: [&[f32; LINES]; 2], out: &Corner) {
    let mut sums = std::mem::MaybeUninit::<Sums>::uninit();
    // SAFETY: the caller's promise; the sums are written whole.
    unsafe {
        add_up(left, right, sums.as_mut_ptr());
        store(sums.assume_init_ref(), scales, out);
    }
}

/// The sums over all steps. Six tiles of digits are loaded for eight products: four registers hold sums, which leaves four,
/// and the left factor's two lower digits share one. The right factor's are loaded with the hint that leaves them out of the
/// first-level cache, so that the left factor's, which meet the next panel as well, stay there: products took 6% less
/// time (Emerald Rapids).
///
/// # Safety
/// As [`multiply`]; the steps are not empty.
unsafe fn add_up(left: &[Step], right: &[Step], sums: *mut Sums) {
    // SAFETY: the caller's promise: each round reads a step of both factors; the end writes all sums.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            spaced!("tileloadd tmm4, [{left} + {line}]"),
            spaced!("tileloaddt1 tmm6, [{right} + {line}]"),
            spaced!("tdpbssd tmm0, tmm4, tmm6"),
            spaced!("tileloaddt1 tmm7, [{right} + {line} + 1024]"),
            spaced!("tdpbssd tmm1, tmm4, tmm7"),
            spaced!("tileloadd tmm5, [{left} + {line} + 2048]"),
            spaced!("tdpbssd tmm3, tmm5, tmm7"),
            spaced!("tdpbssd tmm2, tmm5, tmm6"),
            spaced!("tileloadd tmm5, [{left} + {line} + 1024]"),
            spaced!("tdpbssd tmm1, tmm5, tmm6"),
            spaced!("tdpbssd tmm2, tmm5, tmm7"),
            spaced!("tileloaddt1 tmm7, [{right} + {line} + 2048]"),
            spaced!("tdpbssd tmm2, tmm4, tmm7"),
            spaced!("tdpbssd tmm3, tmm5, tmm7"),
            "add {left}, 3072",
            "add {right}, 3072",
            "sub {steps}, 1",
            "jnz 2b",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 1024], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 3072], tmm3",
            left = inout(reg) left.as_ptr() => _,
            right = inout(reg) right.as_ptr() => _,
            steps = inout(reg) left.len() => _,
            line = in(reg) STEP,
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// The results that sums stand for.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn store(sums: &Sums, [rows, columns]: [&[f32; LINES]; 2], out: &Corner) {
    let exists = u16::MAX >> (LINES - out.columns);
    // SAFETY: the caller's promise; columns that do not exist are neither read nor written.
    unsafe {
        let column_scales = _mm512_loadu_ps(columns.as_ptr());
        let next = _mm512_set1_ps(1.0 / 256.0);
        for (row, row_scale) in rows.iter().enumerate().take(out.rows) {
            let level = |level: usize| _mm512_cvtepi32_ps(_mm512_load_si512(sums.0[level][row].as_ptr().cast()));
            let sum = _mm512_fmadd_ps(level(3), next, level(2));
            let sum = _mm512_fmadd_ps(sum, next, level(1));
            let sum = _mm512_fmadd_ps(sum, next, level(0));
            let sum = _mm512_mul_ps(sum, _mm512_set1_ps(*row_scale));
            let target = out.out.add(row * out.stride);
            let result = if out.accumulate {
                _mm512_fmadd_ps(sum, column_scales, _mm512_maskz_loadu_ps(exists, target))
            } else {
                _mm512_mul_ps(sum, column_scales)
            };
            _mm512_mask_storeu_ps(target, exists, result);
        }
    }
}
