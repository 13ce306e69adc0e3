//! Weights that stay in the few bits in which their file holds them.
//!
//! llama.cpp's `Q4_0`, `Q4_1` and `Q8_0` cut each row into blocks of 32 weights with a scale (and an offset) of their
//! own. Here 16 rows make a panel, as in the f32 form. Activations in 8 bits are multiplied with the quants as they lie
//! ([`BlockTile`]). For activations in f32, a panel's block is turned into f32 in a small buffer right before: the same
//! values, bit for bit, that dequantising the whole file at load would give, for a fifth of the memory and of the
//! traffic.
//!
//! Two panels lie interleaved, block by block, because rows are multiplied by two at once: the processor then reads one
//! stream, which it fetches ahead. For a single row, two streams that lie kilobytes apart took 1.4 times as long.

use half::f16;

use super::{
    activations::{EightBitRows, span},
    block_tile::BlockTile,
    kernel::{InstructionSet, PANEL, instruction_set},
};

/// Weights per block of a row.
pub(crate) const BLOCK: usize = 32;
/// Inputs whose quants lie together.
pub(super) const GROUP: usize = 8;
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
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q8_0 => 2 + 32,
        }
    }

    /// Bytes of a panel's block: those of 16 rows' blocks.
    pub(super) const fn panel_block_bytes(self) -> usize {
        self.bytes() * PANEL
    }

    /// Bytes of the scales, and of the offsets where there are any, in front of a panel's block's quants.
    pub(super) const fn halves_bytes(self) -> usize {
        if matches!(self, Self::Q4_1) { 2 * HALVES } else { HALVES }
    }

    /// Which byte of a panel's block's quants holds the weight of `lane` for `input`, and how many bits up.
    ///
    /// The quants of 8 inputs lie together, the even inputs before the odd ones: as bytes `[2][16 lanes][4]`, or in 4
    /// bits, where the odd ones share a byte with the even ones and lie above them. Either is what a dot product of
    /// bytes takes in, four inputs of a lane in one word; and a lane's word of 4-bit quants holds its 8 inputs in their
    /// order, so that it can be masked where it is: what a mask leaves is a quant times a power of 16, which a smaller
    /// scale makes good.
    fn place(self, lane: usize, input: usize) -> (usize, usize) {
        let (group, half, place) = (input / GROUP, input % 2, lane * 4 + input % GROUP / 2);
        match self {
            Self::Q8_0 => ((group * 2 + half) * 4 * PANEL + place, 0),
            Self::Q4_0 | Self::Q4_1 => (group * 4 * PANEL + place, 4 * half),
        }
    }
}

/// What memory hands over at once: a register's load from an address that is no multiple of its size would often
/// touch two of them.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct CacheLine(#[expect(dead_code, reason = "read and written as bytes")] [u8; 64]);

impl CacheLine {
    pub(super) const EMPTY: Self = Self([0; 64]);
}

/// A matrix of quantised blocks in panels of 16 rows.
#[derive(Debug, Clone)]
pub(crate) struct BlockPanels {
    format: BlockFormat,
    /// `[pairs][inputs / 32][2]` panel's blocks, each 16 scales, 16 offsets where the format has them, and the quants.
    /// The second panel of the last pair may be empty.
    lines: Vec<CacheLine>,
    /// For each output, lanes beyond the last included, what its scales and offsets are rounded to multiples of where
    /// activations are rounded: see [`unit`].
    units: Vec<f32>,
    inputs: usize,
}

/// Largest multiples of a unit: two blocks of products of 4-bit weights, `2 * 32 * 15 * 127` times the one, and two
/// blocks of activations, `2 * 32 * 127` times the other, add up to less than `2^31`.
const MOST_SCALE: f32 = 15360.0;
const MOST_OFFSET: f32 = 32767.0;
/// Largest multiple of a unit that a scale of 8-bit weights is: half precision holds it, and a weight of 2^-14 per unit.
const MOST_SCALE_OF_BYTES: f32 = 2048.0;

