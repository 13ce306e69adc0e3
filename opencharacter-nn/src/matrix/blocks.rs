//! Weights that stay in the few bits in which their file holds them.
//!
//! llama.cpp's `Q4_0`, `Q4_1` and `Q8_0` cut each row into blocks of 32 weights with a scale (and an offset) of their
//! own. Here 16 rows make a panel, as in the f32 form, and a panel's block is turned into f32 in a small buffer right
//! before it is multiplied: the same values, bit for bit, that dequantising the whole file at load would give, for a
//! fifth of the memory and of the traffic.

use half::f16;

use super::kernel::{InstructionSet, PANEL, instruction_set};

/// Weights per block of a row.
pub(crate) const BLOCK: usize = 32;

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

    /// Bytes of one input's 16 weights in a panel.
    fn column_bytes(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 => PANEL / 2,
            Self::Q8_0 => PANEL,
        }
    }
}

/// A matrix of quantised blocks in panels of 16 rows.
#[derive(Debug, Clone)]
pub(crate) struct BlockPanels {
    format: BlockFormat,
    /// `[panels][inputs / 32][16]`.
    scales: Vec<f16>,
    /// As `scales`; empty for formats without one.
    offsets: Vec<f16>,
    /// `[panels][inputs][16]`: two lanes to a byte in 4-bit formats, lane `l` below lane `l + 8`.
    quants: Vec<u8>,
    inputs: usize,
}

impl BlockPanels {
    /// Rearranges `outputs` rows of blocks as a GGUF file holds them. `inputs` is a multiple of 32.
    pub(crate) fn new(format: BlockFormat, rows: &[u8], outputs: usize, inputs: usize) -> Self {
        let (panels, blocks) = (outputs.div_ceil(PANEL), inputs / BLOCK);
        assert_eq!(rows.len(), outputs * blocks * format.bytes(), "a row has inputs / 32 blocks");
        let mut result = Self {
            format,
            scales: vec![f16::ZERO; panels * blocks * PANEL],
            offsets: vec![f16::ZERO; if format == BlockFormat::Q4_1 { panels * blocks * PANEL } else { 0 }],
            quants: vec![0; panels * inputs * format.column_bytes()],
            inputs,
        };
        for (index, bytes) in rows.chunks_exact(format.bytes()).enumerate() {
            let (output, block) = (index / blocks, index % blocks);
            result.set_block(output / PANEL, output % PANEL, block, bytes);
        }
        result
    }

