//! Weights that stay in the few bits in which their file holds them.
//!
//! llama.cpp's `Q4_0`, `Q4_1` and `Q8_0` cut each row into blocks of 32 weights with a scale (and an offset) of their
//! own. Here 16 rows make a panel, as in the f32 form, and a panel's block is turned into f32 in a small buffer right
//! before it is multiplied: the same values, bit for bit, that dequantising the whole file at load would give, for a
//! fifth of the memory and of the traffic.
//!
//! Two panels lie interleaved, block by block, because a single row of activations is multiplied by two at once: the
//! processor then reads one stream, which it fetches ahead. Two streams that lie kilobytes apart took 1.4 times as long.

use half::f16;

use super::kernel::{InstructionSet, PANEL, instruction_set};

/// Weights per block of a row.
pub(crate) const BLOCK: usize = 32;
/// Inputs whose 4-bit quants lie together: 4 inputs of 16 rows are 32 bytes, one register.
const GROUP: usize = 4;
/// Bytes of a panel's 16 scales or offsets.
const HALVES: usize = 2 * PANEL;

/// A block format that is multiplied as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockFormat {
    /// 4 bits: `(q - 8) * scale`.
    Q4_0,
    /// 4 bits: `q * scale + offset`.
    Q4_1,
    /// 8 bits: `q * scale`, `q` signed.
    Q8_0,
}

impl BlockFormat {
    /// Bytes of one block in a GGUF file.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q8_0 => 2 + 32,
        }
    }

    /// Bytes of a panel's block: those of 16 rows' blocks.
    fn panel_block_bytes(self) -> usize {
        self.bytes() * PANEL
    }

    /// Bytes of the scales, and of the offsets where there are any, in front of a panel's block's quants.
    fn halves_bytes(self) -> usize {
        if self == Self::Q4_1 { 2 * HALVES } else { HALVES }
    }

    /// Which byte of a panel's block's quants holds the weight of `lane` for `input`, and how many bits up.
    ///
    /// 8-bit quants are `[inputs][16]`. 4-bit quants are words of 32 bits, 8 for each group of 4 inputs: word `l` holds
    /// those of lane `l`, the first input lowest, below those of lane `l + 8`. Such words are masked where they are; what
    /// a mask leaves is a quant times a power of 16, which a smaller scale makes good.
    fn place(self, lane: usize, input: usize) -> (usize, usize) {
        if self == Self::Q8_0 {
            return (input * PANEL + lane, 0);
        }
        let (group, input) = (input / GROUP, input % GROUP);
        (group * GROUP * PANEL / 2 + lane % 8 * 4 + lane / 8 * 2 + input / 2, input % 2 * 4)
    }
}

/// What memory hands over at once: a register's load from an address that is no multiple of its size would often
/// touch two of them.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct CacheLine(#[expect(dead_code, reason = "read and written as bytes")] [u8; 64]);

/// A matrix of quantised blocks in panels of 16 rows.
#[derive(Debug, Clone)]
pub(crate) struct BlockPanels {
    format: BlockFormat,
    /// `[pairs][inputs / 32][2]` panel's blocks, each 16 scales, 16 offsets where the format has them, and the quants.
    /// The second panel of the last pair may be empty.
    lines: Vec<CacheLine>,
    inputs: usize,
}

impl BlockPanels {
    /// Rearranges `outputs` rows of blocks as a GGUF file holds them. `inputs` is a multiple of 32.
    pub(crate) fn new(format: BlockFormat, rows: &[u8], outputs: usize, inputs: usize) -> Self {
        let (pairs, blocks) = (outputs.div_ceil(2 * PANEL), inputs / BLOCK);
        assert_eq!(rows.len(), outputs * blocks * format.bytes(), "a row has inputs / 32 blocks");
        // A pair's block is whole lines in every format.
        let lines = pairs * blocks * 2 * format.panel_block_bytes() / size_of::<CacheLine>();
        let mut result = Self { format, lines: vec![CacheLine([0; 64]); lines], inputs };
        for (index, bytes) in rows.chunks_exact(format.bytes()).enumerate() {
            let (output, block) = (index / blocks, index % blocks);
            result.set_block(output / PANEL, output % PANEL, block, bytes);
        }
        result
    }

