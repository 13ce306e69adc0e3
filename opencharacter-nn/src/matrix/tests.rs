use std::ops::Range;

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use opencharacter_core::KeyedRandom;
use proptest::prelude::*;

use super::*;

fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut random = KeyedRandom::new(seed, &["matrix"]);
    (0..count).map(|_| random.normal() as f32).collect()
}

/// `left right` in f64, each factor with its strides.
fn exact(
    rows: usize,
    inner: usize,
    columns: usize,
    left: impl Fn(usize, usize) -> f32,
    right: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let mut out = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            out.push((0..inner).map(|i| f64::from(left(row, i)) * f64::from(right(i, column))).sum());
        }
    }
    out
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*found) - expected).abs() < 2e-4, "element {place}: {found}, expected {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn products_agree_with_the_definition(
        rows in 1_usize..30, outputs in 1_usize..70, inputs in 1_usize..300, rank in 1_usize..20, seed: u64,
    ) {
        let (x, w, g) = (random(seed, rows * inputs), random(seed ^ 1, outputs * inputs), random(seed ^ 2, rows * outputs));
        let matrix = PackedMatrix::new(&w, outputs, inputs);
        prop_assert_eq!(matrix.to_rows(), w.clone());
        assert_close(&matrix.multiply(&x, rows),
            &exact(rows, inputs, outputs, |r, i| x[r * inputs + i], |i, o| w[o * inputs + i]));
        assert_close(&matrix.multiply_transposed(&g, rows),
            &exact(rows, outputs, inputs, |r, o| g[r * outputs + o], |o, i| w[o * inputs + i]));
        // A second term continues the first one's chains.
        let (narrow, b) = (random(seed ^ 3, rows * rank), random(seed ^ 4, outputs * rank));
        let second = PackedMatrix::new(&b, outputs, rank);
        let both = sum_of_products(
            Orientation::Forward, &[Term::Floats { x: &x, matrix: &matrix }, Term::Floats { x: &narrow, matrix: &second }], rows);
        let mut one_by_one = matrix.multiply(&x, rows);
        add_products(Orientation::Forward, &[Term::Floats { x: &narrow, matrix: &second }], rows, &mut one_by_one);
        prop_assert_eq!(both, one_by_one);
    }

    #[test]
    fn outer_products_agree_with_the_definition(
        tokens in 1_usize..300, left in 1_usize..40, right in 1_usize..70, seed: u64,
    ) {
        let (x, g) = (random(seed, tokens * left), random(seed ^ 1, tokens * right));
        let expected = exact(left, tokens, right, |i, t| x[t * left + i], |t, j| g[t * right + j]);
        let mut rows = vec![0.0; left * right];
        add_outer_products(&x, tokens, [OuterProduct { right: &g, target: Target::Rows(&mut rows) }]);
        assert_close(&rows, &expected);
        // The same in the layout of a matrix with `left` inputs and `right` outputs.
        let mut matrix = PackedMatrix::new(&vec![0.0; left * right], right, left);
        let target = Target::Panels(matrix.floats_mut().unwrap());
        add_outer_products(&x, tokens, [OuterProduct { right: &g, target }]);
        let turned = matrix.to_rows();
        for i in 0..left {
            for j in 0..right {
                prop_assert_eq!(turned[j * left + i], rows[i * right + j]);
            }
        }
        // In company of another product with the same left factor.
        let h = random(seed ^ 2, tokens * left);
        let (mut again, mut other) = (vec![0.0; left * right], vec![0.0; left * left]);
        add_outer_products(&x, tokens, [
            OuterProduct { right: &h, target: Target::Rows(&mut other) },
            OuterProduct { right: &g, target: Target::Rows(&mut again) },
        ]);
        prop_assert_eq!(&again, &rows);
        assert_close(&other, &exact(left, tokens, left, |i, t| x[t * left + i], |t, j| h[t * left + j]));
        let padding: usize = matrix.floats_mut().unwrap().iter().filter(|value| **value != 0.0).count();
        prop_assert!(padding <= left * right, "lanes beyond the last output stay zero");
    }
}

