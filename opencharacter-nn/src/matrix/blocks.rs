//! Weights that stay in the few bits in which their file holds them.
//!
//! llama.cpp's `Q4_0`, `Q4_1` and `Q8_0` cut each row into blocks of 32 weights with a scale (and an offset) of their
//! own. Here 16 rows make a panel, as in the f32 form, and a panel's block is turned into f32 in a small buffer right
//! before it is multiplied: the same values, bit for bit, that dequantising the whole file at load would give, for a
//! fifth of the memory and of the traffic.

use half::f16;

use super::kernel::PANEL;
use crate::simd;

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
        let width = self.format.column_bytes();
        let (mut input, end) = (first, first + out.len() / PANEL);
        let mut out = out;
        while input < end {
            let block = input / BLOCK;
            let count = ((block + 1) * BLOCK).min(end) - input;
            let place = (panel * (self.inputs / BLOCK) + block) * PANEL;
            let scales = widen(&self.scales[place..place + PANEL]);
            let column = (panel * self.inputs + input) * width;
            let quants = &self.quants[column..column + count * width];
            let (target, rest) = out.split_at_mut(count * PANEL);
            match self.format {
                BlockFormat::Q4_0 => unpack_q4_0(quants, &scales, target),
                BlockFormat::Q4_1 => unpack_q4_1(quants, &scales, &widen(&self.offsets[place..place + PANEL]), target),
                BlockFormat::Q8_0 => unpack_q8_0(quants, &scales, target),
            }
            out = rest;
            input += count;
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

fn widen(halves: &[f16]) -> [f32; PANEL] {
    let mut floats = [0.0; PANEL];
    half::slice::HalfFloatSliceExt::convert_to_f32_slice(halves, &mut floats);
    floats
}

simd::vectorised! {
    fn unpack_q4_0(quants: &[u8], scales: &[f32; PANEL], out: &mut [f32]) {
        for (column, out) in quants.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<PANEL>().0) {
            for lane in 0..8 {
                out[lane] = (i32::from(column[lane] & 15) - 8) as f32 * scales[lane];
                out[lane + 8] = (i32::from(column[lane] >> 4) - 8) as f32 * scales[lane + 8];
            }
        }
    }
}

simd::vectorised! {
    fn unpack_q4_1(quants: &[u8], scales: &[f32; PANEL], offsets: &[f32; PANEL], out: &mut [f32]) {
        for (column, out) in quants.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<PANEL>().0) {
            for lane in 0..8 {
                // Two roundings, as llama.cpp and candle dequantise; a fused multiply-add would be another weight.
                out[lane] = i32::from(column[lane] & 15) as f32 * scales[lane] + offsets[lane];
                out[lane + 8] = i32::from(column[lane] >> 4) as f32 * scales[lane + 8] + offsets[lane + 8];
            }
        }
    }
}

simd::vectorised! {
    fn unpack_q8_0(quants: &[u8], scales: &[f32; PANEL], out: &mut [f32]) {
        for (column, out) in quants.as_chunks::<PANEL>().0.iter().zip(out.as_chunks_mut::<PANEL>().0) {
            for lane in 0..PANEL {
                out[lane] = i32::from(column[lane].cast_signed()) as f32 * scales[lane];
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
            // A range that crosses block borders equals its single columns.
            let mut range = vec![0.0; 40 * PANEL];
            panels.unpack(1, 20, &mut range);
            for (offset, column) in range.chunks_exact(PANEL).enumerate() {
                assert_eq!(column[3], panels.get(PANEL + 3, 20 + offset));
            }
        }
    }
}
