//! Model files that must be refused with one clear message.

#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    io::BufWriter,
    path::Path,
};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{Value, write},
    },
};
use opencharacter_fixtures::{embedded_model, fixture};
use opencharacter_nn::{
    Decoder, DecoderConfig, GgufFile, LoraAdapter, LoraConfig, Model, NnError, SafetensorsFolder, Tokenizer,
};

/// A GGUF of the given architecture with one tensor and, where asked for, what a tokenizer needs first.
fn gguf(path: &Path, architecture: &str) {
    gguf_with(path, architecture, &[]);
}

/// The same with more metadata.
fn gguf_with(path: &Path, architecture: &str, more: &[(&str, Value)]) {
    let number = |value: u32| Value::U32(value);
    let embedding = Tensor::zeros((32, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
    let embedding = QTensor::quantize(&embedding, GgmlDType::F32).unwrap();
    let metadata = [
        ("general.architecture", Value::String(architecture.into())),
        ("llama.block_count", number(1)),
        ("llama.context_length", number(64)),
        ("llama.embedding_length", number(32)),
        ("llama.feed_forward_length", number(64)),
        ("llama.attention.head_count", number(4)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().chain(more).map(|(key, value)| (*key, value)).collect();
    let mut file = BufWriter::new(File::create(path).unwrap());
    write(&mut file, &metadata, &[("token_embd.weight", &embedding)]).unwrap();
}

fn refusal(path: &Path) -> String {
    let error = Model::load(path).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "the message names the file: {error}");
    assert_eq!(error.lines().count(), 1, "one line: {error}");
    error
}

#[test]
fn an_unknown_architecture_is_named_with_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mamba.gguf");
    gguf(&path, "mamba");
    let error = refusal(&path);
    assert!(error.contains("unknown architecture `mamba`") && error.contains("llama"), "{error}");
}

#[test]
fn a_gguf_without_tokenizer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bare.gguf");
    gguf(&path, "llama");
    let error = refusal(&path);
    assert!(error.contains("tokenizer.ggml.model") && error.contains("tokenizer"), "{error}");
}

#[test]
fn an_unknown_pre_tokenizer_is_named_with_the_known_ones() {
    let source = fixture("tokenizers/qwen2.gguf");
    let bytes = fs::read(source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    // Values of the same length, so that the file around them stays as it is.
    for (value, other, part) in [
        (&b"qwen2"[..], &b"qwen9"[..], "pre-tokenizer `qwen9` is not implemented; known: `llama` (SentencePiece)"),
        (b"gpt2", b"bert", "tokenizer `bert`"),
    ] {
        let place = bytes.windows(value.len()).position(|window| window == value).unwrap();
        let mut changed = bytes.clone();
        changed[place..place + value.len()].copy_from_slice(other);
        fs::write(&path, &changed).unwrap();
        let error = Tokenizer::from_gguf(&GgufFile::open(&path).unwrap()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("`llama-bpe`"), "{error}");
    }
}

#[test]
fn a_gguf_with_unknown_rope_scaling_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("yarn.gguf");
    gguf_with(&path, "llama", &[("llama.rope.scaling.type", Value::String("yarn".into()))]);
    let error = refusal(&path);
    assert!(error.contains("RoPE scaling `yarn`") && error.contains("llama3"), "{error}");
}

#[test]
fn a_type_of_weights_that_cannot_be_read_is_named_with_those_that_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf(&path, "llama");
    let mut bytes = fs::read(&path).unwrap();
    let name = b"token_embd.weight";
    // After the name: the number of dimensions, two of them, and the type.
    let place = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 2 * 8;
    for (number, name) in [(20_u32, "`IQ4_NL`"), (23, "`IQ4_XS`"), (39, "`MXFP4`"), (99, "number 99")] {
        bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let error = refusal(&path);
        assert!(error.contains(&format!("of type {name}")) && error.contains("Q8_0"), "{error}");
        assert!(!error.contains("fetch the file again"), "{error}");
    }
}

#[test]
fn what_is_no_gguf_or_cut_short_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf(&path, "llama");
    let whole = fs::read(&path).unwrap();
    for length in [0, 3, 8, 20, 60, 150] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = refusal(&path);
        assert!(error.contains("GGUF header"), "{length} bytes: {error}");
    }
    fs::write(&path, b"<html>404 Not Found</html> and some more of that page").unwrap();
    assert!(refusal(&path).contains("GGUF header"));
    // Any byte of the header damaged: refused or read, but never a panic.
    for place in 0..200 {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x5A;
        fs::write(&path, &damaged).unwrap();
        let _ = Model::load(&path);
    }
}

