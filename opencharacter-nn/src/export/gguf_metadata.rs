//! What a GGUF file says beside its tensors, by llama.cpp's names.

use std::{collections::HashSet, path::Path};

use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;

use super::{Export, WeightType, turn_end};
use crate::{
    GgufFile, LinearName, NnError, Parameter, Tokenizer,
    architecture::Architecture,
    tokenizer::{SentencePieceRules, is_byte_token, pre_tokenizer_name},
};

/// All metadata, architecture first: that of a GGUF source as it is, else made from the folder's files.
pub(super) fn metadata(export: &Export<'_>, out: &Path) -> Result<Vec<(String, Value)>, NnError> {
    let architecture = export.architecture()?;
    refuse_unsayable(export, architecture).map_err(|reason| export.refusal(out, &reason))?;
    let mut metadata = if export.model.path.is_dir() {
        let mut metadata = model_metadata(export, architecture);
        metadata.extend(tokenizer_metadata(export).map_err(|reason| export.refusal(out, &reason))?);
        metadata
    } else {
        let source = GgufFile::open(&export.model.path)?;
        let carried = source.all_metadata().filter(|(key, value)| is_carried(key, value));
        carried.map(|(key, value)| (key.to_owned(), value.clone())).collect()
    };
    if let Some(factor) = linear_factor(&export.decoder.config().rope_factors) {
        let key = |name: &str| format!("{}.rope.scaling.{name}", architecture.gguf_name());
        metadata.push((key("type"), Value::String("linear".into())));
        metadata.push((key("factor"), Value::F32(factor)));
    }
    let file_type: u32 = match export.weight_type {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q8_0 => 7,
        WeightType::Bf16 => 32,
    };
    metadata.push(("general.file_type".into(), Value::U32(file_type)));
    metadata.push(("general.quantization_version".into(), Value::U32(2)));
    // llama.cpp's reader wants the architecture before what is named after it.
    metadata.sort_by(|(left, _), (right, _)| {
        let rank = |key: &str| (key != "general.architecture", key.starts_with("tokenizer."), key.to_owned());
        rank(left).cmp(&rank(right))
    });
    Ok(metadata)
}

/// The one factor of linear `RoPE` scaling, which GGUF has in its metadata; other factors are a tensor.
pub(super) fn linear_factor(factors: &[f32]) -> Option<f32> {
    let first = factors.first().copied();
    first.filter(|first| factors.iter().all(|factor| factor == first))
}

/// The place for further architectures, with [`model_metadata`]: what llama.cpp's model of a family has no tensor or
/// key for must be refused here, or it would leave it out in silence.
fn refuse_unsayable(export: &Export<'_>, architecture: Architecture) -> Result<(), String> {
    let config = export.decoder.config();
    let name = architecture.name();
    if !matches!(architecture, Architecture::Llama | Architecture::Mistral) {
        if linear_factor(&config.rope_factors).is_none() && !config.rope_factors.is_empty() {
            return Err(format!(
                "llama.cpp scales RoPE by a list of factors in `llama` models alone, and this is `{name}`; use a folder"
            ));
        }
        let biased = |(parameter, _): &(Parameter, _)| match parameter {
            Parameter::Bias(_, LinearName::QProj | LinearName::KProj | LinearName::VProj) => None,
            Parameter::Bias(..) => Some(parameter.name()),
            _ => None,
        };
        if let Some(bias) = export.decoder.weights().iter().find_map(biased) {
            return Err(format!("llama.cpp's `{name}` models have no place for `{bias}`; use a folder"));
        }
    }
    if architecture == Architecture::Qwen2 && config.query_size() != config.hidden_size {
        let (heads, width, hidden) = (config.num_attention_heads, config.head_dim, config.hidden_size);
        return Err(format!(
            "its {heads} heads of width {width} are not its hidden size of {hidden}, which llama.cpp's `{name}` models \
             take for granted; use a folder"
        ));
    }
    Ok(())
}

/// What describes the source file rather than the model stays behind, and so does an empty array, whose type is lost.
/// `RoPE` scaling is written anew.
fn is_carried(key: &str, value: &Value) -> bool {
    let of_the_file = matches!(key, "general.file_type" | "general.quantization_version" | "general.alignment")
        || key.starts_with("split.")
        || key.starts_with("quantize.");
    let of_scaling = key.contains(".rope.scaling.") || key.ends_with(".rope.scale_linear");
    !of_the_file && !of_scaling && !matches!(value, Value::Array(values) if values.is_empty())
}

/// `general.*` and the architecture's own numbers, of a model that came from a folder.
fn model_metadata(export: &Export<'_>, architecture: Architecture) -> Vec<(String, Value)> {
    let config = export.decoder.config();
    let architecture = architecture.gguf_name();
    let name = export.model.path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy());
    let integers = [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_hidden_layers),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ];
    let window = config.sliding_window.map(|window| ("attention.sliding_window", window));
    let floats = [("attention.layer_norm_rms_epsilon", config.rms_norm_eps), ("rope.freq_base", config.rope_theta)];
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        ("general.type".to_owned(), Value::String("model".into())),
        ("general.name".to_owned(), Value::String(name.into_owned())),
    ];
    let key = |name: &str| format!("{architecture}.{name}");
    metadata.extend(integers.into_iter().chain(window).map(|(name, value)| (key(name), Value::U32(value as u32))));
    metadata.extend(floats.map(|(name, value)| (key(name), Value::F32(value))));
    metadata
}

