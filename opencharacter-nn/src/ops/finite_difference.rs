//! Gradients by central differences: the oracle of every operation's own test.

use candle_core::{Device, Result, Tensor, Var};
use opencharacter_core::KeyedRandom;

/// A tensor of standard normal draws.
pub(crate) fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let mut random = KeyedRandom::new(seed, &["finite-difference"]);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Compares the backward of `f` at `inputs` with central differences of a random projection of its result.
pub(crate) fn check(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let variables: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tracked: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let result = f(&tracked).unwrap();
    let weights = normal(99, result.dims());
    let gradients = (&result * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    // Differences are summed in f64: the results themselves are f32.
    let project = |arguments: &[Tensor]| -> f64 {
        let result = f(arguments).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let weights = weights.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        result.iter().zip(&weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    for (position, variable) in variables.iter().enumerate() {
        let gradient = gradients.get(variable).unwrap_or_else(|| panic!("argument {position} got no gradient"));
        let gradient = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let values = inputs[position].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let step = 1e-2_f32;
        let largest = gradient.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert!(largest > 0.0, "argument {position}: the gradient is zero");
        for element in 0..values.len() {
            let moved = |delta: f32| {
                let mut values = values.clone();
                values[element] += delta;
                let mut arguments = inputs.to_vec();
                arguments[position] = Tensor::from_vec(values, inputs[position].dims(), &Device::Cpu).unwrap();
                project(&arguments)
            };
            let numeric = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let error = (numeric - f64::from(gradient[element])).abs();
            assert!(
                error < 2e-3 * f64::from(largest.max(1.0)),
                "argument {position}, element {element}: backward {}, difference {numeric}",
                gradient[element]
            );
        }
    }
}