    fn set_block(&mut self, panel: usize, lane: usize, block: usize, bytes: &[u8]) {
        let format = self.format;
        let start = self.block_start(panel, block);
        // SAFETY: lines are plain bytes.
        let all = unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<u8>(), self.bytes()) };
        let (halves, quants) = all[start..start + format.panel_block_bytes()].split_at_mut(format.halves_bytes());
        let (source_halves, source) = bytes.split_at(halves.len() / PANEL);
        for (halves, half) in halves.chunks_exact_mut(HALVES).zip(source_halves.chunks_exact(2)) {
            halves[2 * lane..2 * lane + 2].copy_from_slice(half);
        }
        for input in 0..BLOCK {
            let (place, shift) = format.place(lane, input);
            quants[place] |= match format {
                BlockFormat::Q8_0 => source[input],
                // The file holds input i below input i + 16.
                _ if input < 16 => (source[input] & 15) << shift,
                _ => (source[input - 16] >> 4) << shift,
            };
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<CacheLine>()
    }

    fn block_start(&self, panel: usize, block: usize) -> usize {
        ((panel / 2 * (self.inputs / BLOCK) + block) * 2 + panel % 2) * self.format.panel_block_bytes()
    }

    fn block(&self, panel: usize, block: usize) -> PanelBlock<'_> {
        let start = self.block_start(panel, block);
        // SAFETY: lines are plain bytes.
        let all = unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<u8>(), self.bytes()) };
        let (halves, quants) = all[start..start + self.format.panel_block_bytes()].split_at(self.format.halves_bytes());
        PanelBlock { format: self.format, halves, quants }
    }

    /// The f32 weights of `panel` for inputs `first..first + out.len() / 16`, as `[inputs][16]`.
    pub(crate) fn unpack(&self, panel: usize, first: usize, out: &mut [f32]) {
        let (mut input, end) = (first, first + out.len() / PANEL);
        let mut out = out;
        while input < end {
            let count = (input / BLOCK * BLOCK + BLOCK).min(end) - input;
            let (target, rest) = out.split_at_mut(count * PANEL);
            self.block(panel, input / BLOCK).unpack(input % BLOCK, target);
            out = rest;
            input += count;
        }
    }

    /// One row times the two panels of a pair, without a detour through a buffer: the inner loop of single-stream
    /// decoding. `x` is `[inputs]`; `out` is written, or added to.
    ///
    /// False where this machine has no kernel for it. The bits are those of unpacking and multiplying.
    pub(crate) fn multiply_row(&self, pair: usize, x: &[f32], out: &mut [f32; 2 * PANEL], accumulate: bool) -> bool {
        #[cfg(target_arch = "x86_64")]
        if instruction_set() != InstructionSet::Portable {
            assert_eq!(x.len(), self.inputs, "one value per input");
            let x = x.as_chunks::<BLOCK>().0;
            // SAFETY: every instruction set but the portable one includes AVX2, FMA and F16C.
            unsafe {
                let blocks = |block| [self.block(2 * pair, block), self.block(2 * pair + 1, block)];
                avx2::multiply_row(x, blocks, out, accumulate);
            }
            return true;
        }
        let _ = (pair, x, out, accumulate);
        false
    }

    /// One weight.
    #[cfg(test)]
    fn get(&self, output: usize, input: usize) -> f32 {
        let mut column = [0.0; PANEL];
        self.unpack(output / PANEL, input, &mut column);
        column[output % PANEL]
    }
}

/// 32 inputs of a panel.
#[derive(Clone, Copy)]
struct PanelBlock<'a> {
    format: BlockFormat,
    halves: &'a [u8],
    quants: &'a [u8],
}