/// What the scales and offsets of a row are rounded to multiples of where activations are rounded (but for those of 8-bit
/// weights where activations are integers).
///
/// So a product is integers up to the scale of an activation block, which comes once per two of the weights' blocks.
/// Rounding moves a weight by at most 8 units, where its row's largest offset is at least 16,384 units: by a two-thousandth
/// of the row's largest weights, eight times less than 8 bits move activations. A power of two, so that nothing else is
/// rounded. A row with a scale or an offset that is no number has a unit that is none, and so have its products.
fn unit(format: BlockFormat, row: &[u8]) -> f32 {
    let (mut scale, mut offset) = (0.0_f32, 0.0_f32);
    for block in row.chunks_exact(format.bytes()) {
        let half = |index: usize| f16::from_le_bytes([block[2 * index], block[2 * index + 1]]).to_f32().abs();
        // The sum is no number if any is none.
        let block_offset = match format {
            BlockFormat::Q4_0 => 8.0 * half(0),
            BlockFormat::Q4_1 => half(1),
            BlockFormat::Q8_0 => 0.0,
        };
        if !(half(0) + block_offset).is_finite() {
            return f32::NAN;
        }
        (scale, offset) = (scale.max(half(0)), offset.max(block_offset));
    }
    let most_scale = if format == BlockFormat::Q8_0 { MOST_SCALE_OF_BYTES } else { MOST_SCALE };
    let needed = (scale / most_scale).max(offset / MOST_OFFSET);
    if needed == 0.0 { 1.0 } else { f32::from_bits((needed.to_bits() + 0x7F_FFFF) & 0x7F80_0000) }
}

impl BlockPanels {
    /// Rearranges `outputs` rows of blocks as a GGUF file holds them. `inputs` is a multiple of 32.
    pub(crate) fn new(format: BlockFormat, rows: &[u8], outputs: usize, inputs: usize) -> Self {
        let (pairs, blocks) = (outputs.div_ceil(2 * PANEL), inputs / BLOCK);
        assert_eq!(rows.len(), outputs * blocks * format.bytes(), "a row has inputs / 32 blocks");
        // A pair's block is whole lines in every format.
        let lines = pairs * blocks * 2 * format.panel_block_bytes() / size_of::<CacheLine>();
        let mut units = vec![1.0; pairs * 2 * PANEL];
        for (unit_of_row, row) in units.iter_mut().zip(rows.chunks_exact((blocks * format.bytes()).max(1))) {
            *unit_of_row = unit(format, row);
        }
        let mut result = Self { format, lines: vec![CacheLine::EMPTY; lines], units, inputs };
        for (index, bytes) in rows.chunks_exact(format.bytes()).enumerate() {
            let (output, block) = (index / blocks, index % blocks);
            result.set_block(output / PANEL, output % PANEL, block, bytes);
        }
        result
    }

    fn set_block(&mut self, panel: usize, lane: usize, block: usize, bytes: &[u8]) {
        let format = self.format;
        let start = self.block_start(panel, block);
        let bytes_held = size_of_val(self.lines.as_slice());
        // SAFETY: lines are plain bytes.
        let all = unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<u8>(), bytes_held) };
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

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice()) + size_of_val(self.units.as_slice())
    }

    fn as_bytes(&self) -> &[u8] {
        // SAFETY: lines are plain bytes.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<u8>(), size_of_val(self.lines.as_slice())) }
    }

    fn block_start(&self, panel: usize, block: usize) -> usize {
        ((panel / 2 * (self.inputs / BLOCK) + block) * 2 + panel % 2) * self.format.panel_block_bytes()
    }

    pub(super) fn block(&self, panel: usize, block: usize) -> PanelBlock<'_> {
        let start = self.block_start(panel, block);
        PanelBlock::new(self.format, &self.as_bytes()[start..start + self.format.panel_block_bytes()])
    }

    pub(super) fn pair(&self, pair: usize) -> PanelPair<'_> {
        let length = self.inputs / BLOCK * 2 * self.format.panel_block_bytes();
        PanelPair {
            format: self.format,
            bytes: &self.as_bytes()[pair * length..(pair + 1) * length],
            units: &self.units[pair * 2 * PANEL..(pair + 1) * 2 * PANEL],
        }
    }

    /// The two panels of a pair, and the rows of `x` from `first` on.
    pub(super) fn tile<'a>(&'a self, pair: usize, x: &'a EightBitRows, first: usize) -> BlockTile<'a> {
        let (quants, blocks) = x.rows_from(first);
        let PanelPair { format, bytes, units } = self.pair(pair);
        BlockTile {
            format,
            pair: bytes,
            // Scales of 8-bit weights stay floats there.
            units: if format == BlockFormat::Q8_0 { &[1.0; 2 * PANEL] } else { units },
            quants,
            blocks,
            count: self.inputs / BLOCK,
            span: span(self.inputs),
        }
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

    /// One weight.
    #[cfg(test)]
    pub(super) fn get(&self, output: usize, input: usize) -> f32 {
        let mut column = [0.0; PANEL];
        self.unpack(output / PANEL, input, &mut column);
        column[output % PANEL]
    }
}

