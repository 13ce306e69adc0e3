//! Every family that the readers know, through every format: the small models that PyTorch made, with the tokenizers
//! of the fixtures, and variants of them.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{DType, Device, Tensor, quantized::gguf_file};
use opencharacter_fixtures::fixture;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{Activations, LinearName, PackedAttend, Parameter, Tokenizer};

/// Rows of the embedding: more than any of the tokenizers has tokens.
const VOCABULARY: usize = 800;
/// Rows of the fixtures' embeddings, on which PyTorch's logits are known.
const GOLDEN: usize = 64;
const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}\
    {{ message['content'] + eos_token }}{% else %}[{{ message['role'] }}] {{ message['content'] }}:{% endif %}\
    {% endfor %}";

/// A small model of one family with a tokenizer, as a folder.
struct Source {
    folder: TempDir,
    family: &'static str,
    /// Whether PyTorch's logits for the fixture are still those of this model.
    golden: bool,
}

impl Source {
    /// The fixture `family` with the tokenizer of the fixture `tokenizer`, and rows added to its embedding and head.
    fn new(family: &'static str, tokenizer: &str) -> Self {
        let source = Self { folder: tempfile::tempdir().unwrap(), family, golden: true };
        let mut config = folder::read_json(&fixture(family).join("config.json")).unwrap();
        config["vocab_size"] = VOCABULARY.into();
        config["bos_token_id"] = 1.into();
        config["eos_token_id"] = 2.into();
        source.write("config.json", &config.to_string());
        source.write("chat_template.jinja", TEMPLATE);
        let (tokenizer, adds_begin) = tokenizer_json(tokenizer);
        source.write("tokenizer.json", &tokenizer);
        let settings = json!({ "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": adds_begin });
        source.write("tokenizer_config.json", &settings.to_string());
        let files = fs::read_dir(fixture(family)).unwrap().map(|entry| entry.unwrap().path());
        let weights = files.filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("model") && name.ends_with(".safetensors")
        });
        let mut tensors = HashMap::new();
        weights.for_each(|path| tensors.extend(candle_core::safetensors::load(path, &Device::Cpu).unwrap()));
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            let Some(rows) = tensors.remove(name) else { continue };
            let rows = rows.to_dtype(DType::F32).unwrap();
            let scaled = (0..VOCABULARY.div_ceil(GOLDEN)).map(|part| (&rows / (part as f64 + 1.0)).unwrap());
            let all = Tensor::cat(&scaled.collect::<Vec<_>>(), 0).unwrap().narrow(0, 0, VOCABULARY).unwrap();
            tensors.insert(name.to_owned(), all.contiguous().unwrap());
        }
        source.write_tensors(&tensors);
        source
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn write_tensors(&self, tensors: &HashMap<String, Tensor>) {
        candle_core::safetensors::save(tensors, self.folder.path().join("model.safetensors")).unwrap();
    }

    fn with_config(mut self, key: &str, value: Value) -> Self {
        let mut config = folder::read_json(&self.folder.path().join("config.json")).unwrap();
        config[key] = value;
        self.write("config.json", &config.to_string());
        self.golden = false;
        self
    }

    fn with_tensors(mut self, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> Self {
        let path = self.folder.path().join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        change(&mut tensors);
        self.write_tensors(&tensors);
        self.golden = false;
        self
    }

    /// A bias for each of these linear layers.
    fn with_biases(self, names: &[LinearName]) -> Self {
        let config = Model::load(self.folder.path()).unwrap().decoder.config().clone();
        self.with_tensors(|tensors| {
            for (layer, &name) in
                (0..config.num_hidden_layers).flat_map(|layer| names.iter().map(move |name| (layer, name)))
            {
                let outputs = name.shape(&config).0;
                let values: Vec<f32> =
                    (0..outputs).map(|place| ((place * 7 + layer) % 11) as f32 / 10.0 - 0.4).collect();
                let bias = Tensor::from_vec(values, outputs, &Device::Cpu).unwrap();
                tensors.insert(Parameter::Bias(layer, name).name(), bias);
            }
        })
    }

    fn model(&self) -> Model {
        Model::load(self.folder.path()).unwrap()
    }
}

/// The `tokenizer.json` of a fixture, and whether a text begins with `<s>`.
fn tokenizer_json(name: &str) -> (String, bool) {
    if name == "sentencepiece" {
        return (fs::read_to_string(fixture("tokenizers/sentencepiece/tokenizer.json")).unwrap(), true);
    }
    let file = GgufFile::open(&fixture(&format!("tokenizers/{name}.gguf"))).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    (tokenizer.inner().to_string(false).unwrap(), tokenizer.adds_begin_of_text())
}

