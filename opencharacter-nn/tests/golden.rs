//! Agreement with PyTorch, transformers, peft and llama.cpp on fixtures made by `cargo xtask golden`.

#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use candle_core::{Device, Tensor};
use opencharacter_core::Message;
use opencharacter_nn::{
    Adapter, CachedAttend, Decoder, LoraAdapter, Model, PackedAttend, PackedBatch, SafetensorsFolder, SequenceCache,
    loss_and_gradients, token_losses,
};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn small_llama() -> (Decoder, LoraAdapter, HashMap<String, Tensor>) {
    let mut folder = SafetensorsFolder::open(&data("small_llama")).unwrap();
    let config = folder.config().unwrap();
    let decoder = Decoder::load(config.clone(), &mut folder).unwrap();
    let adapter = LoraAdapter::load(&data("small_llama/adapter"), &config).unwrap();
    let golden = candle_core::safetensors::load(data("small_llama/golden.safetensors"), &Device::Cpu).unwrap();
    (decoder, adapter, golden)
}

fn integers(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec1::<i64>().unwrap().into_iter().map(|value| value as u32).collect()
}

fn sequence(golden: &HashMap<String, Tensor>, index: usize) -> (Vec<u32>, Vec<bool>) {
    let tokens = integers(&golden[&format!("tokens_{index}")]);
    let trained = integers(&golden[&format!("trained_{index}")]).into_iter().map(|mark| mark == 1).collect();
    (tokens, trained)
}

fn packed(golden: &HashMap<String, Tensor>) -> PackedBatch {
    let mut batch = PackedBatch::new();
    for index in 0..2 {
        let (tokens, trained) = sequence(golden, index);
        batch.push(&tokens, &trained);
    }
    batch
}

/// `|found - expected| / |expected|` over all elements.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let size: f64 = expected.iter().map(|&b| square(b)).sum();
    (difference / size).sqrt()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

fn logits(decoder: &Decoder, tokens: &[u32], adapter: Adapter<'_>) -> Vec<f32> {
    let mut attention =
        PackedAttend { head_dim: decoder.config().head_dim, cumulative_lengths: Arc::new(vec![0, tokens.len()]) };
    let positions = Arc::new((0..tokens.len() as u32).collect());
    let hidden = decoder.forward(tokens, &positions, adapter, &mut attention).unwrap();
    decoder.logits(&hidden).unwrap()
}

#[test]
fn logits_match_pytorch_with_and_without_adapter() {
    let (decoder, adapter, golden) = small_llama();
    let packed_adapter = adapter.pack().unwrap();
    for index in 0..2 {
        let (tokens, _) = sequence(&golden, index);
        let base = logits(&decoder, &tokens, Adapter::Base);
        assert!(relative_error(&base, &flat(&golden[&format!("base_logits_{index}")])) < 1e-5);
        let tuned = logits(&decoder, &tokens, adapter.trainable());
        assert!(relative_error(&tuned, &flat(&golden[&format!("logits_{index}")])) < 1e-5);
        // The form used for generation gives the very same bits.
        assert_eq!(logits(&decoder, &tokens, Adapter::Packed(&packed_adapter)), tuned);
    }
}

#[test]
fn loss_and_every_gradient_match_pytorch() {
    let (decoder, adapter, golden) = small_llama();
    let batch = packed(&golden);
    let result = loss_and_gradients(&decoder, &adapter, &batch, false).unwrap();
    let expected = f64::from(golden["loss"].to_vec1::<f32>().unwrap()[0]);
    assert!(((result.loss_sum - expected) / expected).abs() < 1e-5, "{} against {expected}", result.loss_sum);
    let variables = adapter.variables();
    assert_eq!(variables.len(), 3 * 7 * 2);
    assert_eq!(result.gradients.len(), variables.len(), "every trainable parameter receives a gradient");
    for ((name, _), gradient) in variables.iter().zip(&result.gradients) {
        let error = relative_error(&flat(gradient), &flat(&golden[&format!("gradient.{name}")]));
        assert!(error < 1e-4, "{name}: relative error {error}");
    }
    let losses = token_losses(&decoder, &batch, adapter.trainable()).unwrap();
    assert_eq!(losses.len(), result.trained_tokens);
    let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
    assert!((sum - result.loss_sum).abs() < 1e-6 * sum);
}