impl PanelBlock<'_> {
    /// The weights of inputs `first..first + out.len() / 16`, as `[inputs][16]`.
    ///
    /// Scale and offset are applied with two roundings, as llama.cpp and candle dequantise. The first is none: a quant
    /// has at most 8 bits and a scale 11, so their product is exact, and a fused multiply-add gives the same weight.
    fn unpack(self, first: usize, out: &mut [f32]) {
        let last = first + out.len() / PANEL;
        assert!(last <= BLOCK, "inputs of one block");
        #[cfg(target_arch = "x86_64")]
        if instruction_set() != InstructionSet::Portable && first.is_multiple_of(GROUP) && last.is_multiple_of(GROUP) {
            // SAFETY: every instruction set but the portable one includes AVX2, FMA and F16C, and the block has these
            // inputs.
            unsafe { avx2::unpack(self, first, out) };
            return;
        }
        self.unpack_portable(first, out);
    }

    fn unpack_portable(self, first: usize, out: &mut [f32]) {
        for (input, out) in (first..).zip(out.chunks_exact_mut(PANEL)) {
            for (lane, out) in out.iter_mut().enumerate() {
                let (scale, offset) = (self.half(lane).to_f32(), self.half(PANEL + lane).to_f32());
                let (place, shift) = self.format.place(lane, input);
                let quant = self.quants[place];
                let nibble = i32::from(quant >> shift & 15);
                *out = match self.format {
                    BlockFormat::Q4_0 => (nibble - 8) as f32 * scale,
                    BlockFormat::Q4_1 => nibble as f32 * scale + offset,
                    BlockFormat::Q8_0 => i32::from(quant.cast_signed()) as f32 * scale,
                };
            }
        }
    }

    /// A scale, or from 16 on an offset; 0 where the format has none.
    fn half(self, index: usize) -> f16 {
        self.halves.get(2 * index..2 * index + 2).map_or(f16::ZERO, |bytes| f16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

/// Written with instructions, because the compiler turned the loops into shuffles that took half of a decoding step.
/// Without closures, which would not be compiled for these instruction sets and so would stay calls.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::{
        asm,
        x86_64::{
            __m256, _MM_HINT_T0, _mm_loadl_epi64, _mm_loadu_si128, _mm_prefetch, _mm256_and_si256,
            _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
            _mm256_loadu_si256, _mm256_mul_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_srli_epi32,
            _mm256_storeu_ps,
        },
    };

    use super::{BLOCK, BlockFormat, GROUP, HALVES, PANEL, PanelBlock};

    /// How far ahead a row's weights are asked for, in bytes: some 4 blocks of two panels. Without it memory's latency
    /// was a seventh of the time.
    const AHEAD: usize = 2560;

    /// Masks for the four quants of 16 bits, one after the other.
    #[repr(align(32))]
    struct Masks([[u32; 8]; GROUP]);
    static MASKS: Masks = Masks([[0xF; 8], [0xF0; 8], [0xF00; 8], [0xF000; 8]]);

    /// What turns the 4-bit quants of 16 lanes into weights, for lanes 0..8 and 8..16.
    #[derive(Clone, Copy)]
    struct Affine {
        /// For quants times 1, 16, 256 and 4096.
        scales: [[__m256; 2]; GROUP],
        offsets: [__m256; 2],
    }

    /// 16 halves from `place` on.
    ///
    /// # Safety
    /// The machine has the features.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn halves(block: PanelBlock<'_>, place: usize) -> [__m256; 2] {
        let halves = &block.halves[place..place + HALVES];
        // SAFETY: 16 halves are two loads of 16 bytes.
        unsafe {
            let [low, high] = [halves.as_ptr(), halves.as_ptr().add(16)];
            [_mm256_cvtph_ps(_mm_loadu_si128(low.cast())), _mm256_cvtph_ps(_mm_loadu_si128(high.cast()))]
        }
    }

    /// # Safety
    /// The machine has the features.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn times(values: [__m256; 2], factor: f32) -> [__m256; 2] {
        let factor = _mm256_set1_ps(factor);
        [_mm256_mul_ps(values[0], factor), _mm256_mul_ps(values[1], factor)]
    }

    /// # Safety
    /// The machine has the features.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn affine(block: PanelBlock<'_>) -> Affine {
        // Powers of two: exact, and far from the smallest floats.
        // SAFETY: the caller's promise.
        unsafe {
            let scales = halves(block, 0);
            let offsets = if block.format == BlockFormat::Q4_0 { times(scales, -8.0) } else { halves(block, HALVES) };
            let smaller = [times(scales, 1.0 / 16.0), times(scales, 1.0 / 256.0), times(scales, 1.0 / 4096.0)];
            Affine { scales: [scales, smaller[0], smaller[1], smaller[2]], offsets }
        }
    }

    /// # Safety
    /// The machine has the features; `first` and the number of inputs are multiples of 4 inside the block.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn unpack(block: PanelBlock<'_>, first: usize, out: &mut [f32]) {
        // SAFETY: each iteration reads a column or a group of quants and writes as many floats.
        unsafe {
            if block.format == BlockFormat::Q8_0 {
                let scales = halves(block, 0);
                for (input, out) in (first..).zip(out.chunks_exact_mut(PANEL)) {
                    let weights = column(block.quants.as_ptr().add(input * PANEL), scales);
                    _mm256_storeu_ps(out.as_mut_ptr(), weights[0]);
                    _mm256_storeu_ps(out.as_mut_ptr().add(8), weights[1]);
                }
                return;
            }
            let Affine { scales, offsets } = affine(block);
            for (group, out) in (first / GROUP..).zip(out.chunks_exact_mut(GROUP * PANEL)) {
                let low = _mm256_loadu_si256(block.quants.as_ptr().add(group * GROUP * PANEL / 2).cast());
                let words = [low, _mm256_srli_epi32::<16>(low)];
                for (input, scales) in scales.iter().enumerate() {
                    let mask = _mm256_set1_epi32(0xF << (4 * input));
                    for half in 0..2 {
                        let quants = _mm256_cvtepi32_ps(_mm256_and_si256(words[half], mask));
                        let weights = _mm256_fmadd_ps(quants, scales[half], offsets[half]);
                        _mm256_storeu_ps(out.as_mut_ptr().add(input * PANEL + half * 8), weights);
                    }
                }
            }
        }
    }

    /// One input's 16 weights from 8-bit quants.
    ///
    /// # Safety
    /// The machine has the features, and 16 bytes lie at `source`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn column(source: *const u8, scales: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        let (low, high) = unsafe { (_mm_loadl_epi64(source.cast()), _mm_loadl_epi64(source.add(8).cast())) };
        [
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)), scales[0]),
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)), scales[1]),
        ]
    }

    /// `out = x W^T`, or added to it, for the 32 rows of `W` whose blocks `pair` gives, all of one format.
    ///
    /// # Safety
    /// The machine has the features.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn multiply_row<'a>(
        x: &[[f32; BLOCK]],
        pair: impl Fn(usize) -> [PanelBlock<'a>; 2],
        out: &mut [f32; 2 * PANEL],
        accumulate: bool,
    ) {
        let mut sums = [_mm256_setzero_ps(); 4];
        // SAFETY: `out` has four times 8 elements, and each block is whole.
        unsafe {
            if accumulate {
                for (index, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(out.as_ptr().add(index * 8));
                }
            }
            for (block, x) in x.iter().enumerate() {
                let blocks = pair(block);
                for block in blocks {
                    let start = block.halves.as_ptr().wrapping_add(AHEAD);
                    for line in (0..block.format.panel_block_bytes()).step_by(64) {
                        // Beyond the matrix this asks for what may not exist, which does nothing.
                        _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast());
                    }
                }
                if blocks[0].format == BlockFormat::Q8_0 {
                    add_eight_bits(x, blocks, &mut sums);
                } else {
                    add_four_bits(x, blocks, &mut sums);
                }
            }
            for (index, sum) in sums.iter().enumerate() {
                _mm256_storeu_ps(out.as_mut_ptr().add(index * 8), *sum);
            }
        }
    }

    /// # Safety
    /// The machine has the features, and `blocks` are of 8 bits.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_eight_bits(x: &[f32; BLOCK], blocks: [PanelBlock<'_>; 2], sums: &mut [__m256; 4]) {
        // SAFETY: a block has a column of 16 bytes for each of its inputs.
        unsafe {
            let scales = [halves(blocks[0], 0), halves(blocks[1], 0)];
            for (input, &x) in x.iter().enumerate() {
                let x = _mm256_set1_ps(x);
                for panel in 0..2 {
                    let weights = column(blocks[panel].quants.as_ptr().add(input * PANEL), scales[panel]);
                    sums[2 * panel] = _mm256_fmadd_ps(x, weights[0], sums[2 * panel]);
                    sums[2 * panel + 1] = _mm256_fmadd_ps(x, weights[1], sums[2 * panel + 1]);
                }
            }
        }
    }

    /// The scales of four half panels, for each input of a group; what [`add_four_bits`] reads while it runs.
    #[repr(C, align(32))]
    struct Scales([[__m256; 4]; GROUP]);

    /// One input of a group: `$x` is its place behind `x`, `$mask` behind the masks, and the others those of the four
    /// half panels' scales.
    macro_rules! step {
        ($x:literal, $mask:literal, $scale0:literal, $scale1:literal, $scale2:literal, $scale3:literal) => {
            concat!(
                "vbroadcastss {value}, [{x} + {place} + ",
                $x,
                "]\n",
                "vmovdqa {mask}, [{masks} + ",
                $mask,
                "]\n",
                "vpand {even}, {mask}, {words0}\n",
                "vpand {odd}, {mask}, {words1}\n",
                "vcvtdq2ps {even}, {even}\n",
                "vcvtdq2ps {odd}, {odd}\n",
                "vfmadd132ps {even}, {offset0}, [{scales} + ",
                $scale0,
                "]\n",
                "vfmadd132ps {odd}, {offset1}, [{scales} + ",
                $scale1,
                "]\n",
                "vfmadd231ps {sum0}, {even}, {value}\n",
                "vfmadd231ps {sum1}, {odd}, {value}\n",
                "vpand {even}, {mask}, {words2}\n",
                "vpand {odd}, {mask}, {words3}\n",
                "vcvtdq2ps {even}, {even}\n",
                "vcvtdq2ps {odd}, {odd}\n",
                "vfmadd132ps {even}, {offset2}, [{scales} + ",
                $scale2,
                "]\n",
                "vfmadd132ps {odd}, {offset3}, [{scales} + ",
                $scale3,
                "]\n",
                "vfmadd231ps {sum2}, {even}, {value}\n",
                "vfmadd231ps {sum3}, {odd}, {value}\n",
            )
        };
    }

    /// In assembly, because it needs exactly the 16 registers that there are: the compiler's choice of what to keep in
    /// memory cost a third more time.
    ///
    /// # Safety
    /// The machine has the features, and `blocks` are of 4 bits.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_four_bits(x: &[f32; BLOCK], blocks: [PanelBlock<'_>; 2], sums: &mut [__m256; 4]) {
        // SAFETY: a block has 32 bytes of quants for each group of 4 inputs, and `x` as many inputs.
        unsafe {
            let (first, second) = (affine(blocks[0]), affine(blocks[1]));
            let mut scales = Scales([[_mm256_setzero_ps(); 4]; GROUP]);
            for input in 0..GROUP {
                let (first, second) = (first.scales[input], second.scales[input]);
                scales.0[input] = [first[0], first[1], second[0], second[1]];
            }
            let [mut sum0, mut sum1, mut sum2, mut sum3] = *sums;
            asm!(
                "2:",
                "vmovdqu {words0}, [{first} + 2 * {place}]",
                "vmovdqu {words2}, [{second} + 2 * {place}]",
                "vpsrld {words1}, {words0}, 16",
                "vpsrld {words3}, {words2}, 16",
                step!(0, 0, 0, 32, 64, 96),
                step!(4, 32, 128, 160, 192, 224),
                step!(8, 64, 256, 288, 320, 352),
                step!(12, 96, 384, 416, 448, 480),
                "add {place}, 16",
                "cmp {place}, 128",
                "jne 2b",
                first = in(reg) blocks[0].quants.as_ptr(),
                second = in(reg) blocks[1].quants.as_ptr(),
                x = in(reg) x.as_ptr(),
                masks = in(reg) MASKS.0.as_ptr(),
                scales = in(reg) scales.0.as_ptr(),
                // Bytes of x that are done; its 4 bytes per input are 2 times the quants' 8 bytes.
                place = inout(reg) 0_usize => _,
                words0 = out(ymm_reg) _,
                words1 = out(ymm_reg) _,
                words2 = out(ymm_reg) _,
                words3 = out(ymm_reg) _,
                value = out(ymm_reg) _,
                mask = out(ymm_reg) _,
                even = out(ymm_reg) _,
                odd = out(ymm_reg) _,
                offset0 = in(ymm_reg) first.offsets[0],
                offset1 = in(ymm_reg) first.offsets[1],
                offset2 = in(ymm_reg) second.offsets[0],
                offset3 = in(ymm_reg) second.offsets[1],
                sum0 = inout(ymm_reg) sum0,
                sum1 = inout(ymm_reg) sum1,
                sum2 = inout(ymm_reg) sum2,
                sum3 = inout(ymm_reg) sum3,
                options(nostack, readonly),
            );
            *sums = [sum0, sum1, sum2, sum3];
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

    use super::*;

    /// candle's own dequantisation of the same blocks is the oracle.
    #[test]
    fn unpacked_weights_are_the_dequantised_ones_bit_for_bit() {
        let formats = [
            (BlockFormat::Q4_0, GgmlDType::Q4_0),
            (BlockFormat::Q4_1, GgmlDType::Q4_1),
            (BlockFormat::Q8_0, GgmlDType::Q8_0),
        ];
        let (outputs, inputs) = (35, 96);
        let mut random = KeyedRandom::new(3, &["blocks"]);
        let values: Vec<f32> = (0..outputs * inputs).map(|_| random.normal() as f32).collect();
        let tensor = Tensor::from_vec(values, (outputs, inputs), &Device::Cpu).unwrap();
        for (format, kind) in formats {
            let quantised = QTensor::quantize(&tensor, kind).unwrap();
            let expected = quantised.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
            let panels = BlockPanels::new(format, &quantised.data().unwrap(), outputs, inputs);
            for (output, row) in expected.iter().enumerate() {
                for (input, value) in row.iter().enumerate() {
                    assert_eq!(panels.get(output, input), *value, "{format:?} at {output}, {input}");
                }
            }
            let (mut fast, mut portable) = (vec![0.0; BLOCK * PANEL], vec![0.0; BLOCK * PANEL]);
            panels.block(1, 1).unpack(0, &mut fast);
            panels.block(1, 1).unpack_portable(0, &mut portable);
            assert_eq!(fast, portable, "{format:?}");
            // A range that crosses block borders equals its single columns.
            let mut range = vec![0.0; 40 * PANEL];
            panels.unpack(1, 20, &mut range);
            for (offset, column) in range.chunks_exact(PANEL).enumerate() {
                assert_eq!(column[3], panels.get(PANEL + 3, 20 + offset));
            }
        }
    }
}