/// All families and what tells members of a family apart.
fn sources() -> Vec<(&'static str, Source)> {
    let untied = |tensors: &mut HashMap<String, Tensor>| {
        let head = (&tensors["model.embed_tokens.weight"] * 0.5).unwrap();
        tensors.insert("lm_head.weight".into(), head);
    };
    let linear = json!({ "rope_type": "linear", "rope_theta": 20_000.0, "factor": 2.5 });
    vec![
        ("Llama 2", Source::new("small_llama2", "sentencepiece")),
        ("SmolLM, tied", {
            let source = Source::new("small_llama", "gpt-2").with_config("tie_word_embeddings", true.into());
            source.with_tensors(|tensors| drop(tensors.remove("lm_head.weight")))
        }),
        ("Llama with biases and linear scaling", Source::new("small_llama_biases", "default")),
        ("Llama 3", Source::new("small_llama3", "llama-bpe")),
        ("Mistral", Source::new("small_mistral", "sentencepiece")),
        ("Mistral without a window", {
            Source::new("small_mistral", "sentencepiece").with_config("sliding_window", Value::Null)
        }),
        ("Qwen2", Source::new("small_qwen2", "qwen2")),
        ("Qwen2, untied, with a window and linear scaling", {
            let source = Source::new("small_qwen2", "qwen2").with_tensors(untied);
            let source = source.with_config("tie_word_embeddings", false.into()).with_config("rope_parameters", linear);
            source
                .with_config("use_sliding_window", true.into())
                .with_config("sliding_window", 6.into())
                .with_config("max_window_layers", 0.into())
                .with_config("layer_types", Value::Null)
        }),
        ("Qwen3", Source::new("small_qwen3", "qwen2")),
    ]
}

fn export<'a>(model: &'a Model, adapter: Option<&'a LoraAdapter>, weight_type: WeightType) -> Export<'a> {
    Export { model, decoder: &model.decoder, adapter, weight_type }
}

fn to_gguf(export: &Export<'_>, folder: &Path) -> Model {
    let path = folder.join("model.gguf");
    export_gguf(Destination::file(&path).unwrap(), export).unwrap();
    Model::load(&path).unwrap()
}

fn to_folder(export: &Export<'_>, folder: &Path) -> Model {
    let path = folder.join("model");
    save_model_folder(Destination::folder(&path).unwrap(), export).unwrap();
    Model::load(&path).unwrap()
}

