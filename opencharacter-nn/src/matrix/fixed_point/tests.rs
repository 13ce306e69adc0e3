use opencharacter_core::KeyedRandom;

use super::{
    super::{InstructionSet, Layout, Results, Tile},
    split::DIGITS,
    *,
};
use crate::tile_registers::Tiles;

/// A factor's only chunk.
fn only(rows: &FixedPointRows) -> LeftDigits<'_> {
    rows.chunks().next().unwrap().1
}

/// Normal draws; every 50th column is 20 times as large, as some features of a trained model are.
fn draw(seed: u64, rows: usize, columns: usize) -> Vec<f32> {
    let mut random = KeyedRandom::new(seed, &["fixed point"]);
    let place = 0..rows * columns;
    place.map(|place| random.normal() as f32 * if place % columns % 50 == 3 { 20.0 } else { 1.0 }).collect()
}

/// A line's numbers in a left factor's tile: digits put together again.
fn numbers(steps: &[Step], line: usize) -> Vec<f64> {
    let mut numbers = Vec::new();
    for Step(digits) in steps {
        for place in 0..STEP {
            let [high, middle, low] = digits.each_ref().map(|digits| f64::from(digits.0[line][place]));
            numbers.push((high * 256.0 + middle) * 256.0 + low);
        }
    }
    numbers
}

/// What a tile by a panel gives, from their digits one by one.
fn defined(left: LeftDigits<'_>, tile: usize, right: &RightDigits<'_>, panel: usize) -> [[f32; 16]; 16] {
    let (left, row_scales) = left.0.tile(tile);
    let right_steps = &right.digits[panel * right.steps..(panel + 1) * right.steps];
    let mut results = [[0.0; 16]; 16];
    for (row, results) in results.iter_mut().enumerate() {
        for (column, result) in results.iter_mut().enumerate() {
            let mut levels = [0_i32; 2 * DIGITS - 1];
            for (left, right) in left.iter().zip(right_steps) {
                for place in 0..STEP {
                    for first in 0..DIGITS {
                        for second in 0..DIGITS {
                            let right = right.0[second].0[place / 4][column * 4 + place % 4];
                            levels[first + second] += i32::from(left.0[first].0[row][place]) * i32::from(right);
                        }
                    }
                }
            }
            // But for the product of both lowest digits.
            let sum = levels[..4].iter().rev().fold(0.0_f32, |sum, level| sum.mul_add(1.0 / 256.0, *level as f32));
            *result = sum * row_scales[row] * right.scales[panel][column];
        }
    }
    results
}

#[test]
fn digits_stand_for_their_values() {
    for columns in [1, 63, 64, 200] {
        let values = draw(1, 18, columns);
        let rows = FixedPointRows::new(&values, columns);
        for (row, values) in values.chunks(columns).enumerate() {
            let (steps, scales) = only(&rows).0.tile(row / LINES);
            let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let numbers = numbers(steps, row % LINES);
            for (value, number) in values.iter().zip(&numbers) {
                let found = number * f64::from(scales[row % LINES]) / 65_536.0;
                let error = (found - f64::from(*value)).abs() / f64::from(largest);
                // Half a step of 2^-23 for the integer, and three roundings of f32, each up to a quarter.
                assert!(error < 2.5 / f64::from(1 << 24), "{value} of {largest}: {found}");
            }
            assert!(numbers[columns..].iter().all(|number| *number == 0.0), "values beyond the last are zero");
        }
    }
}

#[test]
fn columns_have_the_digits_of_the_rows_of_the_turned_matrix() {
    let (tokens, features) = (150, 37);
    let values = draw(2, tokens, features);
    let turned: Vec<f32> = (0..features * tokens).map(|at| values[at % tokens * features + at / tokens]).collect();
    let (columns, rows) = (FixedPointColumns::new(&values, features), FixedPointRows::new(&turned, tokens));
    for feature in 0..features {
        let [found, expected] = [columns.digits(), only(&rows)].map(|digits| {
            let (steps, scales) = digits.0.tile(feature / LINES);
            (numbers(steps, feature % LINES), scales[feature % LINES])
        });
        assert_eq!(found, expected, "feature {feature}");
    }
}

