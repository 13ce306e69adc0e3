//! Gradients by central differences: the oracle of every operation's own test.

use candle_core::{Device, Result, Tensor};
use opencharacter_core::KeyedRandom;

/// A tensor of standard normal draws.
pub(crate) fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let mut random = KeyedRandom::new(seed, &["finite-difference"]);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The elements of a tensor.
pub(crate) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

/// Compares `backward` at `inputs` with central differences of a random projection of `forward`'s result.
///
/// `backward` gets the inputs and the gradient of the result, and returns one gradient per input.
pub(crate) fn check(
    inputs: &[Tensor],
    forward: impl Fn(&[Tensor]) -> Result<Tensor>,
    backward: impl Fn(&[Tensor], &Tensor) -> Result<Vec<Tensor>>,
) {
    let weights = normal(99, forward(inputs).unwrap().dims());
    let gradients = backward(inputs, &weights).unwrap();
    assert_eq!(gradients.len(), inputs.len(), "one gradient per argument");
    // Differences are summed in f64: the results themselves are f32.
    let project = |arguments: &[Tensor]| -> f64 {
        let result = flat(&forward(arguments).unwrap());
        result.iter().zip(&flat(&weights)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    for (position, gradient) in gradients.iter().enumerate() {
        let gradient = flat(gradient);
        let values = flat(&inputs[position]);
        let step = 1e-2_f32;
        let largest = gradient.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert!(largest > 0.0, "argument {position}: the gradient is zero");
        assert_eq!(gradient.len(), values.len(), "argument {position}: the gradient has another size");
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