#[test]
fn bits_do_not_depend_on_company_or_threads() {
    let (rows, outputs, inputs) = (131, 200, 600);
    let (x, w, g) = (random(1, rows * inputs), random(2, outputs * inputs), random(3, rows * outputs));
    let matrix = PackedMatrix::new(&w, outputs, inputs);
    let forward = matrix.multiply(&x, rows);
    let backward = matrix.multiply_transposed(&g, rows);
    let training = matrix.multiply_in(Activations::Floats, &x, rows);
    for row in [0, 5, 6, 97, 130] {
        let alone = matrix.multiply_in(Activations::Floats, &x[row * inputs..(row + 1) * inputs], 1);
        assert_eq!(alone, training[row * outputs..(row + 1) * outputs], "row {row} in training");
        let alone = matrix.multiply(&x[row * inputs..(row + 1) * inputs], 1);
        assert_eq!(alone, forward[row * outputs..(row + 1) * outputs], "row {row}");
        let alone = matrix.multiply_transposed(&g[row * outputs..(row + 1) * outputs], 1);
        assert_eq!(alone, backward[row * inputs..(row + 1) * inputs], "row {row}");
    }
    let outer = || {
        let mut out = vec![0.0; inputs * outputs];
        add_outer_products(&x, rows, [OuterProduct { right: &g, target: Target::Rows(&mut out) }]);
        out
    };
    let expected = outer();
    for threads in [1, 7] {
        let pool = crate::team::Team::new(threads);
        assert_eq!(pool.install(|| matrix.multiply(&x, rows)), forward);
        assert_eq!(pool.install(|| matrix.multiply_in(Activations::Floats, &x, rows)), training);
        assert_eq!(pool.install(|| matrix.multiply_transposed(&g, rows)), backward);
        assert_eq!(pool.install(outer), expected);
    }
}