/// `tokenizer.*`, of a tokenizer that came from a `tokenizer.json`.
fn tokenizer_metadata(export: &Export<'_>) -> Result<Vec<(String, Value)>, String> {
    let tokenizer = &export.model.tokenizer;
    let json = tokenizer.inner().to_string(false).map_err(|error| format!("its tokenizer: {error}"))?;
    let json: Json = serde_json::from_str(&json).map_err(|error| format!("its tokenizer: {error}"))?;
    let size = export.decoder.config().vocab_size;
    if tokenizer.vocabulary_size() > size {
        let tokens = tokenizer.vocabulary_size();
        return Err(format!("its tokenizer has {tokens} tokens, its embedding only {size} rows"));
    }
    refuse_wide_tokens(&json)?;
    let names = token_names(tokenizer, size);
    let (mut metadata, unknown) = if tokenizer.is_sentence_piece() {
        let unknown = json["model"]["unk_token"].as_str().and_then(|name| tokenizer.inner().token_to_id(name));
        (sentence_piece(tokenizer, &json, &names, unknown)?, unknown)
    } else {
        (byte_level(&json)?, None)
    };
    metadata.extend([
        ("tokenizer.ggml.token_type", array(&token_types(tokenizer, &names, unknown), Value::I32)),
        ("tokenizer.ggml.tokens", Value::Array(names.into_iter().map(Value::String).collect())),
        ("tokenizer.ggml.add_bos_token", Value::Bool(tokenizer.adds_begin_of_text())),
        ("tokenizer.chat_template", Value::String(export.model.template.source().to_owned())),
    ]);
    // `eos` is what a chat must stop at; llama.cpp finds further ends of generation by their names.
    let end_of_turn = turn_end(export.model);
    let ids = [
        ("tokenizer.ggml.bos_token_id", tokenizer.begin_of_text()),
        ("tokenizer.ggml.eos_token_id", end_of_turn),
        ("tokenizer.ggml.eot_token_id", end_of_turn),
        ("tokenizer.ggml.unknown_token_id", unknown),
    ];
    metadata.extend(ids.into_iter().filter_map(|(key, id)| Some((key, Value::U32(id?)))));
    Ok(metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

type Entries = Vec<(&'static str, Value)>;

/// Byte-level BPE: a name for how text is cut into words, and the merges.
fn byte_level(json: &Json) -> Result<Entries, String> {
    let pre = pre_tokenizer_name(json)
        .ok_or("its tokenizer cuts text in a way that has no known name in GGUF; use a folder")?;
    Ok(vec![
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String(pre.into())),
        ("tokenizer.ggml.merges", array(&merges(json), Value::String)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
    ])
}

/// SentencePiece: scores in place of merges.
fn sentence_piece(
    tokenizer: &Tokenizer,
    json: &Json,
    names: &[String],
    unknown: Option<u32>,
) -> Result<Entries, String> {
    let fixed: HashSet<u32> = tokenizer.inner().get_added_tokens_decoder().into_keys().chain(unknown).collect();
    let rules = SentencePieceRules::of(json, names, &fixed)
        .map_err(|reason| format!("GGUF cannot say what its SentencePiece tokenizer does: {reason}; use a folder"))?;
    Ok(vec![
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.pre", Value::String("default".into())),
        ("tokenizer.ggml.scores", array(&rules.scores, Value::F32)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(rules.adds_space)),
    ])
}

/// Tokens that take the space around them, or stand only between words, have no name in GGUF.
fn refuse_wide_tokens(json: &Json) -> Result<(), String> {
    let tokens = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let wide = |token: &Json| ["lstrip", "rstrip", "single_word"].into_iter().find(|rule| token[*rule] == true);
    match tokens.iter().find_map(|token| Some((token, wide(token)?))) {
        None => Ok(()),
        Some((token, rule)) => Err(format!(
            "its token {} has the rule `{rule}`, for which GGUF has no place; use a folder",
            token["content"]
        )),
    }
}

fn array<T: Clone>(values: &[T], value: impl Fn(T) -> Value) -> Value {
    Value::Array(values.iter().cloned().map(value).collect())
}

/// The names of all `size` tokens, as many as the embedding has rows.
fn token_names(tokenizer: &Tokenizer, size: usize) -> Vec<String> {
    let name = |id: u32| tokenizer.inner().id_to_token(id).unwrap_or_else(|| format!("[PAD{id}]"));
    (0..size as u32).map(name).collect()
}

fn token_types(tokenizer: &Tokenizer, names: &[String], unknown: Option<u32>) -> Vec<i32> {
    const NORMAL: i32 = 1;
    const UNKNOWN: i32 = 2;
    const CONTROL: i32 = 3;
    const USER_DEFINED: i32 = 4;
    const UNUSED: i32 = 5;
    const BYTE: i32 = 6;
    let added = tokenizer.inner().get_added_tokens_decoder();
    let spells_bytes = tokenizer.is_sentence_piece();
    (0..)
        .zip(names)
        .map(|(id, name)| match id {
            id if tokenizer.inner().id_to_token(id).is_none() => UNUSED,
            id if Some(id) == unknown => UNKNOWN,
            id if tokenizer.is_special(id) => CONTROL,
            id if added.contains_key(&id) => USER_DEFINED,
            _ if spells_bytes && is_byte_token(name) => BYTE,
            _ => NORMAL,
        })
        .collect()
}

/// `left right` for each pair of tokens that become one. Tokens of byte-level BPE hold no spaces.
fn merges(tokenizer: &Json) -> Vec<String> {
    let merges = tokenizer["model"]["merges"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |merge: &Json| match merge {
        Json::Array(pair) => pair.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    merges.iter().map(text).collect()
}
