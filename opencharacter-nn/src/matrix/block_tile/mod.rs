//! The register tile for quantised weights and 8-bit activations.
//!
//! A block of 32 weights is `scale * w + offset` (`offset` is nothing but in `Q4_1`), a block of activations `s * x`,
//! where `w` and `x` are small integers. For 4-bit weights, `scale` and `offset` are integers as well, multiples of the
//! output's [`unit`](super::blocks), so a block's share of a product is `s * unit` times
//! `scale * sum(w x) + offset * sum(x)`: an integer of less than 32 bits, for an activation block that spans two of the
//! weights' blocks as for one. For 8-bit weights, each of the weights' blocks is scaled in f32. Sums of integers are exact
//! in any order; blocks are added in f32, one after the other, by the same operations on every instruction set. So an
//! element's bits depend on its row and its weights alone, as those of [`Tile`](super::Tile) do, at a quarter of the
//! multiplications.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod four_rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod unpacked;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::{
    activations::{MOST_SPAN, RowBlock},
    blocks::{BLOCK, BlockFormat, GROUP, PanelBlock},
    kernel::PANEL,
};

/// Results of a row: those of a pair of panels.
pub(super) const COLUMNS: usize = 2 * PANEL;

/// Where a tile's results go.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// The first of the first row.
    pub(super) out: *mut f32,
    /// Elements from one row to the next.
    pub(super) stride: usize,
}

/// What the kernels were compiled for and this machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InstructionSet {
    /// AVX-512 with its dot product of bytes (VNNI).
    Avx512Vnni,
    Avx2,
    Portable,
}

/// The best of them here.
pub(super) fn instruction_set() -> InstructionSet {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected;
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
        {
            return InstructionSet::Avx512Vnni;
        }
        if super::kernel::instruction_set() != super::kernel::InstructionSet::Portable {
            return InstructionSet::Avx2;
        }
    }
    InstructionSet::Portable
}

impl Target {
    /// The same without the first `row` rows.
    ///
    /// # Safety
    /// There are so many.
    #[cfg(target_arch = "x86_64")]
    unsafe fn skip_rows(self, row: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { out: unsafe { self.out.add(row * self.stride) }, ..self }
    }

    /// Asks memory for the lines of a panel's results: each row's lies in a page of its own.
    #[cfg(target_arch = "x86_64")]
    fn prefetch(self, panel: usize, rows: usize) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for row in 0..rows {
            let line = self.out.wrapping_add(row * self.stride + panel * PANEL);
            // SAFETY: a prefetch reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
    }
}

/// [`BlockFormat`] as a kernel's parameter.
#[cfg(target_arch = "x86_64")]
pub(super) const Q4_0: u8 = 0;
#[cfg(target_arch = "x86_64")]
pub(super) const Q4_1: u8 = 1;
#[cfg(target_arch = "x86_64")]
pub(super) const Q8_0: u8 = 2;

/// Two panels' blocks and the rows that they are multiplied with.
#[derive(Clone, Copy)]
pub(super) struct BlockTile<'a> {
    pub(super) format: BlockFormat,
    /// `[blocks][2 panels]`, each scales, offsets where there are any, and quants.
    pub(super) pair: &'a [u8],
    /// Of the two panels' outputs.
    pub(super) units: &'a [f32],
    /// `[rows][blocks][32]`.
    pub(super) quants: &'a [i8],
    /// `[rows][blocks / span]`.
    pub(super) blocks: &'a [RowBlock],
    /// The weights' blocks in a row.
    pub(super) count: usize,
    /// How many of them a block of activations spans.
    pub(super) span: usize,
}