#[test]
fn recomputed_gradients_are_the_stored_ones() {
    let (decoder, adapter, golden) = small_llama();
    let stored = loss_and_gradients(&decoder, &adapter, &packed(&golden), false).unwrap();
    let recomputed = loss_and_gradients(&decoder, &adapter, &packed(&golden), true).unwrap();
    assert_eq!(stored.loss_sum, recomputed.loss_sum);
    for (stored, recomputed) in stored.gradients.iter().zip(&recomputed.gradients) {
        assert_eq!(flat(stored), flat(recomputed));
    }
}

#[test]
fn packed_equals_unpacked() {
    let (decoder, adapter, golden) = small_llama();
    let together = loss_and_gradients(&decoder, &adapter, &packed(&golden), false).unwrap();
    let alone: Vec<_> = (0..2)
        .map(|index| {
            let (tokens, trained) = sequence(&golden, index);
            let mut batch = PackedBatch::new();
            batch.push(&tokens, &trained);
            loss_and_gradients(&decoder, &adapter, &batch, false).unwrap()
        })
        .collect();
    assert!((together.loss_sum - alone[0].loss_sum - alone[1].loss_sum).abs() < 1e-5);
    for (index, gradient) in together.gradients.iter().enumerate() {
        let sum = flat(&(&alone[0].gradients[index] + &alone[1].gradients[index]).unwrap());
        assert!(relative_error(&flat(gradient), &sum) < 1e-5);
    }
}

#[test]
fn untrained_tokens_have_no_influence_after_the_last_trained_one() {
    let (decoder, adapter, golden) = small_llama();
    let (mut tokens, mut trained) = sequence(&golden, 0);
    let last = trained.iter().rposition(|trained| *trained).unwrap();
    trained.truncate(last + 1);
    tokens.truncate(last + 1);
    let losses = |tokens: &[u32], trained: &[bool]| {
        let mut batch = PackedBatch::new();
        batch.push(tokens, trained);
        token_losses(&decoder, &batch, adapter.trainable()).unwrap()
    };
    let before = losses(&tokens, &trained);
    tokens.extend([1, 2, 3]);
    trained.extend([false; 3]);
    assert_eq!(losses(&tokens, &trained), before);
}

/// Hidden states of one sequence fed to the cache in chunks of the given sizes.
fn cached(decoder: &Decoder, tokens: &[u32], chunks: &[usize]) -> Vec<f32> {
    let mut cache = SequenceCache::default();
    let mut out = Vec::new();
    let mut start = 0;
    for &count in chunks {
        let mut attention = CachedAttend::new(decoder.config(), vec![(&mut cache, count)]);
        let positions = Arc::new(attention.positions());
        let hidden = decoder.forward(&tokens[start..start + count], &positions, Adapter::Base, &mut attention).unwrap();
        attention.commit();
        out.extend(flat(&hidden));
        start += count;
    }
    out
}

#[test]
fn cached_attention_equals_packed_and_ignores_chunks() {
    let (decoder, _, golden) = small_llama();
    let (mut tokens, _) = sequence(&golden, 0);
    tokens.extend_from_within(..);
    let whole = cached(&decoder, &tokens, &[46]);
    for chunks in [vec![1; 46], vec![16, 16, 14], vec![7, 30, 9]] {
        assert_eq!(cached(&decoder, &tokens, &chunks), whole, "chunks {chunks:?}");
    }
    let mut attention = PackedAttend { head_dim: 8, cumulative_lengths: Arc::new(vec![0, 46]) };
    let packed = decoder.forward(&tokens, &Arc::new((0..46).collect()), Adapter::Base, &mut attention).unwrap();
    assert!(relative_error(&whole, &flat(&packed)) < 1e-5);
}

#[test]
fn shared_prefix_blocks_give_the_same_bits() {
    let (decoder, _, golden) = small_llama();
    let (mut tokens, _) = sequence(&golden, 0);
    tokens.extend_from_within(..);
    let mut first = SequenceCache::default();
    let run = |cache: &mut SequenceCache, tokens: &[u32]| {
        let mut attention = CachedAttend::new(decoder.config(), vec![(cache, tokens.len())]);
        let positions = Arc::new(attention.positions());
        let hidden = decoder.forward(tokens, &positions, Adapter::Base, &mut attention).unwrap();
        attention.commit();
        flat(&hidden)
    };
    let whole = run(&mut first, &tokens);
    let mut second = SequenceCache::with_prefix(first.blocks()[..2].to_vec());
    assert_eq!(run(&mut second, &tokens[32..]), whole[32 * 32..]);
}

