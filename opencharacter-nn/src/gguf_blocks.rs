//! A GGUF file's quantised weights in the blocks that are multiplied as they lie.
//!
//! llama.cpp has more formats than there are kernels here. Most files that people have hold `Q4_K` and `Q6_K`; where a
//! row is no multiple of 256 weights, `Q5_0` and `Q8_0` stand in for them. Widened to f32, such a model takes seven times
//! its file's size, all of which a decoding step reads. So what has no kernel becomes a format that has one:
//!
//! - `Q5_0` is `Q8_0` with quants from -16 to 15: the same weights.
//! - `Q4_K` is `Q4_1` whose scale and offset are products of an f16 and a 6-bit integer. They are rounded to f16, each by
//!   at most 1/2048 of itself: a weight moves by at most 1/65 of the step between two of its block's values.
//! - The others are rounded to `Q8_0`: a weight moves by at most 1/225 of its block's largest, which is a seventh of the
//!   step between two values of `Q6_K`, or more in 16 weights whose own scale is smaller than their neighbours'.
//!
//! Measured on SmolLM2-135M as llama.cpp quantises it to `Q4_K_M` (58% `Q5_0`, 22% `Q8_0`, 11% `Q4_K`, 9% `Q6_K`): over
//! 4,752 tokens of RoleBench answers the mean negative log-likelihood is 2.2156 nats, and with llama.cpp's own
//! dequantised weights 2.2159. Beside that f32 model a decoding step takes half the time, and the process a third of the
//! memory.

use candle_core::{
    Device, Result,
    quantized::{GgmlDType, QTensor},
};
use half::f16;

use crate::{BlockFormat, matrix::BLOCK};

/// `tensor`'s blocks; nothing where it is not quantised.
pub(crate) fn blocks(tensor: &QTensor) -> Result<Option<(BlockFormat, Vec<u8>)>> {
    let owned = |format| Ok(Some((format, tensor.data()?.into_owned())));
    match tensor.dtype() {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => Ok(None),
        GgmlDType::Q4_0 => owned(BlockFormat::Q4_0),
        GgmlDType::Q4_1 => owned(BlockFormat::Q4_1),
        GgmlDType::Q8_0 => owned(BlockFormat::Q8_0),
        GgmlDType::Q5_0 => Ok(Some((BlockFormat::Q8_0, eight_bits_of_q5_0(&tensor.data()?)))),
        GgmlDType::Q4K => Ok(Some((BlockFormat::Q4_1, q4_1_of_q4_k(&tensor.data()?)))),
        _ => {
            let rounded = QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, GgmlDType::Q8_0)?;
            Ok(Some((BlockFormat::Q8_0, rounded.data()?.into_owned())))
        }
    }
}

/// `half scale; u32 fifth_bits; u8 low_bits[16]` per block, input `i` below input `i + 16`.
fn eight_bits_of_q5_0(source: &[u8]) -> Vec<u8> {
    const BYTES: usize = 2 + 4 + BLOCK / 2;
    let mut target = Vec::with_capacity(source.len() / BYTES * BlockFormat::Q8_0.bytes());
    for block in source.as_chunks::<BYTES>().0 {
        let fifth_bits = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        target.extend_from_slice(&block[..2]);
        target.extend((0..BLOCK).map(|input| {
            let byte = block[6 + input % (BLOCK / 2)];
            let low_bits = if input < BLOCK / 2 { byte & 15 } else { byte >> 4 };
            let quant = low_bits | ((fifth_bits >> input & 1) as u8) << 4;
            (quant.cast_signed() - 16).cast_unsigned()
        }));
    }
    target
}

/// Per 256 weights `half scale; half offset; u8 factors[12]; u8 quants[128]`: eight blocks, each with a factor of 6 bits
/// for the scale and one for what the offset takes away.
fn q4_1_of_q4_k(source: &[u8]) -> Vec<u8> {
    const FACTORS: usize = 4;
    const QUANTS: usize = FACTORS + 12;
    const BYTES: usize = QUANTS + 128;
    let mut target = Vec::with_capacity(source.len() / BYTES * 8 * BlockFormat::Q4_1.bytes());
    for blocks in source.as_chunks::<BYTES>().0 {
        let half = |place: usize| f16::from_le_bytes([blocks[place], blocks[place + 1]]).to_f32();
        let (scale, offset) = (half(0), half(2));
        for index in 0..8 {
            let (of_scale, of_offset) = six_bit_factors(&blocks[FACTORS..QUANTS], index);
            for value in [scale * f32::from(of_scale), -offset * f32::from(of_offset)] {
                target.extend_from_slice(&f16::from_f32(value).to_le_bytes());
            }
            // Two blocks share 32 bytes, the second one's quants above the first one's.
            let pair = &blocks[QUANTS + index / 2 * BLOCK..][..BLOCK];
            let quant = |input: usize| pair[input] >> (4 * (index % 2)) & 15;
            target.extend((0..BLOCK / 2).map(|input| quant(input) | quant(input + BLOCK / 2) << 4));
        }
    }
    target
}

/// The factors of scale and offset of block `index`: those of the first four blocks fill the low 6 bits of the first 8
/// bytes; of the others, 4 bits are in the last 4 bytes and 2 above the first ones'.
fn six_bit_factors(bytes: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        return (bytes[index] & 63, bytes[index + 4] & 63);
    }
    let low = bytes[index + 4];
    (low & 15 | bytes[index - 4] >> 6 << 4, low >> 4 | bytes[index] >> 6 << 4)
}
