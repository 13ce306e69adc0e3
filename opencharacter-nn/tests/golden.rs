//! Agreement with PyTorch, transformers, peft and llama.cpp on fixtures made by `cargo xtask golden`.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use candle_core::{Device, Tensor};
use opencharacter_core::Message;
use opencharacter_fixtures::{FAMILIES, embedded_model, fixture};
use opencharacter_nn::{
    Activations, Adapter, CacheFormat, CachedAttend, Decoder, DecoderConfig, GgufFile, Gradients, LinearName,
    LoraAdapter, Model, PackedAttend, PackedBatch, PassOptions, SafetensorsFolder, SequenceCache, TokenWeights,
    Trainable, WeightSource, loss_and_gradients, token_losses,
};

fn small(family: &str) -> (Decoder, LoraAdapter, HashMap<String, Tensor>) {
    let mut folder = SafetensorsFolder::open(&fixture(family)).unwrap();
    let config = folder.config().unwrap();
    let decoder = Decoder::load(config.clone(), &mut folder).unwrap();
    let adapter = LoraAdapter::load(&fixture(family).join("adapter"), &config).unwrap();
    let golden = tensors(&fixture(family).join("golden.safetensors"));
    (decoder, adapter, golden)
}

fn small_llama() -> (Decoder, LoraAdapter, HashMap<String, Tensor>) {
    small("small_llama")
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
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

fn all_rows(count: usize) -> Vec<u32> {
    (0..count as u32).collect()
}

fn logits(decoder: &Decoder, tokens: &[u32], adapter: Adapter<'_>) -> Vec<f32> {
    let mut attention = PackedAttend::new(decoder.config(), &[0, tokens.len()]);
    let positions = all_rows(tokens.len());
    let hidden = decoder.forward(tokens, &positions, adapter, &mut attention, Activations::Floats, &positions).unwrap();
    decoder.logits(&hidden, &positions, Activations::Floats).unwrap()
}

#[test]
fn every_family_has_a_fixture_and_every_fixture_a_test() {
    let folders = std::fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = folders
        .filter(|path| path.join("config.json").is_file())
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    found.sort();
    assert_eq!(found, FAMILIES);
}

#[test]
fn logits_match_pytorch_with_and_without_adapter() {
    for family in FAMILIES {
        let (decoder, adapter, golden) = small(family);
        let packed = adapter.pack();
        for index in 0..2 {
            let (tokens, _) = sequence(&golden, index);
            for (name, adapter) in [("base_logits", Adapter::Base), ("logits", Adapter::Packed(&packed))] {
                let found = logits(&decoder, &tokens, adapter);
                let error = relative_error(&found, &flat(&golden[&format!("{name}_{index}")]));
                assert!(error < 1e-5, "{family}, {name} {index}: relative error {error}");
            }
        }
    }
}

#[test]
fn gguf_gives_the_logits_of_safetensors() {
    for family in &FAMILIES[1..] {
        let (decoder, _, golden) = small(family);
        let mut file = GgufFile::open(&fixture(family).join("model.gguf")).unwrap();
        let config = file.config().unwrap();
        let expected = decoder.config();
        assert!(relative_error(&[config.rope_theta], &[expected.rope_theta]) < 1e-6, "{family}");
        assert_eq!(config.rope_factors.len(), expected.rope_factors.len(), "{family}");
        for (found, expected) in config.rope_factors.iter().zip(&expected.rope_factors) {
            assert!((found - expected).abs() < 1e-6 * expected, "{family}: {found} against {expected}");
        }
        let same = DecoderConfig { rope_factors: expected.rope_factors.clone(), ..config.clone() };
        assert_eq!(&same, expected, "{family}");
        // The files hold the same numbers, in another order and with other names.
        let from_gguf = Decoder::load(same, &mut file).unwrap();
        let with_its_own_factors = Decoder::load(config, &mut file).unwrap();
        let (tokens, _) = sequence(&golden, 0);
        let expected = logits(&decoder, &tokens, Adapter::Base);
        assert_eq!(logits(&from_gguf, &tokens, Adapter::Base), expected, "{family}");
        let error = relative_error(&logits(&with_its_own_factors, &tokens, Adapter::Base), &expected);
        assert!(error < 1e-5, "{family}: relative error {error}");
    }
}

#[test]
fn every_type_of_weights_is_what_the_gguf_package_says() {
    let mut file = GgufFile::open(&fixture("quantised.gguf")).unwrap();
    let expected = tensors(&fixture("quantised.safetensors"));
    let types = ["BF16", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"];
    assert_eq!(expected.len(), types.len());
    // A matrix of 4 x 256, whose rows have the same order everywhere.
    let config =
        DecoderConfig { hidden_size: 256, num_key_value_heads: 2, head_dim: 2, ..small_llama().0.config().clone() };
    for (layer, name) in types.into_iter().enumerate() {
        let weight = file.linear(layer, LinearName::VProj, &config).unwrap();
        let matrix = weight.pack(4, 256).unwrap();
        let (found, expected) = (matrix.to_rows(), flat(&expected[name]));
        // What has no kernel of its own is held in blocks that have one.
        match name {
            "BF16" | "Q4_0" | "Q4_1" | "Q5_0" | "Q8_0" => assert_eq!(found, expected, "{name}"),
            // Scale and offset in f16: each off by half of its last place.
            "Q4_K" => {
                let error = relative_error(&found, &expected);
                assert!(error < 1.0 / 2048.0, "{name}: relative error {error}");
            }
            // Half of one of 127 steps, and the step in f16.
            _ => {
                for (found, expected) in found.chunks(32).zip(expected.chunks(32)) {
                    let largest = expected.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
                    let mut differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
                    assert!(differences.all(|difference| difference < largest / 225.0), "{name}");
                }
            }
        }
        let floats = 16 * 256 * size_of::<f32>();
        assert_eq!(matrix.bytes() == floats, name == "BF16", "{name}: a panel of 16 rows, 4 of them filled");
    }
}

/// Sum of the losses, and gradients of the adapter.
fn lora_gradients(decoder: &Decoder, adapter: &LoraAdapter, batch: &PackedBatch, recompute: bool) -> (f64, Gradients) {
    let options = PassOptions { recompute, ..PassOptions::default() };
    let mut gradients = adapter.gradients();
    let trainable = Trainable::Lora(adapter);
    let losses = loss_and_gradients(decoder, trainable, batch, TokenWeights::Equal, options, &mut gradients).unwrap();
    (losses.iter().map(|&loss| f64::from(loss)).sum(), gradients)
}

#[test]
fn loss_and_every_adapter_gradient_match_pytorch() {
    for family in FAMILIES {
        let (decoder, adapter, golden) = small(family);
        let batch = packed(&golden);
        let (loss, gradients) = lora_gradients(&decoder, &adapter, &batch, false);
        let expected = f64::from(golden["loss"].to_vec1::<f32>().unwrap()[0]);
        assert!(((loss - expected) / expected).abs() < 1e-5, "{family}: {loss} against {expected}");
        let layers = decoder.config().num_hidden_layers;
        assert_eq!(gradients.iter().count(), layers * 7 * 2, "every trainable parameter has a gradient");
        for (parameter, gradient) in gradients.iter() {
            let name = parameter.name();
            let error = relative_error(gradient, &flat(&golden[&format!("gradient.{name}")]));
            assert!(error < 1e-4, "{family}, {name}: relative error {error}");
        }
        let losses = token_losses(&decoder, &batch, Adapter::Packed(&adapter.pack())).unwrap();
        assert_eq!(losses.len(), batch.trained().0.len());
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        assert!((sum - loss).abs() < 1e-6 * sum, "{family}");
    }
}

/// Sum of the losses, and gradients of every weight by its name in Hugging Face models, row-major.
fn weight_gradients(decoder: &mut Decoder, batch: &PackedBatch, recompute: bool) -> (f64, BTreeMap<String, Vec<f32>>) {
    let options = PassOptions { recompute, ..PassOptions::default() };
    weighted_gradients(decoder, batch, TokenWeights::Equal, options)
}

/// The same with each token's weight and all options.
fn weighted_gradients(
    decoder: &mut Decoder,
    batch: &PackedBatch,
    weights: TokenWeights<'_>,
    options: PassOptions,
) -> (f64, BTreeMap<String, Vec<f32>>) {
    decoder.thaw();
    let parameters = decoder.parameters_mut().unwrap();
    let mut gradients = Gradients::zeros(parameters.iter().map(|(parameter, values)| (*parameter, values.len())));
    let losses = loss_and_gradients(decoder, Trainable::Weights, batch, weights, options, &mut gradients).unwrap();
    // A decoder whose weights are the gradients: they have the same layout, which it knows how to undo.
    for (parameter, values) in decoder.parameters_mut().unwrap() {
        values.copy_from_slice(gradients.get(parameter).unwrap());
    }
    let mut rows = BTreeMap::new();
    rows.extend(decoder.weights().into_iter().map(|(parameter, weight)| (parameter.name(), weight.to_rows())));
    (losses.iter().map(|&loss| f64::from(loss)).sum(), rows)
}

#[test]
fn every_gradient_of_full_fine_tuning_matches_pytorch() {
    for family in &FAMILIES[1..] {
        let (mut decoder, _, golden) = small(family);
        let mut expected = tensors(&fixture(family).join("weight_gradients.safetensors"));
        let expected_loss = f64::from(flat(&expected.remove("loss").unwrap())[0]);
        let (loss, gradients) = weight_gradients(&mut decoder, &packed(&golden), false);
        assert!(((loss - expected_loss) / expected_loss).abs() < 1e-5, "{family}: {loss} against {expected_loss}");
        let names: BTreeSet<&String> = expected.keys().collect();
        assert_eq!(gradients.keys().collect::<BTreeSet<_>>(), names, "{family}: every weight has a gradient");
        for (name, gradient) in &gradients {
            let expected = flat(&expected[name]);
            let error = relative_error(gradient, &expected);
            assert!(error < 1e-4, "{family}, {name}: relative error {error}");
        }
    }
}

#[test]
fn recomputed_gradients_are_the_stored_ones() {
    let (decoder, adapter, golden) = small_llama();
    let stored = lora_gradients(&decoder, &adapter, &packed(&golden), false);
    assert_eq!(stored, lora_gradients(&decoder, &adapter, &packed(&golden), true));
    // Of every weight, too.
    for family in FAMILIES {
        let [part, all] = [false, true].map(|recompute| {
            let (mut decoder, _, golden) = small(family);
            weight_gradients(&mut decoder, &packed(&golden), recompute)
        });
        assert!(part == all, "{family}");
    }
}

/// A batch of equal weights passes in parts of whole sequences; with weights that depend on the losses it passes whole,
/// and so long a one keeps only a part of each tape.
#[test]
fn parts_of_a_batch_are_the_whole() {
    // Integer tiles round a sum over tokens once per part, chains of multiply-adds after each token.
    let tiles = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" amx_int8 "));
    let once = |losses: &[f32]| vec![1.0; losses.len()];
    for family in FAMILIES {
        let (decoder, _, _) = small(family);
        let vocabulary = decoder.config().vocab_size as u32;
        let mut batch = PackedBatch::new();
        for (index, length) in [100, 100, 100, 7, 600, 10].into_iter().enumerate() {
            let tokens: Vec<u32> = (0..length).map(|place| (place * 31 + index as u32 * 7 + 3) % vocabulary).collect();
            let trained: Vec<bool> = (0..length).map(|place| place % 5 > 1).collect();
            batch.push(&tokens, &trained);
        }
        for neftune_alpha in [0.0, 5.0] {
            let options = PassOptions { neftune_alpha, ..PassOptions::default() };
            let parts = weighted_gradients(&mut decoder.clone(), &batch, TokenWeights::Equal, options);
            let whole = weighted_gradients(&mut decoder.clone(), &batch, TokenWeights::FromLosses(&once), options);
            assert_eq!(parts.0, whole.0, "{family}, noise {neftune_alpha}: the loss");
            let tied = decoder.config().tie_word_embeddings;
            for ((name, parts), whole) in parts.1.iter().zip(whole.1.values()) {
                // Looked up and multiplied, a tied embedding is added to by the parts in turns.
                if tiles || tied && name.contains("embed_tokens") {
                    assert!(relative_error(parts, whole) < 1e-6, "{family}, {name}, noise {neftune_alpha}");
                } else {
                    assert!(parts == whole, "{family}, {name}, noise {neftune_alpha}");
                }
            }
        }
    }
}

