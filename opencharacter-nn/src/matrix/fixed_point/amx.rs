//! The tiles of AMX (Intel's Architecture Instruction Set Extensions, chapter 3), by assembly: the compiler's own functions
//! for them are not stable yet.

use std::{
    arch::{
        asm,
        x86_64::{
            __cpuid_count, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_load_si512, _mm512_loadu_ps,
            _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps,
        },
    },
    sync::OnceLock,
};

use super::{
    Corner,
    split::{LINES, STEP, Step},
};
use crate::simd;

/// Sums of products of digits, by how much they count: of the highest ones, and 2^-8, 2^-16 and 2^-24 of that.
const LEVELS: usize = 4;

/// See [`super::available`].
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| simd::has_avx512() && has_tiles() && may_use_tiles())
}

/// Whether the processor has tiles and multiplies integers with them.
fn has_tiles() -> bool {
    // Leaf 7: AMX-TILE is bit 24 and AMX-INT8 bit 25 of EDX.
    const TILES: u32 = 0b11 << 24;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & TILES == TILES
}

/// Asks the system for the tiles' registers, which it gives to processes that ask only (Linux, `arch_prctl(2)`).
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call changes nothing but which instructions this process may use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// What the tiles are configured by: all eight have 16 lines of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_line: [u16; 16],
    lines: [u8; 16],
}

static CONFIGURATION: Configuration = {
    let (mut bytes_per_line, mut lines) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        bytes_per_line[tile] = STEP as u16;
        lines[tile] = LINES as u8;
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_line, lines }
};

/// Makes this thread's tiles ready.
///
/// # Safety
/// They are [`available`].
pub(super) unsafe fn configure() {
    // SAFETY: the caller's promise; the configuration is 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
}

/// Lets them go, so that the system need not save them any more.
///
/// # Safety
/// They are [`available`].
pub(super) unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

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

/// An instruction on tiles, and ten that do nothing. While another program runs on the core's second thread, tiles that
/// follow each other closely are slow: 122 GFLOP/s on a core then became 200, and 443 became 475 while it did not (Emerald
/// Rapids; five after each, or any cheap instructions instead, gave nearly as much). Why is not known; the units for
/// multiply-adds lost less than a tenth at those times.
macro_rules! spaced {
    ($instruction:literal) => {
        concat!($instruction, "\n.rept 10\nnop\n.endr")
    };
}

/// The sums over all steps. Six tiles of digits are loaded for eight products: four registers hold sums, which leaves four,
/// and the left factor's two lower digits share one.
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
            spaced!("tileloadd tmm6, [{right} + {line}]"),
            spaced!("tdpbssd tmm0, tmm4, tmm6"),
            spaced!("tileloadd tmm7, [{right} + {line} + 1024]"),
            spaced!("tdpbssd tmm1, tmm4, tmm7"),
            spaced!("tileloadd tmm5, [{left} + {line} + 2048]"),
            spaced!("tdpbssd tmm3, tmm5, tmm7"),
            spaced!("tdpbssd tmm2, tmm5, tmm6"),
            spaced!("tileloadd tmm5, [{left} + {line} + 1024]"),
            spaced!("tdpbssd tmm1, tmm5, tmm6"),
            spaced!("tdpbssd tmm2, tmm5, tmm7"),
            spaced!("tileloadd tmm7, [{right} + {line} + 2048]"),
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
