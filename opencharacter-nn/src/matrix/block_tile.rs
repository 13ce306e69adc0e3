//! The register tile for quantised weights and 8-bit activations.
//!
//! For a block of 32 inputs with weights `scale * w + offset` (`offset` is nothing but in `Q4_1`) and activations
//! `s * x`, where `w` and `x` are small integers, the products add up to
//! `s * scale * sum(w x) + offset * s * sum(x)`. The sums of integers are exact in any order; the blocks are added in
//! f32, one after the other, by the same operations on every instruction set. So an element's bits depend on its row
//! and its weights alone, as those of [`Tile`](super::Tile) do, at a quarter of the multiplications.

use super::{
    activations::RowBlock,
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
    /// Whether products are added to what lies there, or take its place.
    pub(super) accumulate: bool,
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
}

/// [`BlockFormat`] as a kernel's parameter.
#[cfg(target_arch = "x86_64")]
const Q4_0: u8 = 0;
#[cfg(target_arch = "x86_64")]
const Q4_1: u8 = 1;
#[cfg(target_arch = "x86_64")]
const Q8_0: u8 = 2;

/// Two panels' blocks and the rows that they are multiplied with.
#[derive(Clone, Copy)]
pub(super) struct BlockTile<'a> {
    pub(super) format: BlockFormat,
    /// `[blocks][2 panels]`, each scales, offsets where there are any, and quants.
    pub(super) pair: &'a [u8],
    /// `[rows][blocks][32]`.
    pub(super) quants: &'a [i8],
    /// `[rows][blocks]`.
    pub(super) blocks: &'a [RowBlock],
    /// Blocks of a row.
    pub(super) count: usize,
}

