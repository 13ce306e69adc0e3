//! The kernels' own source, run by the emulation, against opencharacter-nn, which is held to PyTorch.

#![cfg(feature = "emulated")]
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::PathBuf, rc::Rc};

use candle_core::{Device as CandleDevice, Tensor};
use opencharacter_cuda::{Device, DeviceModel, Emulated, Precision, Training};
use opencharacter_nn::{
    Adapter, Decoder, Gradients, LoraAdapter, LoraConfig, PackedBatch, Parameter, PassOptions, SafetensorsFolder,
    TokenWeights, Trainable, loss_and_gradients, token_losses,
};

/// One small random model of each family: heads of 8 and 12 features, biases, a window, norms of heads, tied heads.
const FAMILIES: [&str; 5] = ["small_llama", "small_llama3", "small_mistral", "small_qwen2", "small_qwen3"];

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../opencharacter-nn/tests/data").join(name)
}

fn small(family: &str) -> (Decoder, LoraAdapter) {
    let mut folder = SafetensorsFolder::open(&data(family)).unwrap();
    let config = folder.config().unwrap();
    let decoder = Decoder::load(config.clone(), &mut folder).unwrap();
    let adapter = LoraAdapter::load(&data(family).join("adapter"), &config).unwrap();
    (decoder, adapter)
}

/// The two sequences that PyTorch has seen.
fn golden_batch(family: &str) -> PackedBatch {
    let golden = candle_core::safetensors::load(data(family).join("golden.safetensors"), &CandleDevice::Cpu).unwrap();
    let integers = |name: String| golden[&name].to_vec1::<i64>().unwrap();
    let mut batch = PackedBatch::new();
    for index in 0..2 {
        let tokens: Vec<u32> = integers(format!("tokens_{index}")).into_iter().map(|token| token as u32).collect();
        let trained: Vec<bool> = integers(format!("trained_{index}")).into_iter().map(|mark| mark == 1).collect();
        batch.push(&tokens, &trained);
    }
    batch
}

/// Sequences of the given lengths, of tokens below 64; every third token is not trained.
fn batch(lengths: &[usize]) -> PackedBatch {
    let mut batch = PackedBatch::new();
    for (seed, &length) in lengths.iter().enumerate() {
        let tokens: Vec<u32> = (0..length).map(|place| ((place * 37 + seed * 11 + place * place) % 64) as u32).collect();
        let trained: Vec<bool> = (0..length).map(|place| place % 3 != 0).collect();
        batch.push(&tokens, &trained);
    }
    batch
}

fn emulation(precision: Precision) -> Rc<dyn Device> {
    Rc::new(Emulated::new(precision, false))
}

/// `|found - expected| / |expected|` over all elements.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let size: f64 = expected.iter().map(|&b| square(b)).sum();
    (difference / size).sqrt()
}

fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    let error = relative_error(found, expected);
    // Not the other way round: an error that is no number must fail.
    assert!(error < tolerance, "{what}: relative error {error}");
}

/// Losses and gradients of an adapter: on the CPU, and from the kernels.
fn compare_adapter(
    what: &str,
    (decoder, adapter): (&Decoder, &LoraAdapter),
    batch: &PackedBatch,
    options: PassOptions,
    (device, tolerance): (Rc<dyn Device>, f64),
) {
    let mut expected = adapter.gradients();
    let trainable = Trainable::Lora(adapter);
    let expected_losses =
        loss_and_gradients(decoder, trainable, batch, TokenWeights::Equal, options, &mut expected).unwrap();
    let mut model = DeviceModel::new(device, decoder, Training::Lora(adapter)).unwrap();
    let losses = model.loss_and_gradients(batch, TokenWeights::Equal, options).unwrap();
    assert_close(&format!("{what}: losses"), &losses, &expected_losses, tolerance);
    assert_eq!(model.parameters().count(), expected.iter().count(), "{what}: every trained parameter");
    for (parameter, expected) in expected.iter() {
        let found = model.gradient(parameter).unwrap();
        assert_close(&format!("{what}: {}", parameter.name()), &found, expected, 10.0 * tolerance);
    }
}

/// Sum of the losses, and gradients of every weight, row-major.
fn weight_gradients(decoder: &Decoder, batch: &PackedBatch) -> (Vec<f32>, BTreeMap<Parameter, Vec<f32>>) {
    let mut decoder = decoder.clone();
    decoder.thaw();
    let parameters = decoder.parameters_mut().unwrap();
    let mut gradients = Gradients::zeros(parameters.iter().map(|(parameter, values)| (*parameter, values.len())));
    let options = PassOptions::default();
    let losses =
        loss_and_gradients(&decoder, Trainable::Weights, batch, TokenWeights::Equal, options, &mut gradients).unwrap();
    // A decoder whose weights are the gradients knows how to lay them out in rows.
    for (parameter, values) in decoder.parameters_mut().unwrap() {
        values.copy_from_slice(gradients.get(parameter).unwrap());
    }
    (losses, decoder.weights().into_iter().map(|(parameter, weight)| (parameter, weight.to_rows())).collect())
}

fn compare_weights(what: &str, decoder: &Decoder, batch: &PackedBatch, (device, tolerance): (Rc<dyn Device>, f64)) {
    let (expected_losses, expected) = weight_gradients(decoder, batch);
    let mut model = DeviceModel::new(device, decoder, Training::Weights).unwrap();
    let losses = model.loss_and_gradients(batch, TokenWeights::Equal, PassOptions::default()).unwrap();
    assert_close(&format!("{what}: losses"), &losses, &expected_losses, tolerance);
    let trained: Vec<Parameter> = model.parameters().collect();
    assert_eq!(trained, expected.keys().copied().collect::<Vec<_>>(), "{what}: every weight is trained");
    for (parameter, expected) in &expected {
        let found = model.gradient(*parameter).unwrap();
        assert_close(&format!("{what}: {}", parameter.name()), &found, expected, 10.0 * tolerance);
    }
}

#[test]
fn losses_and_adapter_gradients_are_those_of_the_cpu() {
    for family in FAMILIES {
        let (decoder, adapter) = small(family);
        let device = (emulation(Precision::F32), 1e-5);
        compare_adapter(family, (&decoder, &adapter), &golden_batch(family), PassOptions::default(), device);
    }
}

#[test]
fn every_gradient_of_full_fine_tuning_is_that_of_the_cpu() {
    for family in FAMILIES {
        let (decoder, _) = small(family);
        compare_weights(family, &decoder, &golden_batch(family), (emulation(Precision::F32), 1e-5));
    }
}