#[test]
fn packed_equals_unpacked() {
    let (decoder, adapter, golden) = small_llama();
    let (together_loss, together) = lora_gradients(&decoder, &adapter, &packed(&golden), false);
    // The second call adds to what the first one left: accumulation over micro-batches.
    let mut gradients = adapter.gradients();
    let mut loss = 0.0;
    for index in 0..2 {
        let (tokens, trained) = sequence(&golden, index);
        let mut batch = PackedBatch::new();
        batch.push(&tokens, &trained);
        let trainable = Trainable::Lora(&adapter);
        let losses = loss_and_gradients(
            &decoder,
            trainable,
            &batch,
            TokenWeights::Equal,
            PassOptions::default(),
            &mut gradients,
        )
        .unwrap();
        loss += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
    }
    assert!((together_loss - loss).abs() < 1e-5);
    for ((parameter, together), (_, apart)) in together.iter().zip(gradients.iter()) {
        assert!(relative_error(together, apart) < 1e-5, "{}", parameter.name());
    }
}

#[test]
fn weights_of_tokens_scale_their_gradients() {
    let (decoder, adapter, golden) = small_llama();
    let batch = packed(&golden);
    let (_, once) = lora_gradients(&decoder, &adapter, &batch, false);
    let mut gradients = adapter.gradients();
    // Half of each loss, told from the losses themselves: twice their derivative is the losses' gradient.
    let halve = |losses: &[f32]| vec![0.5; losses.len()];
    let weights = TokenWeights::FromLosses(&halve);
    for _ in 0..2 {
        loss_and_gradients(
            &decoder,
            Trainable::Lora(&adapter),
            &batch,
            weights,
            PassOptions::default(),
            &mut gradients,
        )
        .unwrap();
    }
    for ((parameter, once), (_, twice)) in once.iter().zip(gradients.iter()) {
        assert!(relative_error(twice, once) < 1e-6, "{}", parameter.name());
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
        token_losses(&decoder, &batch, Adapter::Packed(&adapter.pack())).unwrap()
    };
    let before = losses(&tokens, &trained);
    tokens.extend([1, 2, 3]);
    trained.extend([false; 3]);
    assert_eq!(losses(&tokens, &trained), before);
}

