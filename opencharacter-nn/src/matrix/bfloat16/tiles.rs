//! What products in the bfloat16 tiles share: panels, and how results are stored.

use std::{
    arch::x86_64::{__m512, _mm_prefetch, _mm512_load_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_mul_ps},
    array::from_fn,
    ops::Range,
};

use super::{
    super::{
        PANEL,
        block_tile::{Q4_0, Q4_1},
        blocks::{BlockFormat, BlockPanels},
        packed::GROUP,
    },
    Target,
    rows::Line,
};
use crate::tile_registers::LINE_BYTES;

/// A tile of rows: its first line, and how many lines further its next block lies.
pub(super) type RowTile = (*const Line, usize);

/// A panel of a pair.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) format: BlockFormat,
    /// From its first block on; between two of them lies one of the other panel.
    bytes: &'a [u8],
    pub(super) blocks: usize,
    /// What scales are multiplied by to be multiples of their outputs' units.
    inverses: [f32; PANEL],
}

impl<'a> Weights<'a> {
    /// The panels of a group, which begins with a pair; where only one of the last pair is asked for, its partner as well, and
    /// then that one again.
    pub(super) fn of_group(blocks: &'a BlockPanels, panels: &Range<usize>) -> [Self; GROUP] {
        let last = panels.end.next_multiple_of(2) - 1;
        from_fn(|place| Self::new(blocks, (panels.start + place).min(last)))
    }

    pub(super) fn new(blocks: &'a BlockPanels, panel: usize) -> Self {
        let pair = blocks.pair(panel / 2);
        assert!(pair.blocks() > 0, "there are inputs");
        Self {
            format: pair.format,
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
    pub(super) unsafe fn block(&self, block: usize, bytes: usize) -> (*const u8, __m512) {
        // SAFETY: the caller's promise.
        unsafe { (self.bytes.as_ptr().add(2 * block * bytes), _mm512_loadu_ps(self.inverses.as_ptr())) }
    }
}

/// Asks memory for a quarter of the `bytes` bytes from `place` on. It takes requests one after the other, so they are spread.
#[inline]
pub(super) fn prefetch<const HINT: i32>(place: *const u8, bytes: usize, quarter: usize) {
    let length = bytes.div_ceil(4 * LINE_BYTES) * LINE_BYTES;
    for line in (quarter * length..((quarter + 1) * length).min(bytes)).step_by(LINE_BYTES) {
        // SAFETY: a prefetch of any address does nothing that a program can see.
        unsafe { _mm_prefetch::<HINT>(place.wrapping_add(line).cast()) };
    }
}

pub(super) const fn format_of<const FORMAT: u8>() -> BlockFormat {
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
/// `sums` has the sums of `rows` rows, `apart` elements apart, with `panels` panels, and so many are writable in `target`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store((sums, apart): (*const f32, usize), rows: usize, panels: usize, target: Target) {
    for row in 0..rows {
        for panel in 0..panels {
            let first = panel * PANEL;
            let exists = mask(target.columns - first);
            // SAFETY: the caller's promise; columns that do not exist are not written.
            unsafe {
                let scale = _mm512_loadu_ps(target.scales[first..][..PANEL].as_ptr());
                let sum = _mm512_load_ps(sums.add(row * apart + first));
                let out = target.out.add(row * target.stride + first);
                _mm512_mask_storeu_ps(out, exists, _mm512_mul_ps(sum, scale));
            }
        }
    }
}
