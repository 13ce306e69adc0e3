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

/// Rows of a tile. Twelve sums of integers and twelve of floats, the weights of 8 inputs of two panels and a row's
/// activations fill 30 of AVX-512's 32 registers.
pub(super) const BLOCK_TILE_ROWS: usize = 6;

/// The results of one row for a pair of panels.
pub(super) type PairSums = [f32; 2 * PANEL];

/// What the kernels were compiled for and this machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InstructionSet {
    /// AVX-512 with its dot product of bytes (VNNI).
    Avx512Vnni,
    Avx2,
    Portable,
}

fn instruction_set() -> InstructionSet {
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
    /// Adds the products to `sums`, of as many rows as that has, at most [`BLOCK_TILE_ROWS`].
    pub(super) fn add_to(self, sums: &mut [PairSums]) {
        self.add_on(instruction_set(), sums);
    }

    fn add_on(self, set: InstructionSet, sums: &mut [PairSums]) {
        let rows = sums.len();
        assert!(
            self.pair.len() == self.count * 2 * self.format.panel_block_bytes()
                && self.quants.len() >= rows * self.count * BLOCK
                && self.blocks.len() >= rows * self.count,
            "a pair's blocks, and as many of each row"
        );
        match set {
            // SAFETY: the machine has what the set says, and the lengths were just looked at.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Vnni => unsafe { vnni::add(self, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unsafe { avx2::add(self, sums) },
            _ => self.add_portable(sums),
        }
    }

    fn add_portable(self, sums: &mut [PairSums]) {
        let blocks =
            self.pair.chunks_exact(self.format.panel_block_bytes()).map(|bytes| PanelBlock::new(self.format, bytes));
        for (index, panel) in blocks.enumerate() {
            let (block, panel_of_pair) = (index / 2, index % 2);
            for (row, sums) in sums.iter_mut().enumerate() {
                let place = row * self.count + block;
                let quants = &self.quants[place * BLOCK..][..BLOCK];
                let of_row = self.blocks[place];
                for (lane, sum) in sums[panel_of_pair * PANEL..][..PANEL].iter_mut().enumerate() {
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

    use super::{AHEAD, BLOCK, BlockFormat, BlockTile, GROUP, PANEL, PairSums};

    const Q4_0: u8 = 0;
    const Q4_1: u8 = 1;
    const Q8_0: u8 = 2;

    /// # Safety
    /// The machine has the features, and `tile` what [`BlockTile::add_to`] asks for.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn add(tile: BlockTile<'_>, sums: &mut [PairSums]) {
        // SAFETY: the caller's promise.
        unsafe {
            match tile.format {
                BlockFormat::Q4_0 => add_format::<Q4_0>(tile, sums),
                BlockFormat::Q4_1 => add_format::<Q4_1>(tile, sums),
                BlockFormat::Q8_0 => add_format::<Q8_0>(tile, sums),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_format<const FORMAT: u8>(tile: BlockTile<'_>, sums: &mut [PairSums]) {
        let out = sums.as_mut_ptr();
        // SAFETY: the caller's promise.
        unsafe {
            match sums.len() {
                0 => {}
                1 => add_rows::<FORMAT, 1>(tile, out),
                2 => add_rows::<FORMAT, 2>(tile, out),
                3 => add_rows::<FORMAT, 3>(tile, out),
                4 => add_rows::<FORMAT, 4>(tile, out),
                5 => add_rows::<FORMAT, 5>(tile, out),
                _ => add_rows::<FORMAT, 6>(tile, out),
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
    unsafe fn add_rows<const FORMAT: u8, const ROWS: usize>(tile: BlockTile<'_>, out: *mut PairSums) {
        let panel_bytes = tile.format.panel_block_bytes();
        let halves_bytes = tile.format.halves_bytes();
        // SAFETY: `out` has ROWS rows, and the tile's slices were looked at.
        unsafe {
            let out = out.cast::<f32>();
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            for (place, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(out.add(place * PANEL));
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
            for (place, sum) in sums.as_flattened().iter().enumerate() {
                _mm512_storeu_ps(out.add(place * PANEL), *sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, __m256i, _mm_loadu_si128, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256,
        _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
        _mm256_setzero_si256, _mm256_sign_epi8, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_sub_epi32,
    };

    use super::{BLOCK, BlockFormat, BlockTile, GROUP, PANEL, PairSums};

    /// Lanes of a register.
    const LANES: usize = 8;

    /// # Safety
    /// The machine has the features, and `tile` what [`BlockTile::add_to`] asks for.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn add(tile: BlockTile<'_>, sums: &mut [PairSums]) {
        let out = sums.as_mut_ptr();
        // SAFETY: the caller's promise.
        unsafe {
            match sums.len() {
                0 => {}
                1 => add_rows::<1>(tile, out),
                2 => add_rows::<2>(tile, out),
                3 => add_rows::<3>(tile, out),
                4 => add_rows::<4>(tile, out),
                5 => add_rows::<5>(tile, out),
                _ => add_rows::<6>(tile, out),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn halves(source: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(source.cast())) }
    }

    /// One block's sums of products for 8 lanes: `quants` points at those of the block, `lanes` at the first lane.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dots<const ROWS: usize>(
        format: BlockFormat,
        quants: *const u8,
        values: *const i8,
        row_stride: usize,
    ) -> [__m256i; ROWS] {
        let ones = _mm256_set1_epi16(1);
        let mut dots = [_mm256_setzero_si256(); ROWS];
        // SAFETY: a block has its groups, and each row its values.
        unsafe {
            for group in 0..BLOCK / GROUP {
                let value = |row: usize, half: usize| {
                    i32::from_le_bytes(*values.add(row * row_stride + group * GROUP).cast::<[u8; 4]>().add(half))
                };
                if format == BlockFormat::Q8_0 {
                    for half in 0..2 {
                        let weights = _mm256_loadu_si256(quants.add((group * 2 + half) * 4 * PANEL).cast());
                        // Products take bytes without sign on one side: the weights' signs go over to the values.
                        let sizes = _mm256_abs_epi8(weights);
                        for (row, dot) in dots.iter_mut().enumerate() {
                            let values = _mm256_sign_epi8(_mm256_set1_epi32(value(row, half)), weights);
                            let pairs = _mm256_maddubs_epi16(sizes, values);
                            *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
                        }
                    }
                } else {
                    let mask = _mm256_set1_epi8(15);
                    let both = _mm256_loadu_si256(quants.add(group * 4 * PANEL).cast());
                    let even = _mm256_and_si256(both, mask);
                    let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
                    for (row, dot) in dots.iter_mut().enumerate() {
                        // In 16 bits there is room: 16 products of at most 15 x 127 for each sum.
                        let even = _mm256_maddubs_epi16(even, _mm256_set1_epi32(value(row, 0)));
                        let odd = _mm256_maddubs_epi16(odd, _mm256_set1_epi32(value(row, 1)));
                        *dot = _mm256_add_epi16(*dot, _mm256_add_epi16(even, odd));
                    }
                }
            }
            if format != BlockFormat::Q8_0 {
                for dot in &mut dots {
                    *dot = _mm256_madd_epi16(*dot, ones);
                }
            }
        }
        dots
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_rows<const ROWS: usize>(tile: BlockTile<'_>, out: *mut PairSums) {
        let BlockTile { format, count, .. } = tile;
        let (panel_bytes, halves_bytes) = (format.panel_block_bytes(), format.halves_bytes());
        // SAFETY: `out` has ROWS rows, and the tile's slices were looked at.
        unsafe {
            for block in 0..count {
                let values = tile.quants.as_ptr().add(block * BLOCK);
                for lanes in 0..2 * PANEL / LANES {
                    let source = tile.pair.as_ptr().add((block * 2 + lanes / 2) * panel_bytes);
                    let first = lanes % 2 * LANES;
                    let dots: [__m256i; ROWS] =
                        dots(format, source.add(halves_bytes + first * 4), values, count * BLOCK);
                    let scale = halves(source.add(2 * first));
                    for (row, &dot) in dots.iter().enumerate() {
                        let of_row = &*tile.blocks.as_ptr().add(row * count + block);
                        let target = out.add(row).cast::<f32>().add(lanes * LANES);
                        let mut dot = dot;
                        if format == BlockFormat::Q4_0 {
                            dot = _mm256_sub_epi32(dot, _mm256_set1_epi32(8 * of_row.sum));
                        }
                        let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), scale);
                        let mut sum = _mm256_fmadd_ps(scaled, _mm256_set1_ps(of_row.scale), _mm256_loadu_ps(target));
                        if format == BlockFormat::Q4_1 {
                            let offset = halves(source.add(2 * (PANEL + first)));
                            sum = _mm256_fmadd_ps(offset, _mm256_set1_ps(of_row.scaled_sum), sum);
                        }
                        _mm256_storeu_ps(target, sum);
                    }
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

    fn draw(seed: u64, count: usize) -> Vec<f32> {
        let mut random = KeyedRandom::new(seed, &["block tile"]);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let (outputs, inputs) = (32, 160);
        let weights = Tensor::from_vec(draw(1, outputs * inputs), (outputs, inputs), &Device::Cpu).unwrap();
        let mut values = draw(2, BLOCK_TILE_ROWS * inputs);
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
            for rows in 1..=BLOCK_TILE_ROWS {
                let run = |set| {
                    let mut sums = [[0.5; 2 * PANEL]; BLOCK_TILE_ROWS];
                    let tile = BlockTile { format, pair: panels.pair(0), quants, blocks, count };
                    tile.add_on(set, &mut sums[..rows]);
                    sums
                };
                let expected = run(InstructionSet::Portable);
                assert_eq!(
                    expected[rows..],
                    [[0.5; 2 * PANEL]; BLOCK_TILE_ROWS][rows..],
                    "only {rows} rows are written"
                );
                for set in [InstructionSet::Avx2, InstructionSet::Avx512Vnni] {
                    let available = best == set || best == InstructionSet::Avx512Vnni;
                    if available && best != InstructionSet::Portable {
                        assert_eq!(run(set), expected, "{set:?}, {format:?}, {rows} rows");
                    }
                }
            }
        }
    }
}