impl BlockTile<'_> {
    /// Multiplies `rows` rows; each gives 32 results. A pair's weights stay in the first-level cache meanwhile.
    ///
    /// # Safety
    /// The machine has `set`, and the target's `rows` rows of 32 elements are writable by nobody else.
    pub(super) unsafe fn run_on(self, set: InstructionSet, rows: usize, target: Target) {
        assert!(
            self.pair.len() == self.count * 2 * self.format.panel_block_bytes()
                && self.units.len() == COLUMNS
                && (1..=MOST_SPAN).contains(&self.span)
                && self.count.is_multiple_of(self.span)
                && self.quants.len() >= rows * self.count * BLOCK
                && self.blocks.len() >= rows * self.row_blocks(),
            "a pair's blocks, and as many of each row"
        );
        // SAFETY: the caller's promise, and the lengths were just looked at.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512Vnni => vnni::run(self, rows, target),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => avx2::run(self, rows, target),
                _ => self.run_portable(rows, target),
            }
        }
    }

    /// Asks memory for the `part`th of `parts` parts of the weights that lie behind these, which are most often read next:
    /// waiting for them was half of the time of unpacking.
    #[cfg(target_arch = "x86_64")]
    fn prefetch_next(self, part: usize, parts: usize) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let length = self.pair.len().div_ceil(parts).next_multiple_of(64);
        for line in (part * length..((part + 1) * length).min(self.pair.len())).step_by(64) {
            // SAFETY: a prefetch of any address does nothing that a program can see.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.pair.as_ptr_range().end.wrapping_add(line).cast()) };
        }
    }

    /// A panel's scales, offsets and quants of one of the weights' blocks.
    ///
    /// # Safety
    /// The tile has the block.
    #[cfg(target_arch = "x86_64")]
    unsafe fn panel_block(self, block: usize, panel: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { self.pair.as_ptr().add((block * 2 + panel) * self.format.panel_block_bytes()) }
    }

    /// Blocks of activations in a row.
    fn row_blocks(self) -> usize {
        self.count / self.span
    }

    /// The same without the first `row` rows.
    #[cfg(target_arch = "x86_64")]
    fn skip_rows(self, row: usize) -> Self {
        Self {
            quants: &self.quants[row * self.count * BLOCK..],
            blocks: &self.blocks[row * self.row_blocks()..],
            ..self
        }
    }

    unsafe fn run_portable(self, rows: usize, target: Target) {
        let pair: Vec<PanelBlock<'_>> = self
            .pair
            .chunks_exact(self.format.panel_block_bytes())
            .map(|bytes| PanelBlock::new(self.format, bytes))
            .collect();
        for row in 0..rows {
            let mut sums = [0.0_f32; COLUMNS];
            for (block, panels) in pair.chunks_exact(2 * self.span).enumerate() {
                let place = row * self.row_blocks() + block;
                let of_row = self.blocks[place];
                let quants = self.quants[place * self.span * BLOCK..].chunks_exact(BLOCK);
                for (column, sum) in sums.iter_mut().enumerate() {
                    let (panel, lane) = (column / PANEL, column % PANEL);
                    let panels = panels.iter().skip(panel).step_by(2);
                    let mut total = 0;
                    for ((panel, quants), row_sum) in panels.zip(quants.clone()).zip(of_row.sums) {
                        let products =
                            (0..BLOCK).map(|input| panel.quant(lane, input) * i32::from(quants[place_of(input)]));
                        let dot: i32 = products.sum();
                        if self.format == BlockFormat::Q8_0 {
                            *sum = (dot as f32 * panel.scale(lane)).mul_add(of_row.scale, *sum);
                        } else {
                            let (scale, offset) = panel.integers(lane, self.units[column]);
                            total += scale * dot + offset * i32::from(row_sum);
                        }
                    }
                    if self.format != BlockFormat::Q8_0 {
                        *sum = (total as f32).mul_add(of_row.scale, *sum);
                    }
                }
            }
            for (column, (sum, unit)) in sums.iter().zip(self.units).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { *target.out.add(row * target.stride + column) = sum * unit };
            }
        }
    }
}

/// Where an input's activation lies in its block: the even ones of 8 before the odd ones.
fn place_of(input: usize) -> usize {
    input / GROUP * GROUP + input % 2 * (GROUP / 2) + input % GROUP / 2
}

/// How far ahead weights are asked for, in bytes: some 4 blocks of two panels. Without it memory's latency was a
/// seventh of a single row's time.
#[cfg(target_arch = "x86_64")]
pub(super) const AHEAD: usize = 2560;