#[test]
fn quantised_panels_give_the_bits_of_their_dequantised_weights() {
    // 90 outputs: two pairs of whole panels, one without a partner, and one that is not whole.
    let (rows, outputs, inputs) = (40, 90, 320);
    let tensor = Tensor::from_vec(random(5, outputs * inputs), (outputs, inputs), &Device::Cpu).unwrap();
    let (x, g) = (random(6, rows * inputs), random(7, rows * outputs));
    let kinds = [
        (BlockFormat::Q4_0, GgmlDType::Q4_0),
        (BlockFormat::Q4_1, GgmlDType::Q4_1),
        (BlockFormat::Q8_0, GgmlDType::Q8_0),
    ];
    for (format, kind) in kinds {
        let quantised = QTensor::quantize(&tensor, kind).unwrap();
        let matrix = PackedMatrix::from_blocks(format, &quantised.data().unwrap(), outputs, inputs).unwrap();
        let floats = matrix.to_floats();
        assert_eq!(
            matrix.to_rows(),
            quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
        assert!(matrix.bytes() * 3 < floats.bytes());
        assert_eq!(matrix.multiply(&x, rows), floats.multiply(&x, rows), "{format:?}");
        // One row alone takes a way of its own, also with an adapter's term behind it.
        let (narrow, b) = (random(8, 4), PackedMatrix::new(&random(9, outputs * 4), outputs, 4));
        let terms = |matrix| [Term::Floats { x: &x[..inputs], matrix }, Term::Floats { x: &narrow, matrix: &b }];
        let row = |matrix| sum_of_products(Orientation::Forward, &terms(matrix), 1);
        assert_eq!(row(&matrix), row(&floats), "{format:?}");
        assert_eq!(matrix.multiply_transposed(&g, rows), floats.multiply_transposed(&g, rows), "{format:?}");
    }
    assert!(PackedMatrix::from_blocks(BlockFormat::Q4_0, &[0; 17], 1, 32).is_none(), "a row cut short");
}

const ROUNDINGS: [Activations; 2] = [Activations::EightBits, Activations::RoundedForBatches];

#[test]
fn rounded_products_are_close_and_do_not_depend_on_company_or_threads() {
    // 90 outputs: two pairs of whole panels, and one that is neither whole nor a pair.
    let (rows, outputs, inputs) = (131, 90, 608);
    let tensor = Tensor::from_vec(random(5, outputs * inputs), (outputs, inputs), &Device::Cpu).unwrap();
    let (x, narrow) = (random(6, rows * inputs), random(8, rows * 4));
    let b = PackedMatrix::new(&random(9, outputs * 4), outputs, 4);
    let kinds = [
        (BlockFormat::Q4_0, GgmlDType::Q4_0),
        (BlockFormat::Q4_1, GgmlDType::Q4_1),
        (BlockFormat::Q8_0, GgmlDType::Q8_0),
    ];
    for ((format, kind), activations) in kinds.into_iter().flat_map(|kind| ROUNDINGS.map(|rounding| (kind, rounding))) {
        let quantised = QTensor::quantize(&tensor, kind).unwrap();
        let matrix = PackedMatrix::from_blocks(format, &quantised.data().unwrap(), outputs, inputs).unwrap();
        let product = |place: Range<usize>| {
            matrix.multiply_in(activations, &x[place.start * inputs..place.end * inputs], place.len())
        };
        let all = product(0..rows);
        let exact = matrix.multiply(&x, rows);
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let difference = norm(&mut all.iter().zip(&exact).map(|(found, exact)| found - exact));
        let relative = difference / norm(&mut exact.iter().copied());
        // 8 bits of a block whose largest value is some 2.3 deviations: a deviation of 0.5% per value. Of bfloat16, half of
        // that, in both factors together.
        assert!((1e-3..8e-3).contains(&relative), "{format:?}: relative error {relative}");
        for place in [0..1, 5..6, 97..99, 120..131] {
            let expected = &all[place.start * outputs..place.end * outputs];
            assert_eq!(product(place.clone()), expected, "{format:?}, rows {place:?}");
        }
        for threads in [1, 7] {
            assert_eq!(crate::team::Team::new(threads).install(|| product(0..rows)), all, "{format:?}");
        }
        // An adapter's term continues the chains.
        let quantised_x = RoundedRows::new(activations, &x, inputs);
        let first = Term::Rounded { x: &quantised_x, matrix: matrix.quantised().unwrap() };
        let second = Term::Floats { x: &narrow, matrix: &b };
        let mut one_by_one = all;
        add_products(Orientation::Forward, &[second], rows, &mut one_by_one);
        assert_eq!(sum_of_products(Orientation::Forward, &[first, second], rows), one_by_one, "{format:?}");
    }
}

#[test]
fn what_is_no_number_shows_where_it_is_rounded() {
    let (outputs, inputs) = (5, 64);
    let tensor = Tensor::from_vec(random(5, outputs * inputs), (outputs, inputs), &Device::Cpu).unwrap();
    let quantised = QTensor::quantize(&tensor, GgmlDType::Q4_1).unwrap();
    let matrix = PackedMatrix::from_blocks(BlockFormat::Q4_1, &quantised.data().unwrap(), outputs, inputs).unwrap();
    let broken = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for (broken, activations) in broken.into_iter().flat_map(|broken| ROUNDINGS.map(|rounding| (broken, rounding))) {
        let mut x = random(6, 2 * inputs);
        x[40] = broken;
        let product = matrix.multiply_in(activations, &x, 2);
        assert!(product[..outputs].iter().all(|value| !value.is_finite()), "{broken}: {product:?}");
        assert!(product[outputs..].iter().all(|value| value.is_finite()), "the other row is as it was");
    }
    // Values too small to have an inverse, and nothing at all, are zero and not NaN.
    for (tiny, activations) in [0.0, 1e-40].into_iter().flat_map(|tiny| ROUNDINGS.map(|rounding| (tiny, rounding))) {
        assert_eq!(matrix.multiply_in(activations, &[tiny; 64], 1), [0.0; 5]);
    }
}