    fn set_block(&mut self, panel: usize, lane: usize, block: usize, bytes: &[u8]) {
        let blocks = self.inputs / BLOCK;
        let place = (panel * blocks + block) * PANEL + lane;
        let half_at = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        self.scales[place] = half_at(0);
        let quants = if self.format == BlockFormat::Q4_1 {
            self.offsets[place] = half_at(2);
            &bytes[4..]
        } else {
            &bytes[2..]
        };
        let width = self.format.column_bytes();
        for input in 0..BLOCK {
            let column = (panel * self.inputs + block * BLOCK + input) * width;
            if self.format == BlockFormat::Q8_0 {
                self.quants[column + lane] = quants[input];
            } else {
                // The file holds input i below input i + 16.
                let quant = if input < 16 { quants[input] & 15 } else { quants[input - 16] >> 4 };
                self.quants[column + lane % 8] |= quant << (lane / 8 * 4);
            }
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.quants.len() + 2 * (self.scales.len() + self.offsets.len())
    }

    /// The f32 weights of `panel` for inputs `first..first + out.len() / 16`, as `[inputs][16]`.
    pub(crate) fn unpack(&self, panel: usize, first: usize, out: &mut [f32]) {
        let (mut input, end) = (first, first + out.len() / PANEL);
        let mut out = out;
        while input < end {
            let count = (input / BLOCK * BLOCK + BLOCK).min(end) - input;
            let (target, rest) = out.split_at_mut(count * PANEL);
            unpack(self.format, self.part(panel, input, count), target);
            out = rest;
            input += count;
        }
    }

    /// One row times two neighbouring panels, without a detour through a buffer: the inner loop of single-stream
    /// decoding. `x` is `[inputs]`; the first 32 elements of `out` are written, or added to.
    ///
    /// False where this machine has no kernel for it. The bits are those of unpacking and multiplying.
    pub(crate) fn multiply_row(&self, panel: usize, x: &[f32], out: &mut [f32; 2 * PANEL], accumulate: bool) -> bool {
        #[cfg(target_arch = "x86_64")]
        if instruction_set() != InstructionSet::Portable {
            assert_eq!(x.len(), self.inputs, "one value per input");
            // SAFETY: every instruction set but the portable one includes AVX2, FMA and F16C.
            unsafe {
                match self.format {
                    BlockFormat::Q4_0 => self.row_avx2::<{ BlockFormat::Q4_0 as u8 }>(panel, x, out, accumulate),
                    BlockFormat::Q4_1 => self.row_avx2::<{ BlockFormat::Q4_1 as u8 }>(panel, x, out, accumulate),
                    BlockFormat::Q8_0 => self.row_avx2::<{ BlockFormat::Q8_0 as u8 }>(panel, x, out, accumulate),
                }
            }
            return true;
        }
        let _ = (panel, x, out, accumulate);
        false
    }

    /// # Safety
    /// The machine has the features.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn row_avx2<const FORMAT: u8>(&self, panel: usize, x: &[f32], out: &mut [f32; 2 * PANEL], accumulate: bool) {
        use std::arch::x86_64::{
            _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        };
        let mut sums = [_mm256_setzero_ps(); 4];
        // SAFETY: `out` has four times 8 elements, and each part holds a whole block of both panels.
        unsafe {
            if accumulate {
                for (index, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(out.as_ptr().add(index * 8));
                }
            }
            let width = self.format.column_bytes();
            for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                let parts = [self.part(panel, block * BLOCK, BLOCK), self.part(panel + 1, block * BLOCK, BLOCK)];
                let halves = parts.map(|part| avx2::halves(part));
                for (input, &x) in x.iter().enumerate() {
                    let x = _mm256_set1_ps(x);
                    for (index, part) in parts.iter().enumerate() {
                        let weights = avx2::column::<FORMAT>(part.quants.as_ptr().add(input * width), halves[index]);
                        sums[2 * index] = _mm256_fmadd_ps(x, weights[0], sums[2 * index]);
                        sums[2 * index + 1] = _mm256_fmadd_ps(x, weights[1], sums[2 * index + 1]);
                    }
                }
            }
            for (index, sum) in sums.iter().enumerate() {
                _mm256_storeu_ps(out.as_mut_ptr().add(index * 8), *sum);
            }
        }
    }

    /// Some inputs of one block of a panel.
    fn part(&self, panel: usize, first: usize, count: usize) -> Part<'_> {
        let width = self.format.column_bytes();
        let place = (panel * (self.inputs / BLOCK) + first / BLOCK) * PANEL;
        let column = (panel * self.inputs + first) * width;
        Part {
            quants: &self.quants[column..column + count * width],
            scales: sixteen(&self.scales, place),
            offsets: sixteen(&self.offsets, place),
        }
    }

    /// One weight.
    #[cfg(test)]
    fn get(&self, output: usize, input: usize) -> f32 {
        let mut column = [0.0; PANEL];
        self.unpack(output / PANEL, input, &mut column);
        column[output % PANEL]
    }
}

/// What the weights of some inputs of one panel's block are made of.
#[derive(Clone, Copy)]
struct Part<'a> {
    quants: &'a [u8],
    scales: &'a [f16; PANEL],
    /// Zeros for formats without offsets.
    offsets: &'a [f16; PANEL],
}

const ZEROS: [f16; PANEL] = [f16::ZERO; PANEL];

/// The 16 values from `place` on; zeros for formats that have none.
fn sixteen(values: &[f16], place: usize) -> &[f16; PANEL] {
    values.get(place..).and_then(|values| values.first_chunk()).unwrap_or(&ZEROS)
}

/// Turns quants into weights, `[inputs][16]`.
///
/// Scale and offset are applied with two roundings, as llama.cpp and candle dequantise: a fused multiply-add would be
/// another weight.
fn unpack(format: BlockFormat, part: Part<'_>, out: &mut [f32]) {
    assert_eq!(part.quants.len() * PANEL, out.len() * format.column_bytes(), "quants for every weight");
    #[cfg(target_arch = "x86_64")]
    if instruction_set() != InstructionSet::Portable {
        // SAFETY: every instruction set but the portable one includes AVX2 and F16C, and the lengths fit.
        unsafe {
            match format {
                BlockFormat::Q4_0 => avx2::unpack::<{ BlockFormat::Q4_0 as u8 }>(part, out),
                BlockFormat::Q4_1 => avx2::unpack::<{ BlockFormat::Q4_1 as u8 }>(part, out),
                BlockFormat::Q8_0 => avx2::unpack::<{ BlockFormat::Q8_0 as u8 }>(part, out),
            }
        }
        return;
    }
    unpack_portable(format, part, out);
}