/// `[tokens, vocabulary]`, on the fixture's first sequence.
fn logits(decoder: &Decoder, family: &str) -> Vec<Vec<f32>> {
    let golden = candle_core::safetensors::load(fixture(family).join("golden.safetensors"), &Device::Cpu).unwrap();
    let tokens = golden["tokens_0"].to_vec1::<i64>().unwrap();
    let tokens: Vec<u32> = tokens.into_iter().map(|token| token as u32).collect();
    let positions: Vec<u32> = (0..tokens.len() as u32).collect();
    let mut attention = PackedAttend::new(decoder.config(), &[0, tokens.len()]);
    let base = crate::Adapter::Base;
    let hidden = decoder.forward(&tokens, &positions, base, &mut attention, Activations::Floats, &positions).unwrap();
    decoder.logits(&hidden, &positions, Activations::Floats).unwrap().chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

/// Relative error of the logits against those of transformers, or of peft where there is an adapter.
fn difference_from_pytorch(decoder: &Decoder, family: &str, name: &str) -> f64 {
    let golden = candle_core::safetensors::load(fixture(family).join("golden.safetensors"), &Device::Cpu).unwrap();
    let expected = golden[name].to_vec2::<f32>().unwrap().concat();
    let found: Vec<f32> = logits(decoder, family).iter().flat_map(|row| row[..GOLDEN].to_vec()).collect();
    gate::relative_error(&found, &expected)
}

fn assert_same_tokens(found: &Tokenizer, expected: &Tokenizer, name: &str) {
    let texts = fs::read_to_string(fixture("mixed_text.json")).unwrap();
    for text in serde_json::from_str::<Vec<String>>(&texts).unwrap() {
        assert_eq!(found.encode(&text), expected.encode(&text), "{name}: {text:?}");
        assert_eq!(found.encode_after(&[], &text), expected.encode_after(&[], &text), "{name}: {text:?}");
        assert_eq!(found.encode_after(&[70], &text), expected.encode_after(&[70], &text), "{name}: {text:?}");
    }
    for token in 0..expected.vocabulary_size() as u32 {
        assert_eq!(found.token_bytes(token), expected.token_bytes(token), "{name}: token {token}");
        assert_eq!(found.is_special(token), expected.is_special(token), "{name}: token {token}");
    }
}

fn assert_same_weights(found: &Decoder, expected: &Decoder, name: &str) {
    let (found, expected) = (found.weights(), expected.weights());
    assert_eq!(found.len(), expected.len(), "{name}");
    for ((parameter, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found.to_rows() == expected.to_rows(), "{name}: {}", parameter.name());
    }
}

#[test]
fn every_family_goes_through_every_format_unchanged() {
    for (name, source) in sources() {
        let out = tempfile::tempdir().unwrap();
        let model = source.model();
        let expected = logits(&model.decoder, source.family);
        let gguf = to_gguf(&export(&model, None, WeightType::F32), out.path());
        assert_eq!(gguf.decoder.config(), model.decoder.config(), "{name}");
        assert_same_weights(&gguf.decoder, &model.decoder, name);
        assert!(logits(&gguf.decoder, source.family) == expected, "{name}: every bit");
        assert_same_tokens(&gguf.tokenizer, &model.tokenizer, name);

        let folder = to_folder(&export(&gguf, None, WeightType::F32), out.path());
        assert_same_weights(&folder.decoder, &model.decoder, name);
        assert_same_tokens(&folder.tokenizer, &model.tokenizer, name);
        let found = logits(&folder.decoder, source.family);
        assert!(found == expected, "{name}: every bit");
        // A folder's configuration is Mistral's or Llama's where GGUF has one name for both; the numbers are the same.
        assert_eq!(folder.decoder.config(), model.decoder.config(), "{name}");

        let again = tempfile::tempdir().unwrap();
        to_gguf(&export(&folder, None, WeightType::F32), again.path());
        to_gguf(&export(&gguf, None, WeightType::F32), &again.path().join("from-gguf"));
        let read = |path: &Path| fs::read(path.join("model.gguf")).unwrap();
        assert!(read(&again.path().join("from-gguf")) == read(out.path()), "{name}: the same file from itself");
        let copied = to_folder(&export(&model, None, WeightType::F32), again.path());
        assert!(logits(&copied.decoder, source.family) == expected, "{name}: every bit");
    }
}

#[test]
fn every_family_is_merged_as_peft_merges_it() {
    for (name, source) in sources().into_iter().filter(|(_, source)| source.golden) {
        let model = source.model();
        assert!(difference_from_pytorch(&model.decoder, source.family, "base_logits_0") < 1e-5, "{name}");
        let adapter = LoraAdapter::load(&fixture(source.family).join("adapter"), model.decoder.config()).unwrap();
        // Rows of 24 and 12 weights are no whole blocks, so that some of the `q8_0` files is f16.
        for (weight_type, bound) in [(WeightType::F32, 1e-5), (WeightType::F16, 1e-2), (WeightType::Q8_0, 0.15)] {
            let out = tempfile::tempdir().unwrap();
            let gguf = to_gguf(&export(&model, Some(&adapter), weight_type), out.path());
            let difference = difference_from_pytorch(&gguf.decoder, source.family, "logits_0");
            assert!(difference < bound, "{name}, {weight_type:?}: {difference}");
        }
        for (weight_type, bound) in [(WeightType::F32, 1e-5), (WeightType::F16, 1e-2), (WeightType::Bf16, 5e-2)] {
            let out = tempfile::tempdir().unwrap();
            let folder = to_folder(&export(&model, Some(&adapter), weight_type), out.path());
            let difference = difference_from_pytorch(&folder.decoder, source.family, "logits_0");
            assert!(difference < bound, "{name}, {weight_type:?}: {difference}");
        }
    }
}

#[test]
fn files_are_those_of_llama_cpps_converter() {
    let read = |path: &Path| {
        let mut file = fs::File::open(path).unwrap();
        let content = gguf_file::Content::read(&mut file).unwrap();
        let tensors: BTreeMap<String, Vec<u8>> = content
            .tensor_infos
            .keys()
            .map(|name| {
                (name.clone(), content.tensor(&mut file, name, &Device::Cpu).unwrap().data().unwrap().into_owned())
            })
            .collect();
        (content.metadata, tensors)
    };
    for (family, tokenizer) in [
        ("small_llama2", "sentencepiece"),
        ("small_llama3", "llama-bpe"),
        ("small_llama_biases", "default"),
        ("small_mistral", "sentencepiece"),
        ("small_qwen2", "qwen2"),
        ("small_qwen3", "qwen2"),
    ] {
        let out = tempfile::tempdir().unwrap();
        let source = Source::new(family, tokenizer);
        to_gguf(&export(&source.model(), None, WeightType::F16), out.path());
        let (metadata, tensors) = read(&out.path().join("model.gguf"));
        let (expected_metadata, expected) = read(&fixture(family).join("model.gguf"));
        assert_eq!(tensors.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{family}");
        for (name, expected) in &expected {
            let found = &tensors[name];
            if name == "rope_freqs.weight" {
                let factors = |bytes: &[u8]| {
                    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>()
                };
                assert!(crate::rope_scaling::same_factors(&factors(found), &factors(expected)), "{family}");
            } else {
                // Rows were added to the embedding and the head.
                assert!(found.starts_with(expected), "{family}: {name}");
                assert!(found.len() == expected.len() || found.len() == expected.len() / GOLDEN * VOCABULARY, "{name}");
            }
        }
        for (key, expected) in expected_metadata.iter().filter(|(key, _)| !key.ends_with(".vocab_size")) {
            let text = |value: &gguf_file::Value| format!("{value:?}");
            assert_eq!(metadata.get(key).map(text), Some(text(expected)), "{family}: {key}");
        }
        let string = |key: &str| metadata[key].to_string().unwrap().clone();
        let kind = if tokenizer == "sentencepiece" { ("llama", "default") } else { ("gpt2", tokenizer) };
        assert_eq!((&*string("tokenizer.ggml.model"), &*string("tokenizer.ggml.pre")), kind);
    }
}

#[test]
fn what_a_format_cannot_say_is_refused() {
    let to_gguf = |source: &Source| {
        let out = tempfile::tempdir().unwrap();
        let destination = Destination::file(&out.path().join("model.gguf")).unwrap();
        export_gguf(destination, &export(&source.model(), None, WeightType::F16)).unwrap_err().to_string()
    };
    let llama3 = folder::read_json(&fixture("small_llama3").join("config.json")).unwrap()["rope_parameters"].clone();
    let attention = [LinearName::QProj, LinearName::KProj, LinearName::VProj, LinearName::OProj];
    let tokenizer = |change: fn(&mut Value)| {
        let source = Source::new("small_mistral", "sentencepiece");
        let mut json = folder::read_json(&source.folder.path().join("tokenizer.json")).unwrap();
        change(&mut json);
        source.write("tokenizer.json", &json.to_string());
        source
    };
    for (source, part) in [
        (Source::new("small_qwen3", "qwen2").with_config("rope_parameters", llama3), "`llama` models alone"),
        (
            Source::new("small_qwen3", "qwen2").with_biases(&attention).with_config("attention_bias", true.into()),
            "no place for `model.layers.0.self_attn.o_proj.bias`",
        ),
        (tokenizer(|json| json["added_tokens"][1]["lstrip"] = true.into()), "token \"<s>\" has the rule `lstrip`"),
        (tokenizer(|json| json["model"]["ignore_merges"] = true.into()), "`ignore_merges`"),
        (
            tokenizer(|json| {
                json["normalizer"] = Value::Null;
                json["pre_tokenizer"] =
                    json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
            }),
            "rule `first`",
        ),
        (
            // One of two ways to make a token is gone.
            tokenizer(|json| {
                let merges = json["model"]["merges"].as_array_mut().unwrap();
                let token = |merge: &Value| merge[0].as_str().unwrap().to_owned() + merge[1].as_str().unwrap();
                let place = merges.windows(2).position(|pair| token(&pair[0]) == token(&pair[1])).unwrap();
                merges.remove(place);
            }),
            "not in the order of scores",
        ),
    ] {
        let text = to_gguf(&source);
        assert!(text.contains(part), "{text}");
    }

    // A GGUF whose factors no `config.json` can name.
    let mut unusual =
        folder::read_json(&fixture("small_llama3").join("config.json")).unwrap()["rope_parameters"].clone();
    unusual["high_freq_factor"] = 9.0.into();
    let source = Source::new("small_llama3", "llama-bpe").with_config("rope_parameters", unusual);
    let out = tempfile::tempdir().unwrap();
    let gguf = self::to_gguf(&export(&source.model(), None, WeightType::F32), out.path());
    let destination = Destination::folder(&out.path().join("model")).unwrap();
    let text = save_model_folder(destination, &export(&gguf, None, WeightType::F32)).unwrap_err().to_string();
    assert!(text.contains("neither linear nor those of Llama 3.1"), "{text}");
}
