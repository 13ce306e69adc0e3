//! The kernels' own source, run by the emulation, against opencharacter-nn, which is held to PyTorch.

#![cfg(feature = "emulated")]
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, rc::Rc};

use candle_core::Device as CandleDevice;
use opencharacter_core::KeyedRandom;
use opencharacter_cuda::{Device, DeviceModel, Emulated, Precision, State, Training, Update};
use opencharacter_fixtures::{FAMILIES, fixture};
use opencharacter_nn::{
    Adapter, Decoder, DecoderConfig, Gradients, LinearName, LoraAdapter, LoraConfig, PackedBatch, Parameter,
    PassOptions, RandomWeights, SafetensorsFolder, TokenWeights, Trainable, loss_and_gradients, token_losses,
};

fn small(family: &str) -> (Decoder, LoraAdapter) {
    let mut folder = SafetensorsFolder::open(&fixture(family)).unwrap();
    let config = folder.config().unwrap();
    let decoder = Decoder::load(config.clone(), &mut folder).unwrap();
    let adapter = LoraAdapter::load(&fixture(family).join("adapter"), &config).unwrap();
    (decoder, adapter)
}

/// The two sequences that PyTorch has seen.
fn golden_batch(family: &str) -> PackedBatch {
    let golden =
        candle_core::safetensors::load(fixture(family).join("golden.safetensors"), &CandleDevice::Cpu).unwrap();
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
        let tokens: Vec<u32> =
            (0..length).map(|place| ((place * 37 + seed * 11 + place * place) % 64) as u32).collect();
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

/// What is asked of an agreement.
#[derive(Clone, Copy)]
enum Agreement {
    /// f32: every gradient for itself, but for the order of sums.
    Exact,
    /// bf16: greatest relative errors of the losses, and of all gradients taken together.
    Rounded { losses: f64, gradients: f64 },
}

impl Agreement {
    fn precision(self) -> Precision {
        match self {
            Self::Exact => Precision::F32,
            Self::Rounded { .. } => Precision::Bf16,
        }
    }

    fn check(self, what: &str, found: &Pass, expected: &Pass) {
        assert_eq!(found.1.keys().collect::<Vec<_>>(), expected.1.keys().collect::<Vec<_>>(), "{what}");
        match self {
            Self::Exact => {
                assert_close(&format!("{what}: losses"), &found.0, &expected.0, 1e-5);
                for (parameter, expected) in &expected.1 {
                    assert_close(&format!("{what}: {}", parameter.name()), &found.1[parameter], expected, 1e-4);
                }
            }
            Self::Rounded { losses, gradients } => {
                let all = |pass: &Pass| pass.1.values().flatten().copied().collect::<Vec<f32>>();
                let (all_found, all_expected) = (all(found), all(expected));
                println!("{what}: losses {}", relative_error(&found.0, &expected.0));
                println!("{what}: gradients {}", relative_error(&all_found, &all_expected));
                assert_close(&format!("{what}: losses"), &found.0, &expected.0, losses);
                assert_close(&format!("{what}: gradients"), &all_found, &all_expected, gradients);
                // A gradient that got lost, or has another scale, is further off, however small its share of all.
                for (parameter, expected) in &expected.1 {
                    assert_close(&format!("{what}: {}", parameter.name()), &found.1[parameter], expected, 0.5);
                }
            }
        }
    }
}

/// Losses, and each trained parameter's gradient, row-major.
type Pass = (Vec<f32>, BTreeMap<Parameter, Vec<f32>>);

/// What the kernels give.
fn emulated(
    precision: Precision,
    decoder: &Decoder,
    training: Training<'_>,
    batch: &PackedBatch,
    options: PassOptions,
) -> Pass {
    let model = DeviceModel::new(emulation(precision), decoder, training).unwrap();
    let losses = model.loss_and_gradients(batch, TokenWeights::Equal, options).unwrap();
    (losses, model.parameters().map(|parameter| (parameter, model.gradient(parameter).unwrap())).collect())
}

/// Losses and gradients of an adapter: on the CPU, and from the kernels.
fn compare_adapter(
    what: &str,
    (decoder, adapter): (&Decoder, &LoraAdapter),
    batch: &PackedBatch,
    options: PassOptions,
    agreement: Agreement,
) {
    let mut gradients = adapter.gradients();
    let trainable = Trainable::Lora(adapter);
    let losses = loss_and_gradients(decoder, trainable, batch, TokenWeights::Equal, options, &mut gradients).unwrap();
    let gradients = gradients.iter().map(|(parameter, gradient)| (parameter, gradient.to_vec())).collect();
    let found = emulated(agreement.precision(), decoder, Training::Lora(adapter), batch, options);
    agreement.check(&format!("{what}, adapter"), &found, &(losses, gradients));
}

/// Sum of the losses, and gradients of every weight, row-major.
fn weight_gradients(decoder: &Decoder, batch: &PackedBatch) -> Pass {
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

fn compare_weights(what: &str, decoder: &Decoder, batch: &PackedBatch, agreement: Agreement) {
    let expected = weight_gradients(decoder, batch);
    let found = emulated(agreement.precision(), decoder, Training::Weights, batch, PassOptions::default());
    agreement.check(&format!("{what}, weights"), &found, &expected);
}

#[test]
fn losses_and_adapter_gradients_are_those_of_the_cpu() {
    for family in FAMILIES {
        let (decoder, adapter) = small(family);
        let agreement = Agreement::Exact;
        compare_adapter(family, (&decoder, &adapter), &golden_batch(family), PassOptions::default(), agreement);
    }
}

#[test]
fn every_gradient_of_full_fine_tuning_is_that_of_the_cpu() {
    for family in FAMILIES {
        let (decoder, _) = small(family);
        compare_weights(family, &decoder, &golden_batch(family), Agreement::Exact);
    }
}

/// A random model of a shape that no fixture has.
fn random(shape: DecoderConfig, biases: &[LinearName], has_head_norms: bool) -> (Decoder, LoraAdapter) {
    let mut source = RandomWeights::new(3, biases, has_head_norms);
    let decoder = Decoder::load(shape, &mut source).unwrap();
    (decoder.clone(), full_adapter(&decoder, LoraConfig { rank: 3, ..LoraConfig::default() }))
}

/// An adapter whose second factors are not zero.
fn full_adapter(decoder: &Decoder, config: LoraConfig) -> LoraAdapter {
    let mut adapter = LoraAdapter::new(config, decoder.config(), 5);
    for (parameter, values) in adapter.parameters_mut() {
        if matches!(parameter, Parameter::LoraB(..)) {
            let mut random = KeyedRandom::new(1, &[&parameter.name()]);
            for value in values {
                *value = 0.1 * random.normal() as f32;
            }
        }
    }
    adapter
}

fn shape(family: &str) -> DecoderConfig {
    DecoderConfig { num_hidden_layers: 2, ..small(family).0.config().clone() }
}

#[test]
fn sequences_of_any_length_do_not_see_each_other() {
    // Around the tiles of 64 queries and 32 keys.
    let lengths = [1, 2, 31, 32, 33, 63, 64, 65, 96, 130];
    for (family, window) in [("small_llama3", None), ("small_mistral", Some(5)), ("small_mistral", Some(33))] {
        let config = DecoderConfig { sliding_window: window, ..shape(family) };
        let (decoder, adapter) = random(config, &[], false);
        let agreement = Agreement::Exact;
        let what = format!("{family}, window {window:?}");
        compare_adapter(&what, (&decoder, &adapter), &batch(&lengths), PassOptions::default(), agreement);
    }
}

#[test]
fn wide_rows_and_heads_are_shared_out_among_many_threads() {
    let config = DecoderConfig {
        vocab_size: 5_003,
        hidden_size: 1_032,
        intermediate_size: 40,
        num_hidden_layers: 1,
        num_attention_heads: 3,
        num_key_value_heads: 1,
        head_dim: 80,
        ..shape("small_qwen3")
    };
    let (decoder, adapter) = random(config, &LinearName::ALL, true);
    let batch = batch(&[70, 3]);
    compare_adapter("wide", (&decoder, &adapter), &batch, PassOptions::default(), Agreement::Exact);
    compare_weights("wide", &decoder, &batch, Agreement::Exact);
}

#[test]
fn an_adapter_on_some_layers_leaves_the_others() {
    let (decoder, _) = small("small_qwen2");
    let targets = vec![LinearName::QProj, LinearName::VProj, LinearName::UpProj];
    let adapter = full_adapter(&decoder, LoraConfig { rank: 5, targets, ..LoraConfig::default() });
    let agreement = Agreement::Exact;
    compare_adapter("some layers", (&decoder, &adapter), &batch(&[40, 9]), PassOptions::default(), agreement);
}

#[test]
fn dropout_and_noise_are_those_of_the_cpu() {
    let options = PassOptions { neftune_alpha: 5.0, lora_dropout: 0.25, key: 77, ..PassOptions::default() };
    for family in ["small_llama", "small_qwen2"] {
        let (decoder, adapter) = small(family);
        let agreement = Agreement::Exact;
        compare_adapter(family, (&decoder, &adapter), &batch(&[40, 9]), options, agreement);
    }
}

/// Gradients by the given emulation, as bits.
fn gradient_bits(device: Rc<dyn Device>, family: &str, training_weights: bool, recompute: bool) -> Vec<u32> {
    let (decoder, adapter) = small(family);
    let training = if training_weights { Training::Weights } else { Training::Lora(&adapter) };
    let model = DeviceModel::new(device, &decoder, training).unwrap();
    let options = PassOptions { recompute, ..PassOptions::default() };
    let mut all = model.loss_and_gradients(&batch(&[40, 9]), TokenWeights::Equal, options).unwrap();
    for parameter in model.parameters().collect::<Vec<_>>() {
        all.extend(model.gradient(parameter).unwrap());
    }
    all.into_iter().map(f32::to_bits).collect()
}

/// A kernel that lacks a barrier depends on the order in which a block's threads run.
#[test]
fn the_order_of_threads_changes_no_bit() {
    for precision in [Precision::F32, Precision::Bf16] {
        for training_weights in [false, true] {
            let [forward, reversed] = [false, true].map(|reversed| {
                gradient_bits(Rc::new(Emulated::new(precision, reversed)), "small_qwen3", training_weights, false)
            });
            assert!(forward == reversed, "{precision:?}, all weights: {training_weights}");
        }
    }
}

#[test]
fn recomputed_gradients_are_the_stored_ones() {
    for family in ["small_llama", "small_qwen3"] {
        let [stored, recomputed] =
            [false, true].map(|recompute| gradient_bits(emulation(Precision::Bf16), family, false, recompute));
        assert!(stored == recomputed, "{family}");
    }
}

/// How far PyTorch's bf16 is from its own f32 on these models and sequences, over all gradients together: of the
/// adapter, and of all weights (torch 2.15, transformers 5.23, peft, eager attention). Its losses are off by up to 0.017.
const PYTORCH_BF16: [[f64; 2]; 7] = [
    [0.0944, 0.0810],
    [0.0544, 0.0212],
    [0.0504, 0.0687],
    [0.0573, 0.0598],
    [0.0415, 0.0562],
    [0.0483, 0.0560],
    [0.0252, 0.0272],
];

/// With the rounding that a GPU's arithmetic has. Two programs that round alike, but not at the same places, differ by
/// chance: this finds a wrong scale or a lost bit, not a little more noise.
#[test]
fn bf16_costs_about_what_it_costs_pytorch() {
    for (family, pytorch) in FAMILIES.into_iter().zip(PYTORCH_BF16) {
        let (decoder, adapter) = small(family);
        let batch = golden_batch(family);
        let [of_adapter, of_weights] =
            pytorch.map(|error| Agreement::Rounded { losses: 0.017, gradients: 1.5 * error });
        compare_adapter(family, (&decoder, &adapter), &batch, PassOptions::default(), of_adapter);
        compare_weights(family, &decoder, &batch, of_weights);
    }
}

#[test]
fn losses_without_gradients_and_gradients_of_batches_add_up() {
    let (decoder, adapter) = small("small_llama");
    let model = DeviceModel::new(emulation(Precision::F32), &decoder, Training::Lora(&adapter)).unwrap();
    let (first, second) = (batch(&[17]), batch(&[30, 5, 66]));
    let mut expected = adapter.gradients();
    for batch in [&first, &second] {
        let losses = token_losses(&decoder, batch, Adapter::Packed(&adapter.pack())).unwrap();
        assert_close("losses", &model.token_losses(batch).unwrap(), &losses, 1e-5);
        let trainable = Trainable::Lora(&adapter);
        let options = PassOptions::default();
        // Half of each loss, told from the losses.
        let halve = |losses: &[f32]| vec![0.5; losses.len()];
        let weights = TokenWeights::FromLosses(&halve);
        loss_and_gradients(&decoder, trainable, batch, weights, options, &mut expected).unwrap();
        model.loss_and_gradients(batch, weights, options).unwrap();
    }
    let mut norm = 0.0;
    for (parameter, expected) in expected.iter() {
        assert_close(&parameter.name(), &model.gradient(parameter).unwrap(), expected, 1e-4);
        norm += expected.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
    }
    let norms = model.squared_gradient_norms().unwrap();
    assert_eq!(norms.len(), model.parameters().count());
    let found: f64 = norms.iter().map(|(_, norm)| norm).sum();
    assert!((found - norm).abs() < 1e-4 * norm, "{found} against {norm}");
    model.clear_gradients().unwrap();
    assert!(model.squared_gradient_norms().unwrap().iter().all(|(_, norm)| *norm == 0.0));
}

/// Three steps of `AdamW` as its authors write it, in f64.
#[test]
fn updates_are_adamw_and_reach_the_next_pass() {
    let (decoder, adapter) = small("small_qwen2");
    let batch = batch(&[40, 9]);
    let trainings = [Training::Lora(&adapter), Training::Weights];
    // In bf16 too: what is updated is the f32 master, and rounding it would be off by far more than is allowed here.
    for (training, precision) in trainings.into_iter().flat_map(|of| [(of, Precision::F32), (of, Precision::Bf16)]) {
        let model = DeviceModel::new(emulation(precision), &decoder, training).unwrap();
        let parameters: Vec<Parameter> = model.parameters().collect();
        let read = |model: &DeviceModel, parameter, state| model.read(parameter, state).unwrap();
        let mut states: Vec<_> = parameters
            .iter()
            .map(|&parameter| {
                let values: Vec<f64> = read(&model, parameter, State::Master).into_iter().map(f64::from).collect();
                let zeros = vec![0.0; values.len()];
                (values, zeros.clone(), zeros)
            })
            .collect();
        let mut losses = Vec::new();
        for step in 1..=3 {
            model.clear_gradients().unwrap();
            losses.push(model.loss_and_gradients(&batch, TokenWeights::Equal, PassOptions::default()).unwrap());
            let (betas, learning_rate, weight_decay, gradient_scale) = ((0.9, 0.95), 1e-2, 0.1, 0.25);
            for (&parameter, (values, first, second)) in parameters.iter().zip(&mut states) {
                let decay = if parameter.decays() { weight_decay } else { 0.0 };
                let gradient = model.gradient(parameter).unwrap();
                for (place, gradient) in gradient.into_iter().enumerate() {
                    let gradient = f64::from(gradient) * gradient_scale;
                    first[place] = betas.0 * first[place] + (1.0 - betas.0) * gradient;
                    second[place] = betas.1 * second[place] + (1.0 - betas.1) * gradient * gradient;
                    let mean = first[place] / (1.0 - f64::powi(betas.0, step));
                    let square = second[place] / (1.0 - f64::powi(betas.1, step));
                    values[place] -= learning_rate * (mean / (square.sqrt() + 1e-8) + decay * values[place]);
                }
            }
            let step = step as usize;
            model.update(Update { betas, weight_decay, gradient_scale, learning_rate, step }).unwrap();
        }
        for (&parameter, (values, first, second)) in parameters.iter().zip(&states) {
            for (state, expected) in [(State::Master, values), (State::First, first), (State::Second, second)] {
                let expected: Vec<f32> = expected.iter().map(|&value| value as f32).collect();
                let found = read(&model, parameter, state);
                // Some gradients are rounding alone, and their sign then decides a whole step.
                let same = found == expected;
                assert!(same || relative_error(&found, &expected) < 1e-4, "{}: {state:?}", parameter.name());
            }
        }
        assert!(losses[2].iter().sum::<f32>() < losses[0].iter().sum::<f32>(), "the working copies follow");
    }
}

#[test]
fn written_parameters_are_read_back_and_used() {
    let (decoder, adapter) = small("small_llama");
    let fresh = LoraAdapter::new(adapter.config().clone(), decoder.config(), 9);
    let model = DeviceModel::new(emulation(Precision::F32), &decoder, Training::Lora(&fresh)).unwrap();
    model.write(adapter.parameters().map(|(parameter, values)| (parameter, State::Master, values))).unwrap();
    for (parameter, values) in adapter.parameters() {
        assert_eq!(model.read(parameter, State::Master).unwrap(), values);
    }
    let expected = token_losses(&decoder, &batch(&[20]), Adapter::Packed(&adapter.pack())).unwrap();
    assert_close("losses", &model.token_losses(&batch(&[20])).unwrap(), &expected, 1e-5);
    let error = model.write([(Parameter::FinalNorm, State::Master, &[1.0][..])]).unwrap_err();
    assert!(error.to_string().contains("model.norm.weight"), "{error}");
}

#[test]
fn every_kernel_is_run_by_these_tests() {
    let source = include_str!("../kernels/kernels.cu");
    let listed = source.lines().filter_map(|line| line.trim_start().strip_prefix("KERNEL(")?.split(',').next());
    let device = Rc::new(Emulated::new(Precision::F32, false));
    let narrow = random(shape("small_qwen2"), &LinearName::ALL, false);
    let wide = random(DecoderConfig { head_dim: 66, ..shape("small_qwen3") }, &[], true);
    for (decoder, adapter) in [narrow, wide] {
        for training in [Training::Lora(&adapter), Training::Weights] {
            let model = DeviceModel::new(device.clone(), &decoder, training).unwrap();
            let options = PassOptions { lora_dropout: 0.1, ..PassOptions::default() };
            model.loss_and_gradients(&batch(&[4]), TokenWeights::Equal, options).unwrap();
            model.squared_gradient_norms().unwrap();
            let (betas, step) = ((0.9, 0.95), 1);
            let update = Update { betas, weight_decay: 0.0, gradient_scale: 1.0, learning_rate: 1e-3, step };
            model.update(update).unwrap();
        }
    }
    assert_eq!(device.launched(), listed.map(str::to_owned).collect());
}