#[test]
fn a_saved_adapter_is_read_back_bit_for_bit() {
    let (decoder, adapter, _) = small_llama();
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), "base").unwrap();
    let again = LoraAdapter::load(folder.path(), decoder.config()).unwrap();
    for ((name, before), (_, after)) in adapter.variables().iter().zip(again.variables()) {
        assert_eq!(flat(before), flat(after), "{name}");
    }
}

#[derive(serde::Deserialize)]
struct Embedded {
    line_tokens: Vec<Vec<u32>>,
    messages: Vec<Message>,
    rendered: String,
    rendered_without_system: String,
    tokens: Vec<u32>,
    last_logits: Vec<f32>,
    next_token_log_probs: Vec<f32>,
}

fn embedded() -> (Model, Embedded) {
    let path = std::env::var("OPENCHARACTER_TEST_MODEL").map_or_else(
        |_| {
            let home = std::env::var("HOME").unwrap_or_default();
            PathBuf::from(home).join(".cache/opencharacter/models/SmolLM2-135M-Instruct.Q4_1.gguf")
        },
        PathBuf::from,
    );
    let model = Model::load(&path).unwrap_or_else(|error| panic!("{error}; `cargo xtask test` fetches the model"));
    let fixture = serde_json::from_str(&std::fs::read_to_string(data("embedded.json")).unwrap()).unwrap();
    (model, fixture)
}

#[test]
fn embedded_model_agrees_with_transformers_and_llama_cpp() {
    let (model, fixture) = embedded();
    let text = std::fs::read_to_string(data("mixed_text.txt")).unwrap();
    let lines: Vec<&str> = text.trim_end_matches('\n').split('\n').collect();
    assert_eq!(lines.len(), 200);
    for (number, (line, expected)) in lines.iter().zip(&fixture.line_tokens).enumerate() {
        assert_eq!(&model.tokenizer.encode(line), expected, "line {}: {line:?}", number + 1);
        assert_eq!(&model.tokenizer.decode(expected), line, "line {}", number + 1);
    }
    assert_eq!(model.template.render(&fixture.messages, true).unwrap(), fixture.rendered);
    assert_eq!(model.template.render(&fixture.messages[1..2], true).unwrap(), fixture.rendered_without_system);
    assert_eq!(model.tokenizer.encode(&fixture.rendered), fixture.tokens);

    let found = logits(&model.decoder, &fixture.tokens, Adapter::Base);
    let vocabulary = model.decoder.config().vocab_size;
    let last = &found[found.len() - vocabulary..];
    let error = relative_error(&last[..fixture.last_logits.len()], &fixture.last_logits);
    assert!(error < 1e-4, "last logits: relative error {error}");

    let mut batch = PackedBatch::new();
    batch.push(&fixture.tokens, &vec![true; fixture.tokens.len()]);
    let losses = token_losses(&model.decoder, &batch, Adapter::Base).unwrap();
    for (place, (loss, expected)) in losses.iter().zip(&fixture.next_token_log_probs).enumerate() {
        assert!((loss + expected).abs() < 2e-3, "token {place}: {loss} against {}", -expected);
    }
}

#[test]
fn conversation_marks_exactly_the_answers() {
    let (model, fixture) = embedded();
    let mut messages = fixture.messages.clone();
    messages.push(Message::assistant("It burns."));
    let conversation = model.template.encode_conversation(&messages, &model.tokenizer).unwrap();
    let marked: Vec<u32> = conversation
        .tokens
        .iter()
        .zip(&conversation.trained)
        .filter(|(_, trained)| **trained)
        .map(|(token, _)| *token)
        .collect();
    let mut expected = model.tokenizer.encode("It took my brother.<|im_end|>");
    expected.extend(model.tokenizer.encode("It burns.<|im_end|>"));
    assert_eq!(marked, expected);
    let rendered = model.template.render(&messages, false).unwrap();
    assert_eq!(conversation.tokens, model.tokenizer.encode(&rendered));
}