/// Hidden states of one sequence fed to the cache in chunks of the given sizes.
fn cached(decoder: &Decoder, tokens: &[u32], chunks: &[usize], format: CacheFormat) -> Vec<f32> {
    let mut cache = SequenceCache::default();
    let mut out = Vec::new();
    let mut start = 0;
    for &count in chunks {
        let mut attention = CachedAttend::new(decoder.config(), format, vec![(&mut cache, count)]);
        let positions = attention.positions();
        let (part, rows) = (&tokens[start..start + count], all_rows(count));
        let hidden =
            decoder.forward(part, &positions, Adapter::Base, &mut attention, Activations::Floats, &rows).unwrap();
        attention.commit();
        out.extend(flat(&hidden));
        start += count;
    }
    out
}

#[test]
fn cached_attention_equals_packed_and_ignores_chunks() {
    for family in FAMILIES {
        let (decoder, _, golden) = small(family);
        let with_bias = ["small_llama_biases", "small_qwen2"];
        assert_eq!(decoder.has_key_bias(), with_bias.contains(&family), "{family}");
        let (mut tokens, _) = sequence(&golden, 0);
        tokens.extend_from_within(..);
        tokens.extend_from_within(..);
        tokens.truncate(46);
        let mut attention = PackedAttend::new(decoder.config(), &[0, 46]);
        let positions = all_rows(46);
        let packed = decoder
            .forward(&tokens, &positions, Adapter::Base, &mut attention, Activations::Floats, &positions)
            .unwrap();
        // Halves round keys and values by up to 2^-11, bytes by up to a 254th of the largest of a head, and each layer
        // meets what the layers before it made of that: six times as much is allowed.
        for (format, bound) in [(CacheFormat::Floats, 1e-5), (CacheFormat::Halves, 3e-3), (CacheFormat::Bytes, 2.4e-2)]
        {
            let whole = cached(&decoder, &tokens, &[46], format);
            for chunks in [vec![1; 46], vec![16, 16, 14], vec![7, 30, 9]] {
                assert_eq!(
                    cached(&decoder, &tokens, &chunks, format),
                    whole,
                    "{family}, {format:?}, chunks {chunks:?}"
                );
            }
            let error = relative_error(&whole, &flat(&packed));
            assert!(error < bound, "{family}, {format:?}: relative error {error}");
        }
    }
}

