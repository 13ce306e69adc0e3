use half::{bf16, f16};
use opencharacter_core::KeyedRandom;

use super::{
    super::{blocks::BlockFormat, packed::QuantisedMatrix},
    *,
};
use crate::{team::Team, tile_registers::Tiles};

const FORMATS: [BlockFormat; 3] = [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0];

fn draw(seed: u64, count: usize) -> Vec<f32> {
    let mut random = KeyedRandom::new(seed, &["bfloat16"]);
    (0..count).map(|_| random.normal() as f32).collect()
}

/// Rows of blocks with random quants and halves. Of every fifth row the scales differ by up to 100, and every seventh has
/// offsets nearly as large as half precision holds.
fn blocks(format: BlockFormat, outputs: usize, inputs: usize) -> Vec<u8> {
    let mut random = KeyedRandom::new(7, &["blocks"]);
    let mut rows = vec![0; outputs * inputs / 32 * format.bytes()];
    for (index, block) in rows.chunks_exact_mut(format.bytes()).enumerate() {
        block.fill_with(|| (random.uniform() * 256.0) as u8);
        let row = index / (inputs / 32);
        let size = match (row % 5, row % 7) {
            (0, _) => 10_f64.powf(random.uniform() * 2.0 - 4.0),
            (_, 0) => 6_000.0,
            _ => 0.02,
        };
        let scale = size * (random.uniform() * 0.5 + 0.5);
        block[..2].copy_from_slice(&f16::from_f64(scale).to_le_bytes());
        if format == BlockFormat::Q4_1 {
            block[2..4].copy_from_slice(&f16::from_f64(-scale * (random.uniform() * 4.0 + 6.0)).to_le_bytes());
        }
    }
    rows
}

/// A weight by its definition, as the tiles see it, in scalar arithmetic.
fn weight(panels: &BlockPanels, output: usize, input: usize) -> f32 {
    let (panel, lane) = (output / PANEL, output % PANEL);
    let unit = panels.pair(panel / 2).units[output % (2 * PANEL)];
    let block = panels.block(panel, input / 32);
    let quant = block.quant(lane, input % 32);
    let half = match block.format() {
        BlockFormat::Q8_0 => {
            let scale = f16::from_f32((block.scale(lane) / unit).round_ties_even() / 16_384.0);
            f16::from_f64(f64::from(quant) * scale.to_f64())
        }
        format => {
            // `Q4_0` has its offset in the quants.
            let (quant, (scale, offset)) = match (format, block.integers(lane, unit)) {
                (BlockFormat::Q4_0, (scale, _)) => (quant + 8, (scale, -8 * scale)),
                (_, both) => (quant, both),
            };
            let rounded = |units: i32| f16::from_f64(f64::from(units) / 16_384.0).to_f64();
            let value = 1.0 + f64::from(quant) / 16.0;
            // Exact in f64 but for the last rounding.
            f16::from_f64(value * rounded(16 * scale) + rounded(offset - 16 * scale))
        }
    };
    let (sign, magnitude) = (half.to_bits() & 0x8000, half.to_bits() & 0x7FFF);
    bf16::from_bits(sign | ((magnitude + 4) >> 3)).to_f32()
}

/// A raised activation by its definition.
fn activation(value: f32) -> f32 {
    let raised = value * RAISED;
    if raised.abs() < 16_384.0 { 0.0 } else { bf16::from_f32(raised).to_f32() }
}

/// An element by its definition, given activations and weights by theirs.
fn element(unit: f32, row: &[f32], weights: &[f32]) -> f32 {
    let mut sum = 0.0;
    for (values, weights) in row.chunks_exact(32).zip(weights.chunks_exact(32)) {
        let mut chains = [0.0_f32; 2];
        for place in 0..16 {
            for (member, chain) in chains.iter_mut().enumerate() {
                let input = place / 4 * 8 + place % 4 + 4 * member;
                *chain = values[input].mul_add(weights[input], *chain);
            }
        }
        sum += chains[0] + chains[1];
    }
    sum * (unit * LOWERED)
}

/// All elements by their definition, `[rows][outputs]`.
fn product(panels: &BlockPanels, outputs: usize, values: &[f32]) -> Vec<f32> {
    let inputs = panels.inputs();
    let values: Vec<f32> = values.iter().map(|value| activation(*value)).collect();
    let weights: Vec<f32> = (0..outputs * inputs).map(|place| weight(panels, place / inputs, place % inputs)).collect();
    let rows =
        values.chunks_exact(inputs).flat_map(|row| weights.chunks_exact(inputs).enumerate().map(move |of| (row, of)));
    rows.map(|(row, (output, weights))| {
        let unit = panels.pair(output / (2 * PANEL)).units[output % (2 * PANEL)];
        element(unit, row, weights)
    })
    .collect()
}

