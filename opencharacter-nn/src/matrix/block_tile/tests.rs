use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use half::f16;
use opencharacter_core::KeyedRandom;

use super::{
    super::{activations::EightBitRows, blocks::BlockPanels},
    *,
};

const FORMATS: [(BlockFormat, GgmlDType); 3] =
    [(BlockFormat::Q4_0, GgmlDType::Q4_0), (BlockFormat::Q4_1, GgmlDType::Q4_1), (BlockFormat::Q8_0, GgmlDType::Q8_0)];

/// Whole tiles of every kernel, and each rest.
const MOST_ROWS: usize = 13;

fn draw(seed: u64, count: usize) -> Vec<f32> {
    let mut random = KeyedRandom::new(seed, &["block tile"]);
    (0..count).map(|_| random.normal() as f32).collect()
}

/// Writes a block's scale and, where the format has one, its offset.
fn set_halves(format: BlockFormat, block: &mut [u8], scale: f32, offset: f32) {
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    if format == BlockFormat::Q4_1 {
        block[2..4].copy_from_slice(&f16::from_f32(offset).to_le_bytes());
    }
}

/// Checks the kernels with rows of `inputs`.
fn check_sets(inputs: usize) {
    let outputs = 32;
    let weights = Tensor::from_vec(draw(1, outputs * inputs), (outputs, inputs), &Device::Cpu).unwrap();
    let mut values = draw(2, MOST_ROWS * inputs);
    // The largest sums that the formats allow, of either sign, in one block of activations.
    let largest = inputs.min(2 * BLOCK);
    values[..largest].fill(1.0);
    values[inputs..inputs + largest].fill(-1.0);
    let x = EightBitRows::new(&values, inputs);
    let best = instruction_set();
    for (format, kind) in FORMATS {
        let mut data = QTensor::quantize(&weights, kind).unwrap().data().unwrap().to_vec();
        let header = if format == BlockFormat::Q4_1 { 4 } else { 2 };
        let row_bytes = inputs / BLOCK * format.bytes();
        // The first blocks of some rows at both ends of what bytes hold; scale and offset of two are as many units as
        // there may be: an offset that is part of the quants is eight scales.
        let scale = if format == BlockFormat::Q4_0 { 1.999 } else { 1.875 };
        for (row, byte, sign) in [(0, 0xFF, 1.0), (1, 0x80, 0.0), (2, 0xFF, -1.0), (17, 0x7F, 0.0)] {
            for block in data[row * row_bytes..].chunks_exact_mut(format.bytes()).take(2) {
                block[header..].fill(byte);
                if sign != 0.0 {
                    set_halves(format, block, sign * scale, sign * 3.998);
                }
            }
        }
        let panels = BlockPanels::new(format, &data, outputs, inputs);
        for rows in 1..=MOST_ROWS {
            let run = |set| {
                let mut sums = [[0.5_f32; COLUMNS + 5]; MOST_ROWS];
                let target = Target { out: sums.as_mut_ptr().cast(), stride: COLUMNS + 5 };
                // SAFETY: `sums` has all rows; `set` is not beyond the best one.
                unsafe { panels.tile(0, &x, 0).run_on(set, rows, target) };
                sums.map(|row| row.map(f32::to_bits))
            };
            let expected = run(InstructionSet::Portable);
            for (row, sums) in expected.iter().enumerate() {
                let kept = if row < rows { &sums[COLUMNS..] } else { &sums[..] };
                assert!(
                    kept.iter().all(|&kept| kept == 0.5_f32.to_bits()),
                    "only {rows} rows of {COLUMNS} are written"
                );
            }
            for set in [InstructionSet::Avx2, InstructionSet::Avx512Vnni] {
                let available = best == set || best == InstructionSet::Avx512Vnni;
                if available && best != InstructionSet::Portable {
                    assert_eq!(run(set), expected, "{set:?}, {format:?}, {rows} rows of {inputs}");
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    // Activations in blocks of one and of two of the weights' blocks; more than are unpacked at once.
    for inputs in [32, 64, 160, 192, 1056, 2112] {
        check_sets(inputs);
    }
}

/// In f64, with the weights as they are stored. A row's largest blocks make up its size and its units: its weights are
/// some 10,000 units large and moved by 3 of them, a fifth of what 8 bits do to activations.
#[test]
fn scales_in_units_cost_little_where_blocks_differ_in_size() {
    let (outputs, inputs) = (32, 1024);
    let mut weights = draw(3, outputs * inputs);
    for (block, weights) in weights.chunks_exact_mut(BLOCK).enumerate() {
        // Scales of a row differ by up to 100.
        let factor = 10_f32.powf((block % 5) as f32 / 2.0);
        for weight in weights {
            *weight *= factor;
        }
    }
    let weights = Tensor::from_vec(weights, (outputs, inputs), &Device::Cpu).unwrap();
    let x = EightBitRows::new(&draw(4, inputs), inputs);
    for (format, kind) in FORMATS {
        let stored = QTensor::quantize(&weights, kind).unwrap();
        let panels = BlockPanels::new(format, &stored.data().unwrap(), outputs, inputs);
        let stored = stored.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        let tile = panels.tile(0, &x, 0);
        let mut found = [0.0_f32; COLUMNS];
        // SAFETY: one row of as many results.
        unsafe { tile.run_on(instruction_set(), 1, Target { out: found.as_mut_ptr(), stride: COLUMNS }) };
        let value = |input: usize| {
            let quant = tile.quants[input / BLOCK * BLOCK + place_of(input % BLOCK)];
            f64::from(tile.blocks[input / BLOCK / tile.span].scale) * f64::from(quant)
        };
        let (mut difference, mut size) = (0.0, 0.0);
        for (row, found) in stored.iter().zip(found) {
            let exact: f64 = row.iter().enumerate().map(|(input, weight)| f64::from(*weight) * value(input)).sum();
            difference += (f64::from(found) - exact).powi(2);
            size += exact.powi(2);
        }
        let relative = (difference / size).sqrt();
        assert!(relative < 1.2e-3, "{format:?}: {relative}");
    }
}

#[test]
fn a_scale_that_is_no_number_shows_in_its_output_alone() {
    let (outputs, inputs) = (32, 128);
    let weights = Tensor::from_vec(draw(5, outputs * inputs), (outputs, inputs), &Device::Cpu).unwrap();
    let x = EightBitRows::new(&draw(6, 5 * inputs), inputs);
    for (format, kind) in FORMATS {
        for (scale, offset) in [(f32::INFINITY, 0.0), (f32::NAN, 0.0), (1.0, f32::NEG_INFINITY)] {
            if scale.is_finite() && format != BlockFormat::Q4_1 {
                continue;
            }
            let mut data = QTensor::quantize(&weights, kind).unwrap().data().unwrap().to_vec();
            let block = 7 * inputs / BLOCK + 2;
            set_halves(format, &mut data[block * format.bytes()..], scale, offset);
            let panels = BlockPanels::new(format, &data, outputs, inputs);
            let mut found = [[0.0_f32; COLUMNS]; 5];
            let target = Target { out: found.as_mut_ptr().cast(), stride: COLUMNS };
            // SAFETY: five rows of as many results.
            unsafe { panels.tile(0, &x, 0).run_on(instruction_set(), 5, target) };
            for found in found {
                for (output, value) in found.into_iter().enumerate() {
                    assert_eq!(value.is_finite(), output != 7, "{format:?}, {scale}, {offset}: output {output}");
                }
            }
        }
    }
}