/// More than the blocks whose sums stay integers, and more than are asked for ahead.
#[test]
fn long_sequences_in_bytes_ignore_chunks() {
    for family in ["small_llama", "small_mistral"] {
        let (decoder, _, golden) = small(family);
        let tokens: Vec<u32> = sequence(&golden, 0).0.into_iter().cycle().take(1100).collect();
        let whole = cached(&decoder, &tokens, &[1100], CacheFormat::Bytes);
        let exact = cached(&decoder, &tokens, &[1100], CacheFormat::Floats);
        let error = relative_error(&whole, &exact);
        assert!(error < 2.4e-2, "{family}: relative error {error}");
        for chunks in [vec![500, 1, 1, 13, 585], vec![1099, 1]] {
            assert_eq!(cached(&decoder, &tokens, &chunks, CacheFormat::Bytes), whole, "{family}, chunks {chunks:?}");
        }
    }
}

/// Without this, the test above would pass with a window that nobody looks at.
#[test]
fn a_sliding_window_hides_what_lies_before_it() {
    let (decoder, _, golden) = small("small_mistral");
    let layers = decoder.config().num_hidden_layers;
    let reach = layers * (decoder.config().sliding_window.unwrap() - 1);
    let (mut tokens, _) = sequence(&golden, 0);
    let last = tokens.len() - 1;
    assert!(reach < last, "the window is smaller than the sequence");
    let width = decoder.config().hidden_size;
    let at_the_end =
        |tokens: &[u32]| cached(&decoder, tokens, &[tokens.len()], CacheFormat::Floats)[last * width..].to_vec();
    let before = at_the_end(&tokens);
    tokens[last - reach - 1] ^= 1;
    assert_eq!(at_the_end(&tokens), before, "one token too far away has no influence");
    tokens[last - reach] ^= 1;
    assert_ne!(at_the_end(&tokens), before, "the farthest that is seen has some");
}