/// The product on tiles, in rows that are a little longer than they need to be.
fn on_tiles(panels: &BlockPanels, outputs: usize, values: &[f32], rows: usize) -> Vec<f32> {
    let x = Bfloat16Rows::of(values.len(), panels.inputs(), 64, |run, out| {
        out.copy_from_slice(&values[64 * run..][..out.len()]);
    });
    let mut out = vec![0.5; rows * outputs];
    for first in (0..outputs.div_ceil(PANEL)).step_by(GROUP) {
        let group = first..(first + GROUP).min(outputs.div_ceil(PANEL));
        // SAFETY: the caller has looked whether tiles are available; `out` has all rows and features.
        unsafe {
            let _tiles = Tiles::configure();
            multiply(&x, &(0..rows), panels, &group, (out.as_mut_ptr().add(first * PANEL), outputs));
        }
    }
    out
}

/// What the definition says is compared with exact products of the stored weights everywhere, and with the tiles where
/// there are any.
#[test]
fn tiles_do_what_the_definition_says() {
    // Two groups; panels without a partner, and one that is not whole.
    let outputs = 6 * PANEL + PANEL + 5;
    for (inputs, most_rows) in [(32, 3), (96, 129), (608, 66), (1312, 81)] {
        let mut values = draw(2, most_rows * inputs);
        // As large and as small as nothing usual is, and one that is nothing.
        values[..4].copy_from_slice(&[3e8, -1e-24, 1e-27, 0.0]);
        for format in FORMATS {
            let panels = BlockPanels::new(format, &blocks(format, outputs, inputs), outputs, inputs);
            let expected = product(&panels, outputs, &values);
            let (mut difference, mut size) = (vec![0.0; outputs], vec![0.0; outputs]);
            for (row, found) in values.chunks_exact(inputs).zip(expected.chunks_exact(outputs)).skip(1) {
                for (output, found) in found.iter().enumerate() {
                    let exact: f64 = row
                        .iter()
                        .enumerate()
                        .map(|(input, value)| f64::from(panels.get(output, input)) * f64::from(*value))
                        .sum();
                    difference[output] += (f64::from(*found) - exact).powi(2);
                    size[output] += exact.powi(2);
                }
            }
            // Of each output alone: some are a million times as large as others.
            let relative: f64 = difference.iter().zip(&size).map(|(difference, size)| (difference / size).sqrt()).sum();
            let relative = relative / outputs as f64;
            assert!(relative < 6e-3, "{format:?}, {inputs} inputs: {relative}");
            if !available() {
                continue;
            }
            for rows in [1, 2, 16, 17, 33, 50, 64, 65, 81, 129] {
                if rows <= most_rows {
                    let found = on_tiles(&panels, outputs, &values[..rows * inputs], rows);
                    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let (row, output) = (index / outputs, index % outputs);
                        assert_eq!(
                            found.to_bits(),
                            expected.to_bits(),
                            "{format:?}, {inputs} inputs, {rows} rows: {found}, not {expected}, at {row}, {output}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_shows_where_it_is_alone() {
    if !available() {
        return;
    }
    let (outputs, inputs) = (40, 64);
    for format in FORMATS {
        let mut rows = blocks(format, outputs, inputs);
        let block = &mut rows[7 * inputs / 32 * format.bytes()..];
        block[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        let panels = BlockPanels::new(format, &rows, outputs, inputs);
        let mut values = draw(3, 3 * inputs);
        values[inputs + 5] = f32::NAN;
        for (index, value) in on_tiles(&panels, outputs, &values, 3).into_iter().enumerate() {
            let broken = index / outputs == 1 || index % outputs == 7;
            assert_eq!(value.is_finite(), !broken, "{format:?} at {index}: {value}");
        }
    }
}

#[test]
fn gated_products_are_two_products_and_what_comes_between() {
    if !available() {
        return;
    }
    let activate = |[gate, up]: [&[f32]; 2], out: &mut [f32]| {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate.max(0.0) * up;
        }
    };
    for (inputs, outputs, rows) in
        [(64, 224, 1), (64, 32, 16), (96, 224, 40), (64, 96, 64), (672, 64, 70), (96, 64, 600), (1312, 32, 417)]
    {
        let values = draw(4, rows * inputs);
        let [gate, up] = [BlockFormat::Q4_1, BlockFormat::Q8_0]
            .map(|format| BlockPanels::new(format, &blocks(format, outputs, inputs), outputs, inputs));
        let x = Bfloat16Rows::of(values.len(), inputs, inputs, |row, out| {
            out.copy_from_slice(&values[inputs * row..][..inputs]);
        });
        let matrices = [&gate, &up].map(|blocks| QuantisedMatrix { blocks, outputs });
        let found = gated_product(&x, matrices, activate);
        let [gates, ups] = [&gate, &up].map(|panels| on_tiles(panels, outputs, &values, rows));
        let expected = Bfloat16Rows::of(rows * outputs, outputs, outputs, |row, out| {
            let of_row = row * outputs..(row + 1) * outputs;
            activate([&gates[of_row.clone()], &ups[of_row]], out);
        });
        assert!(found == expected, "{rows} rows, {inputs} inputs, {outputs} outputs");
        // More threads than blocks of the result.
        let many = Team::new(24).install(|| gated_product(&x, matrices, activate));
        assert!(many == expected, "{rows} rows, {inputs} inputs, {outputs} outputs, 24 threads");
    }
}