impl BlockTile<'_> {
    /// Multiplies `rows` rows; each gives 32 results. A pair's weights stay in the first-level cache meanwhile.
    ///
    /// # Safety
    /// The machine has `set`. The target's `rows` rows of 32 elements are writable by nobody else and, to accumulate,
    /// initialised.
    pub(super) unsafe fn run_on(self, set: InstructionSet, rows: usize, target: Target) {
        assert!(
            self.pair.len() == self.count * 2 * self.format.panel_block_bytes()
                && self.quants.len() >= rows * self.count * BLOCK
                && self.blocks.len() >= rows * self.count,
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

    /// The same without the first `row` rows.
    #[cfg(target_arch = "x86_64")]
    fn skip_rows(self, row: usize) -> Self {
        Self { quants: &self.quants[row * self.count * BLOCK..], blocks: &self.blocks[row * self.count..], ..self }
    }

    unsafe fn run_portable(self, rows: usize, target: Target) {
        let pair: Vec<PanelBlock<'_>> = self
            .pair
            .chunks_exact(self.format.panel_block_bytes())
            .map(|bytes| PanelBlock::new(self.format, bytes))
            .collect();
        for row in 0..rows {
            // SAFETY: the caller's promise.
            let out = unsafe { target.out.add(row * target.stride).cast::<[f32; COLUMNS]>() };
            // SAFETY: as above; initialised where it is read.
            let mut sums = if target.accumulate { unsafe { *out } } else { [0.0; COLUMNS] };
            for (block, panels) in pair.chunks_exact(2).enumerate() {
                let place = row * self.count + block;
                let quants = &self.quants[place * BLOCK..][..BLOCK];
                let of_row = self.blocks[place];
                for (column, sum) in sums.iter_mut().enumerate() {
                    let (panel, lane) = (panels[column / PANEL], column % PANEL);
                    let weights = (0..BLOCK).map(|input| panel.quant(lane, input));
                    let values = (0..BLOCK).map(|input| i32::from(quants[place_of(input)]));
                    let dot: i32 = weights.zip(values).map(|(weight, value)| weight * value).sum();
                    let scaled = dot as f32 * panel.scale(lane);
                    *sum = scaled.mul_add(of_row.scale, *sum);
                    if let Some(offset) = panel.offset(lane) {
                        *sum = offset.mul_add(of_row.scaled_sum, *sum);
                    }
                }
            }
            // SAFETY: the caller's promise.
            unsafe { *out = sums };
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
const AHEAD: usize = 2560;

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::{
        __m512, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_and_si512, _mm512_cvtepi32_ps,
        _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps,
        _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
        _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps, _mm512_sub_epi32, _mm512_xor_si512,
    };

    use super::{AHEAD, BLOCK, BlockFormat, BlockTile, GROUP, PANEL, Q4_0, Q4_1, Q8_0, Target};

    /// Rows of a tile: twelve sums of integers and twelve of floats, the weights of 8 inputs of two panels and a row's
    /// activations fill 30 of the 32 registers.
    const ROWS: usize = 6;

    /// # Safety
    /// As [`BlockTile::run_on`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
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

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn run_format<const FORMAT: u8>(tile: BlockTile<'_>, rows: usize, target: Target) {
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: the caller's promise.
            unsafe {
                let (tile, target) = (tile.skip_rows(row), target.skip_rows(row));
                match rows - row {
                    1 => run_rows::<FORMAT, 1>(tile, target),
                    2 => run_rows::<FORMAT, 2>(tile, target),
                    3 => run_rows::<FORMAT, 3>(tile, target),
                    4 => run_rows::<FORMAT, 4>(tile, target),
                    5 => run_rows::<FORMAT, 5>(tile, target),
                    _ => run_rows::<FORMAT, ROWS>(tile, target),
                }
            }
        }
    }

    /// The even and the odd inputs of 8, as bytes without sign: 4-bit quants as they are, 8-bit ones plus 128.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn weights<const FORMAT: u8>(quants: *const u8, group: usize) -> [__m512i; 2] {
        // SAFETY: the group lies inside the block.
        unsafe {
            if FORMAT == Q8_0 {
                let source = quants.add(group * GROUP * PANEL);
                let high = _mm512_set1_epi8(-128);
                return [
                    _mm512_xor_si512(_mm512_loadu_si512(source.cast()), high),
                    _mm512_xor_si512(_mm512_loadu_si512(source.add(64).cast()), high),
                ];
            }
            let mask = _mm512_set1_epi8(15);
            let both = _mm512_loadu_si512(quants.add(group * GROUP * PANEL / 2).cast());
            [_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask)]
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn halves(source: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(source.cast())) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn run_rows<const FORMAT: u8, const ROWS: usize>(tile: BlockTile<'_>, target: Target) {
        let panel_bytes = tile.format.panel_block_bytes();
        let halves_bytes = tile.format.halves_bytes();
        // SAFETY: the target has ROWS rows, and the tile's slices were looked at.
        unsafe {
            let place = |row: usize, panel: usize| target.out.add(row * target.stride + panel * PANEL);
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            if target.accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    *sums = [_mm512_loadu_ps(place(row, 0)), _mm512_loadu_ps(place(row, 1))];
                }
            }
            for block in 0..tile.count {
                let source = tile.pair.as_ptr().add(block * 2 * panel_bytes);
                for line in (0..2 * panel_bytes).step_by(64) {
                    // Beyond the matrix this asks for what may not exist, which does nothing.
                    _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD + line).cast());
                }
                let values = tile.quants.as_ptr().add(block * BLOCK);
                let blocks = tile.blocks.as_ptr().add(block);
                let mut dots = [[_mm512_setzero_si512(); 2]; ROWS];
                if FORMAT != Q4_1 {
                    // The weights' bytes are without sign: what was added to them is taken off here.
                    for (row, dots) in dots.iter_mut().enumerate() {
                        let sum = _mm512_set1_epi32((*blocks.add(row * tile.count)).sum);
                        let added =
                            if FORMAT == Q8_0 { _mm512_slli_epi32::<7>(sum) } else { _mm512_slli_epi32::<3>(sum) };
                        *dots = [_mm512_sub_epi32(_mm512_setzero_si512(), added); 2];
                    }
                }
                for group in 0..BLOCK / GROUP {
                    let first = weights::<FORMAT>(source.add(halves_bytes), group);
                    let second = weights::<FORMAT>(source.add(panel_bytes + halves_bytes), group);
                    for (row, dots) in dots.iter_mut().enumerate() {
                        let values = values.add(row * tile.count * BLOCK + group * GROUP).cast::<[u8; 4]>();
                        for (half, (first, second)) in first.into_iter().zip(second).enumerate() {
                            let values = _mm512_set1_epi32(i32::from_le_bytes(*values.add(half)));
                            dots[0] = _mm512_dpbusd_epi32(dots[0], first, values);
                            dots[1] = _mm512_dpbusd_epi32(dots[1], second, values);
                        }
                    }
                }
                for panel in 0..2 {
                    let source = source.add(panel * panel_bytes);
                    let scale = halves(source);
                    for (row, (sums, dots)) in sums.iter_mut().zip(&dots).enumerate() {
                        let of_row = &*blocks.add(row * tile.count);
                        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[panel]), scale);
                        sums[panel] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(of_row.scale), sums[panel]);
                        if FORMAT == Q4_1 {
                            let offset = halves(source.add(2 * PANEL));
                            sums[panel] = _mm512_fmadd_ps(offset, _mm512_set1_ps(of_row.scaled_sum), sums[panel]);
                        }
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                _mm512_storeu_ps(place(row, 0), sums[0]);
                _mm512_storeu_ps(place(row, 1), sums[1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::{
        asm,
        x86_64::{
            __m256, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_abs_epi8, _mm256_add_epi16,
            _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
            _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8,
            _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_sign_epi8,
            _mm256_srli_epi16, _mm256_storeu_ps, _mm256_sub_epi32,
        },
    };

    use super::{AHEAD, BLOCK, BlockFormat, BlockTile, COLUMNS, GROUP, PANEL, Q4_0, Q4_1, Q8_0, Target};

    /// Lanes of a register.
    const LANES: usize = 8;
    /// Rows of a tile: for 16 lanes, 8 sums of 4 rows, the even and the odd weights of both halves, two activations, a
    /// product and a mask fill the 16 registers.
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
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: the caller's promise.
            unsafe {
                let (tile, target) = (tile.skip_rows(row), target.skip_rows(row));
                match rows - row {
                    1 => run_rows::<FORMAT, 1, 4>(tile, target),
                    2 => run_rows::<FORMAT, 2, 2>(tile, target),
                    3 => run_rows::<FORMAT, 3, 2>(tile, target),
                    _ => run_rows::<FORMAT, ROWS, 2>(tile, target),
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run_rows<const FORMAT: u8, const ROWS: usize, const PARTS: usize>(tile: BlockTile<'_>, target: Target) {
        // Not in the target, whose rows may drive each other out of the first-level cache.
        let mut sums = [[0.0_f32; COLUMNS]; ROWS];
        // SAFETY: the target has ROWS rows, and the tile's slices were looked at.
        unsafe {
            let row_of = |row: usize| target.out.add(row * target.stride).cast::<[f32; COLUMNS]>();
            for (row, sums) in sums.iter_mut().enumerate().take(if target.accumulate { ROWS } else { 0 }) {
                *sums = *row_of(row);
            }
            add_rows::<FORMAT, ROWS, PARTS>(tile, &mut sums);
            for (row, sums) in sums.iter().enumerate() {
                *row_of(row) = *sums;
            }
        }
    }

    /// Sums stay in memory from block to block. Were this part of its caller, the compiler would want all of them in
    /// registers at once and move them to and fro instead.
    #[inline(never)]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_rows<const FORMAT: u8, const ROWS: usize, const PARTS: usize>(
        tile: BlockTile<'_>,
        sums: &mut [[f32; COLUMNS]; ROWS],
    ) {
        let pair_bytes = 2 * format_of::<FORMAT>().panel_block_bytes();
        for block in 0..tile.count {
            // SAFETY: the tile's slices were looked at; a prefetch reads nothing.
            unsafe {
                // Many rows read the weights from a near cache, and have no time for this.
                for line in (0..if ROWS == 1 { pair_bytes } else { 0 }).step_by(64) {
                    let source = tile.pair.as_ptr().add(block * pair_bytes);
                    _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD + line).cast());
                }
                for first in (0..COLUMNS / LANES).step_by(PARTS) {
                    let dots = dots::<FORMAT, ROWS, PARTS>(tile, block, first);
                    add_scaled::<FORMAT, ROWS, PARTS>(tile, block, first, &dots, sums);
                }
            }
        }
    }

    /// A block's sums of products for `PARTS` parts of 8 lanes from the `first` on: pairs of sums of 16 bits for weights
    /// of 4 bits, else sums of 32 bits.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dots<const FORMAT: u8, const ROWS: usize, const PARTS: usize>(
        tile: BlockTile<'_>,
        block: usize,
        first: usize,
    ) -> [[__m256i; PARTS]; ROWS] {
        let mut dots = [[_mm256_setzero_si256(); PARTS]; ROWS];
        // SAFETY: the caller's promise; a block has four groups.
        unsafe {
            if let (Ok(dots), true) = (<&mut [_; 8]>::try_from(dots.as_flattened_mut()), FORMAT != Q8_0 && ROWS == 4) {
                dots_of_four_rows::<FORMAT>(tile, block, first, dots);
            } else {
                for group in 0..BLOCK / GROUP {
                    add_group::<FORMAT, ROWS, PARTS>(tile, block, first, group, &mut dots);
                }
            }
        }
        dots
    }

    /// [`dots`] of weights of 4 bits, for 4 rows and 16 lanes.
    ///
    /// All 16 registers have their use, and each product its place. Left to itself, the compiler adds up the four groups
    /// in an order of its own and keeps sums in memory meanwhile (Zen 3: 138 GOP/s a core against 183).
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dots_of_four_rows<const FORMAT: u8>(
        tile: BlockTile<'_>,
        block: usize,
        first: usize,
        dots: &mut [__m256i; 8],
    ) {
        /// Adds the products of a row's 8 inputs to its two sums.
        macro_rules! row {
            ($address:literal, $low:literal, $high:literal) => {
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
        // SAFETY: the block's quants and each row's values are read, and nothing is written to memory.
        unsafe {
            let (mut quants, row_stride) = (quants::<FORMAT>(tile, block, first), tile.count * BLOCK);
            let mut values = tile.quants.as_ptr().add(block * BLOCK);
            let [a, b, c, d, e, f, g, h] = dots;
            for _ in 0..BLOCK / GROUP {
                // In 16 bits there is room: 16 products of at most 15 x 127 for each sum.
                asm!(
                    "vmovdqu {even_low}, [{quants}]",
                    "vmovdqu {even_high}, [{quants} + 32]",
                    "vpsrlw {odd_low}, {even_low}, 4",
                    "vpsrlw {odd_high}, {even_high}, 4",
                    "vpand {even_low}, {even_low}, {mask}",
                    "vpand {even_high}, {even_high}, {mask}",
                    "vpand {odd_low}, {odd_low}, {mask}",
                    "vpand {odd_high}, {odd_high}, {mask}",
                    row!("{values}", "a", "b"),
                    row!("{values} + {stride}", "c", "d"),
                    row!("{values} + 2 * {stride}", "e", "f"),
                    row!("{values} + {three_strides}", "g", "h"),
                    quants = in(reg) quants,
                    values = in(reg) values,
                    stride = in(reg) row_stride,
                    three_strides = in(reg) 3 * row_stride,
                    mask = in(ymm_reg) _mm256_set1_epi8(15),
                    a = inout(ymm_reg) *a,
                    b = inout(ymm_reg) *b,
                    c = inout(ymm_reg) *c,
                    d = inout(ymm_reg) *d,
                    e = inout(ymm_reg) *e,
                    f = inout(ymm_reg) *f,
                    g = inout(ymm_reg) *g,
                    h = inout(ymm_reg) *h,
                    even_low = out(ymm_reg) _,
                    even_high = out(ymm_reg) _,
                    odd_low = out(ymm_reg) _,
                    odd_high = out(ymm_reg) _,
                    even_value = out(ymm_reg) _,
                    odd_value = out(ymm_reg) _,
                    product = out(ymm_reg) _,
                    options(pure, readonly, nostack, preserves_flags),
                );
                quants = quants.add(4 * PANEL);
                values = values.add(GROUP);
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
                            let pairs =
                                _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(value, weights));
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
                        let sums =
                            _mm256_add_epi16(_mm256_maddubs_epi16(even, of_even), _mm256_maddubs_epi16(odd, of_odd));
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
    const fn format_of<const FORMAT: u8>() -> BlockFormat {
        match FORMAT {
            Q4_0 => BlockFormat::Q4_0,
            Q4_1 => BlockFormat::Q4_1,
            _ => BlockFormat::Q8_0,
        }
    }

    /// The quants of a part of 8 lanes.
    #[inline]
    unsafe fn quants<const FORMAT: u8>(tile: BlockTile<'_>, block: usize, part: usize) -> *const u8 {
        let lanes = part % (PANEL / LANES) * LANES;
        // SAFETY: the caller's promise.
        unsafe { panel_block::<FORMAT>(tile, block, part).add(format_of::<FORMAT>().halves_bytes() + lanes * 4) }
    }

    /// The block of the panel that a part of 8 lanes lies in.
    #[inline]
    unsafe fn panel_block<const FORMAT: u8>(tile: BlockTile<'_>, block: usize, part: usize) -> *const u8 {
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

    /// Adds what [`dots`] gave, times the scales, and the offsets' share.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_scaled<const FORMAT: u8, const ROWS: usize, const PARTS: usize>(
        tile: BlockTile<'_>,
        block: usize,
        first: usize,
        dots: &[[__m256i; PARTS]; ROWS],
        sums: &mut [[f32; COLUMNS]; ROWS],
    ) {
        for part in 0..PARTS {
            // SAFETY: the caller's promise.
            unsafe {
                let lanes = (first + part) % (PANEL / LANES) * LANES;
                let source = panel_block::<FORMAT>(tile, block, first + part).add(2 * lanes);
                let scale = halves(source);
                for (row, (dots, sums)) in dots.iter().zip(&mut *sums).enumerate() {
                    let of_row = &*tile.blocks.as_ptr().add(row * tile.count + block);
                    let mut dot = dots[part];
                    if FORMAT != Q8_0 {
                        dot = _mm256_madd_epi16(dot, _mm256_set1_epi16(1));
                    }
                    if FORMAT == Q4_0 {
                        dot = _mm256_sub_epi32(dot, _mm256_set1_epi32(8 * of_row.sum));
                    }
                    let target = sums.as_mut_ptr().add((first + part) * LANES);
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), scale);
                    let mut sum = _mm256_fmadd_ps(scaled, _mm256_set1_ps(of_row.scale), _mm256_loadu_ps(target));
                    if FORMAT == Q4_1 {
                        let offset = halves(source.add(2 * PANEL));
                        sum = _mm256_fmadd_ps(offset, _mm256_set1_ps(of_row.scaled_sum), sum);
                    }
                    _mm256_storeu_ps(target, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{
        Device, Tensor,
        quantized::{GgmlDType, QTensor},
    };
    use opencharacter_core::KeyedRandom;

    use super::{
        super::{activations::EightBitRows, blocks::BlockPanels},
        *,
    };

    const FORMATS: [(BlockFormat, GgmlDType); 3] = [
        (BlockFormat::Q4_0, GgmlDType::Q4_0),
        (BlockFormat::Q4_1, GgmlDType::Q4_1),
        (BlockFormat::Q8_0, GgmlDType::Q8_0),
    ];

    /// Whole tiles of every kernel, and each rest.
    const MOST_ROWS: usize = 13;

    fn draw(seed: u64, count: usize) -> Vec<f32> {
        let mut random = KeyedRandom::new(seed, &["block tile"]);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let (outputs, inputs) = (32, 160);
        let weights = Tensor::from_vec(draw(1, outputs * inputs), (outputs, inputs), &Device::Cpu).unwrap();
        let mut values = draw(2, MOST_ROWS * inputs);
        // The largest sums that the formats allow, in one block.
        values[..BLOCK].fill(1.0);
        let x = EightBitRows::new(&values, inputs);
        let (quants, blocks, count) = x.rows_from(0);
        let best = instruction_set();
        for (format, kind) in FORMATS {
            let mut data = QTensor::quantize(&weights, kind).unwrap().data().unwrap().to_vec();
            let header = if format == BlockFormat::Q4_1 { 4 } else { 2 };
            // The first block of two rows at both ends of what bytes hold.
            for (row, byte) in [(0, 0xFF), (1, 0x80), (17, 0x7F)] {
                let start = row * count * format.bytes();
                data[start + header..start + format.bytes()].fill(byte);
            }
            let panels = BlockPanels::new(format, &data, outputs, inputs);
            for rows in 1..=MOST_ROWS {
                let run = |set, accumulate| {
                    let mut sums = [[0.5_f32; COLUMNS + 5]; MOST_ROWS];
                    let tile = BlockTile { format, pair: panels.pair(0), quants, blocks, count };
                    let target = Target { out: sums.as_mut_ptr().cast(), stride: COLUMNS + 5, accumulate };
                    // SAFETY: `sums` has all rows; `set` is not beyond the best one.
                    unsafe { tile.run_on(set, rows, target) };
                    sums
                };
                for accumulate in [false, true] {
                    let expected = run(InstructionSet::Portable, accumulate);
                    for (row, sums) in expected.iter().enumerate() {
                        let kept = if row < rows { &sums[COLUMNS..] } else { &sums[..] };
                        assert!(kept.iter().all(|&kept| kept == 0.5), "only {rows} rows of {COLUMNS} are written");
                    }
                    for set in [InstructionSet::Avx2, InstructionSet::Avx512Vnni] {
                        let available = best == set || best == InstructionSet::Avx512Vnni;
                        if available && best != InstructionSet::Portable {
                            assert_eq!(run(set, accumulate), expected, "{set:?}, {format:?}, {rows} rows");
                        }
                    }
                }
            }
        }
    }
}