/// Two panels, whose blocks lie interleaved.
#[derive(Clone, Copy)]
pub(super) struct PanelPair<'a> {
    pub(super) format: BlockFormat,
    /// `[inputs / 32][2]`, each scales, offsets where there are any, and quants.
    pub(super) bytes: &'a [u8],
    /// Of the two panels' outputs.
    pub(super) units: &'a [f32],
}

#[cfg(target_arch = "x86_64")]
impl PanelPair<'_> {
    /// Blocks of a row.
    pub(super) fn blocks(self) -> usize {
        self.bytes.len() / (2 * self.format.panel_block_bytes())
    }

    /// [`inverse_units`] of each panel.
    pub(super) fn inverse_units(self) -> [[f32; PANEL]; 2] {
        [inverse_units(&self.units[..PANEL]), inverse_units(&self.units[PANEL..])]
    }
}

/// What scales and offsets are multiplied by to be multiples of their outputs' units; exact, as units are powers of two. What
/// comes of a unit that is no number does not matter: so is whatever is multiplied by it in the end.
#[cfg(target_arch = "x86_64")]
pub(super) fn inverse_units<const COUNT: usize>(units: &[f32]) -> [f32; COUNT] {
    const ONE_SQUARED: u32 = 2 * 1.0_f32.to_bits();
    let mut inverses = [1.0; COUNT];
    for (inverse, unit) in inverses.iter_mut().zip(units) {
        *inverse = f32::from_bits(ONE_SQUARED.wrapping_sub(unit.to_bits()));
    }
    inverses
}

/// 32 inputs of a panel.
#[derive(Clone, Copy)]
pub(super) struct PanelBlock<'a> {
    format: BlockFormat,
    halves: &'a [u8],
    quants: &'a [u8],
}

impl<'a> PanelBlock<'a> {
    /// `bytes` are scales, offsets where the format has them, and quants.
    pub(super) fn new(format: BlockFormat, bytes: &'a [u8]) -> Self {
        let (halves, quants) = bytes.split_at(format.halves_bytes());
        Self { format, halves, quants }
    }

    #[cfg(test)]
    pub(super) fn format(self) -> BlockFormat {
        self.format
    }

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
                let scaled = self.quant(lane, input) as f32 * self.scale(lane);
                *out = self.offset(lane).map_or(scaled, |offset| scaled + offset);
            }
        }
    }

    /// The integer that a weight's scale is multiplied by.
    pub(super) fn quant(self, lane: usize, input: usize) -> i32 {
        let (place, shift) = self.format.place(lane, input);
        let quant = self.quants[place];
        let nibble = i32::from(quant >> shift & 15);
        match self.format {
            BlockFormat::Q4_0 => nibble - 8,
            BlockFormat::Q4_1 => nibble,
            BlockFormat::Q8_0 => i32::from(quant.cast_signed()),
        }
    }

    pub(super) fn scale(self, lane: usize) -> f32 {
        self.half(lane)
    }

    /// What is added to a scaled quant, in the format that has it.
    pub(super) fn offset(self, lane: usize) -> Option<f32> {
        (self.format == BlockFormat::Q4_1).then(|| self.half(PANEL + lane))
    }

    /// A 4-bit block's scale and offset as multiples of the [`unit`] of their output; an offset that is part of the
    /// quants is nothing.
    pub(super) fn integers(self, lane: usize, unit: f32) -> (i32, i32) {
        let of = |value: f32| (value / unit).round_ties_even() as i32;
        (of(self.scale(lane)), self.offset(lane).map_or(0, of))
    }

    fn half(self, index: usize) -> f32 {
        f16::from_le_bytes([self.halves[2 * index], self.halves[2 * index + 1]]).to_f32()
    }
}

