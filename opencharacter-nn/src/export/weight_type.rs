//! The number formats of exported weights.

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use half::{bf16, f16, slice::HalfFloatSliceExt as _};

/// Weights that share a scale in `Q8_0`.
const BLOCK: usize = 32;
/// The smallest positive f16.
const SMALLEST_F16: f32 = 1.0 / (1 << 24) as f32;

/// How an export holds its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// 32 bits: as they are computed with.
    F32,
    /// 16 bits, 11 of them significant.
    F16,
    /// 16 bits, 8 of them significant; safetensors only.
    Bf16,
    /// llama.cpp's blocks of 32 weights of 8 bits with a 16-bit scale; GGUF only.
    Q8_0,
}

impl WeightType {
    /// The name on the command line and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// What a GGUF file holds a weight of `shape` in: llama.cpp wants vectors in f32, and only rows of whole blocks can
    /// be quantised.
    pub(super) fn in_gguf(self, shape: &[usize]) -> Self {
        match (self, shape) {
            (_, [_]) => Self::F32,
            (Self::Q8_0, [.., row]) if !row.is_multiple_of(BLOCK) => Self::F16,
            _ => self,
        }
    }

    /// Bytes of `elements` weights, which are whole blocks.
    pub(super) fn bytes(self, elements: usize) -> usize {
        match self {
            Self::F32 => elements * 4,
            Self::F16 | Self::Bf16 => elements * 2,
            Self::Q8_0 => elements / BLOCK * (2 + BLOCK),
        }
    }

    /// `values` as a little-endian file holds them.
    pub(super) fn encode(self, values: Vec<f32>) -> candle_core::Result<Vec<u8>> {
        Ok(match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(&values);
                halves.iter().flat_map(|half| half.to_le_bytes()).collect()
            }
            Self::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            Self::Q8_0 => {
                let length = values.len();
                let values = Tensor::from_vec(values, length, &Device::Cpu)?;
                QTensor::quantize(&values, GgmlDType::Q8_0)?.data()?.into_owned()
            }
        })
    }

    /// The first element at which `found` is not `expected` rounded to this format.
    ///
    /// Half a unit in the last place; for `Q8_0` half a step of the block's scale, which is itself rounded to 16 bits.
    /// The smallest subnormal numbers are the floor.
    pub(super) fn first_difference(self, expected: &[f32], found: &[f32]) -> Option<usize> {
        if expected.len() != found.len() {
            return Some(expected.len().min(found.len()));
        }
        let outside = |index: usize, bound: f32| {
            let difference = (expected[index] - found[index]).abs();
            difference.is_nan() || difference > bound
        };
        let relative = |roundoff: f32, floor: f32| {
            (0..expected.len()).find(|&index| outside(index, expected[index].abs() * roundoff + floor))
        };
        match self {
            Self::F32 => (0..expected.len()).find(|&index| expected[index].to_bits() != found[index].to_bits()),
            Self::F16 => relative(1.0 / 2048.0, SMALLEST_F16 / 2.0),
            Self::Bf16 => relative(1.0 / 256.0, f32::MIN_POSITIVE),
            Self::Q8_0 => expected.chunks(BLOCK).enumerate().find_map(|(block, values)| {
                let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                let bound = largest * (0.5 / 127.0 + 1.0 / 2048.0) * 1.001 + 64.0 * SMALLEST_F16;
                (block * BLOCK..block * BLOCK + values.len()).find(|&index| outside(index, bound))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use opencharacter_core::KeyedRandom;

    use super::*;

    fn weights(count: usize) -> Vec<f32> {
        let mut random = KeyedRandom::new(7, &["weights"]);
        (0..count).map(|_| (random.uniform() * 2.0 - 1.0) as f32 * 0.3).collect()
    }

    fn decode(weight_type: WeightType, bytes: &[u8]) -> Vec<f32> {
        let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        match weight_type {
            WeightType::F32 => bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            WeightType::F16 => bytes.chunks(2).map(half).collect(),
            WeightType::Bf16 => {
                bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
            }
            // The format as llama.cpp documents it: `half scale; int8 quants[32]`.
            WeightType::Q8_0 => bytes
                .chunks(34)
                .flat_map(|block| block[2..].iter().map(move |&quant| f32::from(quant as i8) * half(block)))
                .collect(),
        }
    }

    #[test]
    fn every_type_decodes_to_the_rounded_weights_and_to_nothing_else() {
        let values = weights(256);
        for weight_type in [WeightType::F32, WeightType::F16, WeightType::Bf16, WeightType::Q8_0] {
            let bytes = weight_type.encode(values.clone()).unwrap();
            assert_eq!(bytes.len(), weight_type.bytes(values.len()));
            let mut found = decode(weight_type, &bytes);
            assert_eq!(weight_type.first_difference(&values, &found), None, "{weight_type:?}");
            // Two steps of the coarsest format are seen in all of them.
            found[100] += 0.3 * 2.0 / 127.0;
            assert_eq!(weight_type.first_difference(&values, &found), Some(100), "{weight_type:?}");
            found[100] = f32::NAN;
            assert_eq!(weight_type.first_difference(&values, &found), Some(100), "{weight_type:?}");
        }
    }

    #[test]
    fn too_large_for_sixteen_bits_is_a_difference() {
        let values = vec![1.0e6; 32];
        let found = decode(WeightType::F16, &WeightType::F16.encode(values.clone()).unwrap());
        assert_eq!(WeightType::F16.first_difference(&values, &found), Some(0));
    }

    #[test]
    fn vectors_and_broken_rows_are_not_quantised() {
        assert_eq!(WeightType::Q8_0.in_gguf(&[576]), WeightType::F32);
        assert_eq!(WeightType::Q8_0.in_gguf(&[8, 48]), WeightType::F16);
        assert_eq!(WeightType::Q8_0.in_gguf(&[8, 64]), WeightType::Q8_0);
    }
}