#[test]
fn shared_prefix_blocks_give_the_same_bits() {
    let (decoder, _, golden) = small_llama();
    let (mut tokens, _) = sequence(&golden, 0);
    tokens.extend_from_within(..);
    let mut first = SequenceCache::default();
    let run = |cache: &mut SequenceCache, tokens: &[u32]| {
        let mut attention = CachedAttend::new(decoder.config(), CacheFormat::Floats, vec![(cache, tokens.len())]);
        let positions = attention.positions();
        let rows = all_rows(tokens.len());
        let hidden =
            decoder.forward(tokens, &positions, Adapter::Base, &mut attention, Activations::Floats, &rows).unwrap();
        attention.commit();
        flat(&hidden)
    };
    let whole = run(&mut first, &tokens);
    let mut second = SequenceCache::with_prefix(first.blocks()[..2].to_vec());
    assert_eq!(run(&mut second, &tokens[32..]), whole[32 * 32..]);
}

#[test]
fn rows_that_are_asked_for_have_the_bits_that_they_have_among_all() {
    let (decoder, adapter, golden) = small_llama();
    let (tokens, _) = sequence(&golden, 0);
    let (count, width) = (tokens.len(), decoder.config().hidden_size);
    assert!(count > 10, "parts for adapters");
    let adapter = adapter.pack();
    let parts = [(1..4, &adapter), (6..9, &adapter)];
    let run = |adapter: Adapter<'_>, rows: &[u32]| {
        let mut attention = PackedAttend::new(decoder.config(), &[0, count]);
        decoder.forward(&tokens, &all_rows(count), adapter, &mut attention, Activations::Floats, rows)
    };
    let last = count as u32 - 1;
    for adapter in [Adapter::Base, Adapter::Packed(&adapter), Adapter::Rows(&parts)] {
        let whole = flat(&run(adapter, &all_rows(count)).unwrap());
        for rows in [vec![], vec![last], vec![4, 5], vec![0, 2, 3, 4, 7, 8, last]] {
            let left = rows.iter().flat_map(|&row| &whole[row as usize * width..][..width]).copied();
            assert_eq!(flat(&run(adapter, &rows).unwrap()), left.collect::<Vec<_>>(), "{adapter:?}, rows {rows:?}");
        }
    }
    assert!(run(Adapter::Base, &[2, 1]).unwrap_err().to_string().contains("ascending"));
}