/// `rows` x 40 by a panel of 40 x 16, with tiles where the machine has them, and by the definition.
fn both_ways(values: &[f32], rows: usize, panel: &[f32], start: f32) -> [Vec<f32>; 2] {
    let inner = values.len() / rows;
    let left = FixedPointRows::new(values, inner);
    let body = |right: &RightDigits<'_>| {
        let tiles = |tile: usize| {
            let results = defined(only(&left), tile, right, 0);
            results[..(rows - tile * LINES).min(LINES)].to_vec()
        };
        let expected = (0..rows.div_ceil(LINES)).flat_map(tiles).collect::<Vec<_>>().into_flattened();
        let mut found = vec![start; rows * PANEL];
        if !available() {
            return [expected.clone(), expected];
        }
        for tile in 0..rows.div_ceil(LINES) {
            let (out, rows) = (found[tile * LINES * PANEL..].as_mut_ptr(), (rows - tile * LINES).min(LINES));
            let corner = Corner { out, stride: PANEL, rows, columns: PANEL, accumulate: start != 0.0 };
            // SAFETY: the tiles are available, and the corner is `found`'s.
            unsafe {
                let _tiles = Tiles::configure();
                right.multiply(only(&left), tile, 0, &corner);
            }
        }
        [found, expected]
    };
    // SAFETY: the panel holds so many rows.
    unsafe { RightDigits::with(Panels::one(panel.as_ptr()), inner, body) }
}

#[test]
fn tiles_do_what_their_digits_say() {
    for (rows, inner) in [(1, 3), (16, 64), (37, 200)] {
        let [found, expected] = both_ways(&draw(3, rows, inner), rows, &draw(4, inner, PANEL), 0.0);
        assert_eq!(found, expected, "{rows} rows of {inner}");
        let [found, _] = both_ways(&draw(3, rows, inner), rows, &draw(4, inner, PANEL), 0.5);
        for (found, expected) in found.iter().zip(expected).filter(|_| available()) {
            assert!((found - 0.5 - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{found} - 0.5 = {expected}");
        }
    }
}

#[test]
fn products_are_about_as_exact_as_chains_of_multiply_adds() {
    // A chain rounds once per input, so that a short one is hard to beat.
    for (inner, most) in [(64, 4.0), (576, 1.5), (1536, 1.5)] {
        let (rows, values, panel) = (32, draw(5, 32, inner), draw(6, inner, PANEL));
        let [found, _] = both_ways(&values, rows, &panel, 0.0);
        let mut chains = vec![0.0; rows * PANEL];
        for (row, out) in chains.chunks_mut(PANEL).enumerate() {
            let tile = Tile { x: values[row * inner..].as_ptr(), layout: Layout::Rows(inner), inputs: inner };
            let out = Results::rows(out.as_mut_ptr(), PANEL);
            // SAFETY: a row, a panel and 16 results.
            unsafe { tile.run_on(InstructionSet::Portable, 1, Panels::one(panel.as_ptr()), out, false) };
        }
        let error = |results: &[f32]| {
            let mut sum = 0.0;
            for (place, result) in results.iter().enumerate() {
                let row = values[place / PANEL * inner..][..inner].iter();
                let column = panel[place % PANEL..].iter().step_by(PANEL);
                let exact: f64 = row.zip(column).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                sum += (f64::from(*result) - exact).powi(2);
            }
            sum.sqrt()
        };
        let ratio = error(&found) / error(&chains);
        assert!((0.05..most).contains(&ratio), "{inner} inputs: {ratio} times a chain's error");
    }
}

#[test]
fn what_is_no_number_shows_and_what_is_tiny_is_zero() {
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (mut values, mut panel) = (draw(7, 2, 40), draw(8, 40, PANEL));
        values[7] = broken;
        let [found, _] = both_ways(&values, 2, &panel, 0.0);
        assert!(found[..PANEL].iter().all(|value| value.is_nan()), "{broken}: {found:?}");
        assert!(found[PANEL..].iter().all(|value| value.is_finite()), "the other row is as it was");
        panel[5] = broken;
        let [found, _] = both_ways(&draw(7, 2, 40), 2, &panel, 0.0);
        for (place, value) in found.iter().enumerate() {
            assert_eq!(value.is_nan(), place % PANEL == 5, "{broken}, element {place}: {value}");
        }
    }
    for tiny in [0.0, 1e-40] {
        assert_eq!(both_ways(&[tiny; 40], 1, &draw(8, 40, PANEL), 0.0)[0], [0.0; PANEL]);
    }
}