/// Written with instructions, because the compiler turned the loops into shuffles that took half of a decoding step.
/// Without closures, which would not be compiled for these instruction sets and so would stay calls.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm_loadu_si128, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps,
        _mm256_loadu_si256, _mm256_mul_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32, _mm256_srai_epi32,
        _mm256_srli_epi32, _mm256_storeu_ps,
    };

    use super::{BlockFormat, GROUP, HALVES, PANEL, PanelBlock};

    /// What turns the 4-bit quants of 16 lanes into weights, for lanes 0..8 and 8..16.
    #[derive(Clone, Copy)]
    struct Affine {
        /// For quants times 1, 16, 256 and 4096.
        scales: [[__m256; 2]; 4],
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
    /// The machine has the features; `first` and the number of inputs are multiples of 8 inside the block.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn unpack(block: PanelBlock<'_>, first: usize, out: &mut [f32]) {
        // SAFETY: each iteration reads a group of quants and writes as many floats.
        unsafe {
            if block.format == BlockFormat::Q8_0 {
                let scales = halves(block, 0);
                for (group, out) in (first / GROUP..).zip(out.chunks_exact_mut(GROUP * PANEL)) {
                    unpack_eight_bits(block.quants.as_ptr().add(group * GROUP * PANEL), scales, out.as_mut_ptr());
                }
                return;
            }
            let affine = affine(block);
            for (group, out) in (first / GROUP..).zip(out.chunks_exact_mut(GROUP * PANEL)) {
                unpack_four_bits(block.quants.as_ptr().add(group * GROUP * PANEL / 2), affine, out.as_mut_ptr());
            }
        }
    }

    /// 8 inputs' 16 weights from 4-bit quants.
    ///
    /// # Safety
    /// The machine has the features, and 64 bytes lie at `source`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack_four_bits(source: *const u8, Affine { scales, offsets }: Affine, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut words = [_mm256_loadu_si256(source.cast()), _mm256_loadu_si256(source.add(32).cast())];
            for first in [0, 4] {
                for (input, scales) in scales.iter().enumerate() {
                    let mask = _mm256_set1_epi32(0xF << (4 * input));
                    for lanes in 0..2 {
                        let quants = _mm256_cvtepi32_ps(_mm256_and_si256(words[lanes], mask));
                        let weights = _mm256_fmadd_ps(quants, scales[lanes], offsets[lanes]);
                        _mm256_storeu_ps(out.add((first + input) * PANEL + lanes * 8), weights);
                    }
                }
                // The upper four inputs come down: where they were, one of them would be a sign.
                words = [_mm256_srli_epi32::<16>(words[0]), _mm256_srli_epi32::<16>(words[1])];
            }
        }
    }

    /// 8 inputs' 16 weights from 8-bit quants.
    ///
    /// # Safety
    /// The machine has the features, and 128 bytes lie at `source`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack_eight_bits(source: *const u8, scales: [__m256; 2], out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            for half in 0..2 {
                for (lanes, scales) in scales.into_iter().enumerate() {
                    let mut words = _mm256_loadu_si256(source.add((2 * half + lanes) * 32).cast());
                    // The last input lies highest.
                    for input in [6, 4, 2, 0] {
                        let quants = _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(words));
                        let weights = _mm256_mul_ps(quants, scales);
                        _mm256_storeu_ps(out.add((input + half) * PANEL + lanes * 8), weights);
                        words = _mm256_slli_epi32::<8>(words);
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