#[test]
fn a_saved_adapter_is_read_back_bit_for_bit() {
    let (decoder, adapter, _) = small_llama();
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), "base").unwrap();
    let again = LoraAdapter::load(folder.path(), decoder.config()).unwrap();
    assert_eq!(again, adapter);
}

#[derive(serde::Deserialize)]
struct Embedded {
    text_tokens: Vec<Vec<u32>>,
    messages: Vec<Message>,
    rendered: String,
    rendered_without_system: String,
    tokens: Vec<u32>,
    last_logits: Vec<f32>,
    next_token_log_probs: Vec<f32>,
}

fn embedded() -> (Model, Embedded) {
    let model = Model::load(&embedded_model()).unwrap();
    let golden = serde_json::from_str(&std::fs::read_to_string(fixture("embedded.json")).unwrap()).unwrap();
    (model, golden)
}

#[test]
fn embedded_model_agrees_with_transformers_and_llama_cpp() {
    let (model, golden) = embedded();
    let texts = std::fs::read_to_string(fixture("mixed_text.json")).unwrap();
    let texts: Vec<String> = serde_json::from_str(&texts).unwrap();
    assert_eq!((texts.len(), golden.text_tokens.len()), (260, 260));
    for (text, expected) in texts.iter().zip(&golden.text_tokens) {
        assert_eq!(&model.tokenizer.encode(text), expected, "{text:?}");
        assert_eq!(&model.tokenizer.decode(expected), text);
    }
    assert_eq!(model.template.render(&golden.messages, true).unwrap(), golden.rendered);
    assert_eq!(model.template.render(&golden.messages[1..2], true).unwrap(), golden.rendered_without_system);
    assert_eq!(model.tokenizer.encode(&golden.rendered), golden.tokens);

    let found = logits(&model.decoder, &golden.tokens, Adapter::Base);
    let vocabulary = model.decoder.config().vocab_size;
    let last = &found[found.len() - vocabulary..];
    let error = relative_error(&last[..golden.last_logits.len()], &golden.last_logits);
    assert!(error < 1e-4, "last logits: relative error {error}");

    let mut batch = PackedBatch::new();
    batch.push(&golden.tokens, &vec![true; golden.tokens.len()]);
    let losses = token_losses(&model.decoder, &batch, Adapter::Base).unwrap();
    for (place, (loss, expected)) in losses.iter().zip(&golden.next_token_log_probs).enumerate() {
        assert!((loss + expected).abs() < 2e-3, "token {place}: {loss} against {}", -expected);
    }
}

#[test]
fn conversation_marks_exactly_the_answers() {
    let (model, golden) = embedded();
    let mut messages = golden.messages.clone();
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