#[test]
fn the_embedded_model_cut_in_its_weights_is_refused() {
    let bytes = fs::read(embedded_model()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = refusal(&path);
    assert!(error.contains("cut short or damaged"), "{error}");
}

/// A copy of the small Qwen3, which lies in two shards, to be spoilt.
fn sharded_model() -> tempfile::TempDir {
    let source = fixture("small_qwen3");
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

/// What opening and loading the folder's weights says, after a change to one of its JSON files.
fn weights_refusal(folder: &Path, file: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let path = folder.join(file);
    let mut json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
    let load = || {
        let mut folder = SafetensorsFolder::open(folder)?;
        Decoder::load(folder.config()?, &mut folder)
    };
    let error = load().unwrap_err().to_string();
    assert!(error.contains(&folder.display().to_string()), "the message names the file: {error}");
    error
}

#[test]
fn a_missing_shard_is_named() {
    let folder = sharded_model();
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    let error = weights_refusal(folder.path(), "config.json", |_| {});
    assert!(error.contains("shard `model-00002-of-00002.safetensors` is missing"), "{error}");
}

#[test]
fn an_index_reads_its_own_files_and_no_others() {
    let folder = sharded_model();
    // Were it read, its tensors would be one model too many.
    fs::write(folder.path().join("consolidated.safetensors"), b"no safetensors").unwrap();
    let mut weights = SafetensorsFolder::open(folder.path()).unwrap();
    assert_eq!(weights.files().len(), 2);
    Decoder::load(weights.config().unwrap(), &mut weights).unwrap();
    let index = "model.safetensors.index.json";
    let error = weights_refusal(folder.path(), index, |json| json["weight_map"]["x"] = "../x.safetensors".into());
    assert!(error.contains("names no file for tensor `x`"), "{error}");
    let error = weights_refusal(folder.path(), index, |json| json["weight_map"] = serde_json::Value::Null);
    assert!(error.contains("`weight_map` is missing"), "{error}");
}

#[test]
fn missing_and_unexpected_tensors_are_named() {
    let folder = sharded_model();
    let error = weights_refusal(folder.path(), "config.json", |json| json["attention_bias"] = true.into());
    assert!(error.contains("tensor `model.layers.0.self_attn.q_proj.bias` is missing"), "{error}");
    let error = weights_refusal(folder.path(), "config.json", |json| {
        json["attention_bias"] = false.into();
        json["num_hidden_layers"] = 1.into();
    });
    assert!(error.contains("tensor `model.layers.1.") && error.contains("has no place"), "{error}");
    let error = weights_refusal(folder.path(), "config.json", |json| {
        json["num_hidden_layers"] = 2.into();
        json["model_type"] = "llama".into();
    });
    assert!(error.contains("k_norm") && error.contains("no place in a `llama` model"), "{error}");
    let error = weights_refusal(folder.path(), "config.json", |json| {
        json["rope_parameters"] = serde_json::json!({"rope_type": "yarn", "factor": 4.0});
    });
    assert!(error.contains("RoPE scaling `yarn`") && error.contains("llama3"), "{error}");
}

/// An adapter of the small Llama in a folder of its own.
fn small_adapter() -> (tempfile::TempDir, DecoderConfig) {
    let small = fixture("small_llama");
    let config = SafetensorsFolder::open(&small).unwrap().config().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    LoraAdapter::new(lora, &config, 0).save(folder.path(), "small").unwrap();
    (folder, config)
}

fn adapter_refusal(folder: &Path, config: &DecoderConfig) -> String {
    let error = LoraAdapter::load(folder, config).unwrap_err();
    assert!(matches!(error, NnError::Adapter { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn an_adapter_of_another_model_names_the_first_mismatch() {
    let (folder, config) = small_adapter();
    let narrower = DecoderConfig { hidden_size: 16, ..config.clone() };
    assert_ne!(narrower.hidden_size, config.hidden_size);
    let error = adapter_refusal(folder.path(), &narrower);
    assert!(error.contains("layers.0.self_attn.q_proj.lora_A") && error.contains("expected [4, 16]"), "{error}");
    let layers = config.num_hidden_layers;
    let deeper = DecoderConfig { num_hidden_layers: layers + 1, ..config.clone() };
    let error = adapter_refusal(folder.path(), &deeper);
    assert!(error.contains(&format!("layers.{layers}.self_attn.q_proj.lora_A.weight` is missing")), "{error}");
    let shallower = DecoderConfig { num_hidden_layers: layers - 1, ..config };
    let error = adapter_refusal(folder.path(), &shallower);
    assert!(error.contains(&format!("layers.{}.", layers - 1)) && error.contains("no layer of this model"), "{error}");
}

#[test]
fn an_adapter_that_is_not_plain_lora_is_refused_by_the_setting() {
    let (folder, config) = small_adapter();
    let path = folder.path().join("adapter_config.json");
    let written: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let set = |name: &str, value: serde_json::Value| {
        let mut json = written.clone();
        json[name] = value;
        fs::write(&path, json.to_string()).unwrap();
    };
    let refused = [
        ("peft_type", "IA3".into()),
        ("bias", "all".into()),
        ("use_dora", true.into()),
        ("fan_in_fan_out", true.into()),
        ("rank_pattern", serde_json::json!({"q_proj": 8})),
        ("alpha_pattern", serde_json::json!({"q_proj": 8})),
        ("alora_invocation_tokens", serde_json::json!([5, 6])),
        ("init_lora_weights", "pissa".into()),
        ("r", 0.into()),
        ("target_modules", serde_json::json!(["q_proj", "lm_head"])),
    ];
    for (name, value) in refused {
        set(name, value);
        let error = adapter_refusal(folder.path(), &config);
        let named = match name {
            "r" => "lora.rank",
            "target_modules" => "lm_head",
            name => name,
        };
        assert!(error.contains(named), "`{name}`: {error}");
    }
    // What PEFT writes for a plain adapter.
    let plain = [
        ("rank_pattern", serde_json::json!({})),
        ("alpha_pattern", serde_json::Value::Null),
        ("init_lora_weights", true.into()),
        ("init_lora_weights", "gaussian".into()),
    ];
    for (name, value) in plain {
        set(name, value);
        LoraAdapter::load(folder.path(), &config).unwrap_or_else(|error| panic!("`{name}`: {error}"));
    }
}

#[test]
fn an_adapter_cut_short_is_refused() {
    let (folder, config) = small_adapter();
    let path = folder.path().join("adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = adapter_refusal(folder.path(), &config);
        assert!(error.contains("`adapter_model.safetensors` cannot be read"), "{length} bytes: {error}");
    }
}
