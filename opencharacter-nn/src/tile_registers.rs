//! The tile registers of AMX (Intel's Architecture Instruction Set Extensions, chapter 3), by assembly: the compiler's own
//! functions for them are not stable yet.

#[cfg(target_arch = "x86_64")]
use std::{
    arch::{asm, x86_64::__cpuid_count},
    sync::OnceLock,
};

/// Rows of a tile.
pub(crate) const LINES: usize = 16;
/// Bytes of one of them.
pub(crate) const LINE_BYTES: usize = 64;

/// What tiles can be multiplied as: bits of leaf 7's EDX.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum TileType {
    #[cfg(target_arch = "x86_64")]
    Bfloat16 = 1 << 22,
    Int8 = 1 << 25,
}

/// Whether the processor multiplies tiles of this type, and the system lets this process use them.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_tiles_of(kind: TileType) -> bool {
    const TILES: u32 = 1 << 24;
    let needed = TILES | kind as u32;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & needed == needed && may_use_tiles()
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn has_tiles_of(_: TileType) -> bool {
    false
}

/// Asks the system for the registers, once.
#[cfg(target_arch = "x86_64")]
fn may_use_tiles() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(ask)
}

/// Linux gives them to processes that ask only (`arch_prctl(2)`).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn ask() -> bool {
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

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn ask() -> bool {
    false
}

/// What the tiles are configured by: all eight have 16 lines of 64 bytes.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_line: [u16; 16],
    lines: [u8; 16],
}

#[cfg(target_arch = "x86_64")]
static CONFIGURATION: Configuration = {
    let (mut bytes_per_line, mut lines) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        bytes_per_line[tile] = LINE_BYTES as u16;
        lines[tile] = LINES as u8;
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_line, lines }
};

/// Makes this thread's tiles ready, until it is dropped: then the system need not save them any more.
pub(crate) struct Tiles(());

impl Tiles {
    /// # Safety
    /// The machine [`has_tiles_of`] some type.
    pub(crate) unsafe fn configure() -> Self {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise; the configuration is 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly));
        }
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever made this had tiles.
        unsafe {
            asm!("tilerelease", options(nostack, nomem));
        }
    }
}

/// An instruction on tiles, and ten that do nothing. While another program runs on the core's second thread, tiles that
/// follow each other closely are slow: 122 GFLOP/s on a core then became 200, and 443 became 475 while it did not (Emerald
/// Rapids; five after each, or any cheap instructions instead, gave nearly as much). Why is not known; the units for
/// multiply-adds lost less than a tenth at those times.
#[cfg(target_arch = "x86_64")]
macro_rules! spaced {
    ($instruction:literal) => {
        concat!($instruction, "\n.rept 10\nnop\n.endr")
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use spaced;

/// An instruction on tiles. Their registers hold their contents from one piece of assembly to the next: nothing else in
/// this program names them. Lines are so many bytes apart.
#[cfg(target_arch = "x86_64")]
macro_rules! tile {
    (load $register:tt, $from:expr, $apart:expr) => {
        asm!(
            concat!("tileloadd ", $register, ", [{from} + {line}]"),
            from = in(reg) $from,
            line = in(reg) $apart,
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
    (store $register:tt, $to:expr, $apart:expr) => {
        asm!(
            concat!("tilestored [{to} + {line}], ", $register),
            to = in(reg) $to,
            line = in(reg) $apart,
            options(nostack, preserves_flags),
        )
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use tile;
