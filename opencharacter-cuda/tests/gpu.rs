//! A GPU against the emulation of its kernels, both in bf16. Run with `--ignored` on a machine that has one; `cargo
//! xtask cuda` builds this as one file that needs nothing beside it.

#![allow(clippy::unwrap_used)]

use std::rc::Rc;

use opencharacter_cuda::{Cuda, Device, DeviceModel, Emulated, Precision, State, Training, Update};
use opencharacter_nn::{
    Decoder, DecoderConfig, LinearName, LoraAdapter, LoraConfig, PackedBatch, PassOptions, RandomWeights, TokenWeights,
};

/// What agrees but for the order of sums: bf16 keeps 8 bits, and roundings pile up over two blocks.
const TOLERANCE: f64 = 0.03;

fn shape(head_dim: usize, window: Option<usize>) -> DecoderConfig {
    DecoderConfig {
        vocab_size: 1_003,
        hidden_size: 192,
        intermediate_size: 320,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim,
        rope_theta: 10_000.0,
        rope_factors: Vec::new(),
        sliding_window: window,
        rms_norm_eps: 1e-6,
        max_position_embeddings: 2_048,
        tie_word_embeddings: head_dim == 64,
    }
}

fn batch(lengths: &[usize], vocabulary: usize) -> PackedBatch {
    let mut batch = PackedBatch::new();
    for (seed, &length) in lengths.iter().enumerate() {
        let token = |place: usize| ((place * 7_919 + seed * 104_729 + place * place) % vocabulary) as u32;
        let tokens: Vec<u32> = (0..length).map(token).collect();
        let trained: Vec<bool> = (0..length).map(|place| place % 3 != 0).collect();
        batch.push(&tokens, &trained);
    }
    batch
}

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let size: f64 = expected.iter().map(|&b| square(b)).sum();
    (difference / size).sqrt()
}

/// Losses, gradients and, after an update, parameters.
fn results(
    device: Rc<dyn Device>,
    decoder: &Decoder,
    training: Training<'_>,
    options: PassOptions,
) -> Vec<(String, Vec<f32>)> {
    let model = DeviceModel::new(device, decoder, training).unwrap();
    let batch = batch(&[1, 65, 130, 33, 250], decoder.config().vocab_size);
    let losses = model.loss_and_gradients(&batch, TokenWeights::Equal, options).unwrap();
    let mut all = vec![("losses".to_owned(), losses)];
    let parameters: Vec<_> = model.parameters().collect();
    for &parameter in &parameters {
        all.push((format!("gradient of {}", parameter.name()), model.gradient(parameter).unwrap()));
    }
    let norms: Vec<f32> = model.squared_gradient_norms().unwrap().iter().map(|(_, norm)| norm.sqrt() as f32).collect();
    all.push(("norms".into(), norms));
    let (betas, step) = ((0.9, 0.95), 1);
    model.update(Update { betas, weight_decay: 0.1, gradient_scale: 0.01, learning_rate: 1e-3, step }).unwrap();
    for &parameter in &parameters {
        all.push((format!("updated {}", parameter.name()), model.read(parameter, State::Master).unwrap()));
    }
    all.push(("losses after".into(), model.token_losses(&batch).unwrap()));
    all
}

fn adapter(decoder: &Decoder) -> LoraAdapter {
    let mut adapter = LoraAdapter::new(LoraConfig { rank: 8, ..LoraConfig::default() }, decoder.config(), 5);
    // The second factors, too, so that gradients reach the first.
    let donor = LoraAdapter::new(LoraConfig { rank: 8, ..LoraConfig::default() }, decoder.config(), 6);
    let values: Vec<f32> = donor.parameters().flat_map(|(_, values)| values).copied().filter(|x| *x != 0.0).collect();
    let mut next = values.into_iter().cycle();
    for (_, factor) in adapter.parameters_mut() {
        if factor.iter().all(|value| *value == 0.0) {
            for value in factor.iter_mut() {
                *value = next.next().unwrap();
            }
        }
    }
    adapter
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_gpu_gives_what_the_emulation_gives() {
    let device: Rc<dyn Device> = Rc::new(Cuda::open(0).unwrap());
    println!("on {}", device.name());
    let mut worst: f64 = 0.0;
    for (head_dim, window, head_norms) in
        [(64, None, false), (128, Some(70), true), (80, None, false), (12, None, true)]
    {
        let biases = if head_norms { Vec::new() } else { LinearName::ALL[..3].to_vec() };
        let mut source = RandomWeights::new(1, &biases, head_norms);
        let decoder = Decoder::load(shape(head_dim, window), &mut source).unwrap();
        let adapter = adapter(&decoder);
        for training in [Training::Lora(&adapter), Training::Weights] {
            let lora_dropout = if matches!(training, Training::Lora(_)) && head_norms { 0.2 } else { 0.0 };
            let options = PassOptions { lora_dropout, neftune_alpha: 3.0, key: 9, ..PassOptions::default() };
            let emulation = Rc::new(Emulated::new(Precision::Bf16, false));
            let expected = results(emulation, &decoder, training, options);
            let found = results(Rc::clone(&device), &decoder, training, options);
            for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                let error = relative_error(found, expected);
                assert!(error < TOLERANCE, "heads of {head_dim}, {name}: relative error {error}");
                worst = worst.max(error);
            }
        }
    }
    println!("greatest relative error: {worst:.5}");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_gpu_gives_the_same_bits_again() {
    let device: Rc<dyn Device> = Rc::new(Cuda::open(0).unwrap());
    let mut source = RandomWeights::new(1, &[], true);
    let decoder = Decoder::load(shape(128, None), &mut source).unwrap();
    let adapter = adapter(&decoder);
    for training in [Training::Lora(&adapter), Training::Weights] {
        let stored = results(Rc::clone(&device), &decoder, training, PassOptions::default());
        let again = results(Rc::clone(&device), &decoder, training, PassOptions::default());
        assert!(stored == again);
        let recomputed = PassOptions { recompute: true, ..PassOptions::default() };
        assert!(stored == results(Rc::clone(&device), &decoder, training, recomputed), "recomputed");
    }
}