/// Written with instructions, because the compiler turned the loops into shuffles that took half of a decoding step.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm_loadl_epi64, _mm_loadu_si128, _mm256_add_ps, _mm256_and_si256, _mm256_cvtepi8_epi32,
        _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtph_ps, _mm256_mul_ps, _mm256_set1_epi32, _mm256_srli_epi32,
        _mm256_storeu_ps, _mm256_sub_epi32,
    };

    use half::f16;

    use super::{BlockFormat, PANEL, Part};

    /// Scales and offsets of 16 lanes in f32.
    #[derive(Clone, Copy)]
    pub(super) struct Halves {
        scales: [__m256; 2],
        offsets: [__m256; 2],
    }

    /// # Safety
    /// The machine has the features.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(super) unsafe fn halves(part: Part<'_>) -> Halves {
        // SAFETY: 16 halves are two loads of 16 bytes.
        let widen = |values: &[f16; PANEL]| unsafe {
            [0, 8].map(|lane| _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().add(lane).cast())))
        };
        Halves { scales: widen(part.scales), offsets: widen(part.offsets) }
    }

    /// One input's 16 weights.
    ///
    /// # Safety
    /// The machine has the features, and a column of the format's bytes lies at `source`.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(super) unsafe fn column<const FORMAT: u8>(source: *const u8, halves: Halves) -> [__m256; 2] {
        let (four_zero, four_one) = (FORMAT == BlockFormat::Q4_0 as u8, FORMAT == BlockFormat::Q4_1 as u8);
        // SAFETY: the caller's promise: 8 bytes, or 16 for 8-bit quants.
        let (mut low, mut high) = unsafe {
            if four_zero || four_one {
                let pairs = _mm256_cvtepu8_epi32(_mm_loadl_epi64(source.cast()));
                (_mm256_and_si256(pairs, _mm256_set1_epi32(15)), _mm256_srli_epi32::<4>(pairs))
            } else {
                let [low, high] = [0, 8].map(|lane| _mm256_cvtepi8_epi32(_mm_loadl_epi64(source.add(lane).cast())));
                (low, high)
            }
        };
        if four_zero {
            low = _mm256_sub_epi32(low, _mm256_set1_epi32(8));
            high = _mm256_sub_epi32(high, _mm256_set1_epi32(8));
        }
        let mut weights = [
            _mm256_mul_ps(_mm256_cvtepi32_ps(low), halves.scales[0]),
            _mm256_mul_ps(_mm256_cvtepi32_ps(high), halves.scales[1]),
        ];
        if four_one {
            weights = [_mm256_add_ps(weights[0], halves.offsets[0]), _mm256_add_ps(weights[1], halves.offsets[1])];
        }
        weights
    }

    /// # Safety
    /// The machine has the features, and `part` has a column of quants for every 16 elements of `out`.
    #[target_feature(enable = "avx2,f16c")]
    pub(super) unsafe fn unpack<const FORMAT: u8>(part: Part<'_>, out: &mut [f32]) {
        let columns = out.len() / PANEL;
        let width = part.quants.len() / columns.max(1);
        // SAFETY: each iteration reads `width` bytes and writes 16 floats, as many as there are.
        unsafe {
            let halves = halves(part);
            for index in 0..columns {
                let weights = column::<FORMAT>(part.quants.as_ptr().add(index * width), halves);
                let target = out.as_mut_ptr().add(index * PANEL);
                _mm256_storeu_ps(target, weights[0]);
                _mm256_storeu_ps(target.add(8), weights[1]);
            }
        }
    }
}

fn unpack_portable(format: BlockFormat, part: Part<'_>, out: &mut [f32]) {
    for (column, out) in part.quants.chunks_exact(format.column_bytes()).zip(out.chunks_exact_mut(PANEL)) {
        for (lane, out) in out.iter_mut().enumerate() {
            let (scale, offset) = (part.scales[lane].to_f32(), part.offsets[lane].to_f32());
            let nibble = || i32::from(column[lane % 8] >> (lane / 8 * 4) & 15);
            *out = match format {
                BlockFormat::Q4_0 => (nibble() - 8) as f32 * scale,
                BlockFormat::Q4_1 => nibble() as f32 * scale + offset,
                BlockFormat::Q8_0 => i32::from(column[lane].cast_signed()) as f32 * scale,
            };
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
            unpack(format, panels.part(1, BLOCK, BLOCK), &mut fast);
            unpack_portable(format, panels.part(1, BLOCK, BLOCK), &mut portable);
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
