//! GGUF out, version 3, as llama.cpp's own converter lays it out.
//!
//! Not candle's writer: that holds all tensors in memory at once, and a model of 8 billion weights should need no second
//! copy of itself. The format is <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;

use super::{Export, WeightType, merge::MergedWeight, turn_end};
use crate::{
    Decoder, GgufFile, LinearName, NnError, Parameter, Tokenizer, gguf::tensor_name, tokenizer::pre_tokenizer_name,
};

/// Tensors begin at multiples of this, as they do where a file says nothing.
const ALIGNMENT: u64 = 32;

/// Writes the model to `path`.
pub(super) fn write_gguf(export: &Export<'_>, path: &Path) -> Result<(), NnError> {
    let metadata = metadata(export, path)?;
    let tensors = tensors(export, &metadata);
    let io = |reason| NnError::Io { action: "write", path: path.into(), reason };
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3_u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in &metadata {
        put_string(&mut header, key);
        header.extend(type_number(value).to_le_bytes());
        put_value(&mut header, value);
    }
    let mut offset = 0;
    for tensor in &tensors {
        tensor.put_header(&mut header, offset);
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    file.write_all(&header).map_err(io)?;
    for tensor in &tensors {
        let mut bytes = tensor.encode(export.decoder)?;
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
        file.write_all(&bytes).map_err(io)?;
    }
    let file = file.into_inner().map_err(io::IntoInnerError::into_error).map_err(io)?;
    file.sync_all().map_err(io)
}

/// A tensor of the file.
struct GgufTensor<'a> {
    name: String,
    /// As everywhere here, rows first; GGUF names the innermost dimension first.
    shape: Vec<usize>,
    weight_type: WeightType,
    source: Source<'a>,
}

enum Source<'a> {
    /// As it is.
    Weight(MergedWeight<'a>),
    /// With the rows of rotary pairs side by side.
    PairedRows(MergedWeight<'a>),
    /// What the rotary embedding's frequencies are divided by.
    RopeFactors,
}

fn tensors<'a>(export: &Export<'a>, metadata: &[(String, Value)]) -> Vec<GgufTensor<'a>> {
    let architecture = metadata.iter().find(|(key, _)| key == "general.architecture").map(|(_, value)| value);
    let paired = matches!(architecture, Some(Value::String(name)) if name == "llama");
    let mut tensors: Vec<GgufTensor<'a>> = export
        .weights()
        .map(|weight| {
            let shape = weight.shape();
            GgufTensor {
                name: tensor_name(weight.parameter),
                weight_type: export.weight_type.in_gguf(&shape),
                shape,
                source: match weight.parameter {
                    Parameter::Weight(_, LinearName::QProj | LinearName::KProj)
                    | Parameter::Bias(_, LinearName::QProj | LinearName::KProj)
                        if paired =>
                    {
                        Source::PairedRows(weight)
                    }
                    _ => Source::Weight(weight),
                },
            }
        })
        .collect();
    let factors = export.decoder.config().rope_factors.len();
    // Metadata that a source brought along may say the same in another way; twice would be too much.
    let in_metadata = metadata.iter().any(|(key, _)| key.contains(".rope.scaling."));
    if factors > 0 && !in_metadata {
        tensors.push(GgufTensor {
            name: "rope_freqs.weight".into(),
            shape: vec![factors],
            weight_type: WeightType::F32,
            source: Source::RopeFactors,
        });
    }
    tensors
}

impl GgufTensor<'_> {
    fn bytes(&self) -> u64 {
        self.weight_type.bytes(self.shape.iter().product()) as u64
    }

    fn put_header(&self, out: &mut Vec<u8>, offset: u64) {
        put_string(out, &self.name);
        out.extend((self.shape.len() as u32).to_le_bytes());
        self.shape.iter().rev().for_each(|&length| out.extend((length as u64).to_le_bytes()));
        out.extend(tensor_type_number(self.weight_type).to_le_bytes());
        out.extend(offset.to_le_bytes());
    }

    fn encode(&self, decoder: &Decoder) -> Result<Vec<u8>, NnError> {
        let config = decoder.config();
        let values = match &self.source {
            Source::Weight(weight) => weight.values(),
            Source::PairedRows(weight) => {
                let width = self.shape.get(1).copied().unwrap_or(1);
                join_rotary_pairs(&weight.values(), width, config.head_dim)
            }
            Source::RopeFactors => config.rope_factors.clone(),
        };
        Ok(self.weight_type.encode(values)?)
    }
}

/// Rows `i` and `head_dim / 2 + i` of each head become rows `2i` and `2i + 1`; a row is `width` values. The reader does
/// the opposite.
fn join_rotary_pairs(weight: &[f32], width: usize, head_dim: usize) -> Vec<f32> {
    let mut joined = Vec::with_capacity(weight.len());
    for head in weight.chunks_exact(head_dim * width) {
        let (first, second) = head.split_at(head.len() / 2);
        for (first, second) in first.chunks_exact(width).zip(second.chunks_exact(width)) {
            joined.extend_from_slice(first);
            joined.extend_from_slice(second);
        }
    }
    joined
}

/// All metadata, architecture first: that of a GGUF source as it is, else made from the folder's files.
fn metadata(export: &Export<'_>, out: &Path) -> Result<Vec<(String, Value)>, NnError> {
    let mut metadata = if export.model.path.is_dir() {
        let mut metadata = model_metadata(export, out)?;
        metadata.extend(tokenizer_metadata(export, out)?);
        metadata
    } else {
        let source = GgufFile::open(&export.model.path)?;
        let carried = source.all_metadata().filter(|(key, value)| is_carried(key, value));
        carried.map(|(key, value)| (key.to_owned(), value.clone())).collect()
    };
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

/// What describes the source file rather than the model stays behind, and so does an empty array, whose type is lost.
fn is_carried(key: &str, value: &Value) -> bool {
    let of_the_file = matches!(key, "general.file_type" | "general.quantization_version" | "general.alignment")
        || key.starts_with("split.")
        || key.starts_with("quantize.");
    !of_the_file && !matches!(value, Value::Array(values) if values.is_empty())
}

/// `general.*` and the architecture's own numbers, of a model that came from a folder.
///
/// The place for further architectures: `model_type` in, llama.cpp's name and its further keys out.
fn model_metadata(export: &Export<'_>, out: &Path) -> Result<Vec<(String, Value)>, NnError> {
    let source = super::folder::read_json(&export.model.path.join("config.json"))?;
    let model_type = source["model_type"].as_str().unwrap_or("(none)");
    let architecture = match model_type {
        "llama" => "llama",
        other => return Err(export.refusal(out, &format!("models of type `{other}` cannot be written as GGUF yet"))),
    };
    let config = export.decoder.config();
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
    let floats = [("attention.layer_norm_rms_epsilon", config.rms_norm_eps), ("rope.freq_base", config.rope_theta)];
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        ("general.type".to_owned(), Value::String("model".into())),
        ("general.name".to_owned(), Value::String(name.into_owned())),
    ];
    let key = |name: &str| format!("{architecture}.{name}");
    metadata.extend(integers.map(|(name, value)| (key(name), Value::U32(value as u32))));
    metadata.extend(floats.map(|(name, value)| (key(name), Value::F32(value))));
    Ok(metadata)
}

/// `tokenizer.*`, of a tokenizer that came from a `tokenizer.json`.
fn tokenizer_metadata(export: &Export<'_>, out: &Path) -> Result<Vec<(String, Value)>, NnError> {
    let tokenizer = &export.model.tokenizer;
    let fail = |reason: String| export.refusal(out, &reason);
    let json = tokenizer.inner().to_string(false).map_err(|error| fail(format!("its tokenizer: {error}")))?;
    let json: Json = serde_json::from_str(&json).map_err(|error| fail(format!("its tokenizer: {error}")))?;
    let pre = pre_tokenizer_name(&json)
        .ok_or_else(|| fail("its tokenizer cuts text in a way that has no known name in GGUF".into()))?;
    let size = export.decoder.config().vocab_size;
    if tokenizer.vocabulary_size() > size {
        let tokens = tokenizer.vocabulary_size();
        return Err(fail(format!("its tokenizer has {tokens} tokens, its embedding only {size} rows")));
    }
    let string = |text: &str| Value::String(text.to_owned());
    let array = |values: Vec<Value>| Value::Array(values);
    let (tokens, types) = vocabulary(tokenizer, size);
    let mut metadata = vec![
        ("tokenizer.ggml.model", string("gpt2")),
        ("tokenizer.ggml.pre", string(pre)),
        ("tokenizer.ggml.tokens", array(tokens)),
        ("tokenizer.ggml.token_type", array(types)),
        ("tokenizer.ggml.merges", array(merges(&json))),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(begins_with_bos(tokenizer))),
        ("tokenizer.chat_template", string(export.model.template.source())),
    ];
    // `eos` is what a chat must stop at; llama.cpp finds further ends of generation by their names.
    let end_of_turn = turn_end(export.model);
    let ids = [
        ("tokenizer.ggml.bos_token_id", tokenizer.begin_of_text()),
        ("tokenizer.ggml.eos_token_id", end_of_turn),
        ("tokenizer.ggml.eot_token_id", end_of_turn),
    ];
    metadata.extend(ids.into_iter().filter_map(|(key, id)| Some((key, Value::U32(id?)))));
    Ok(metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Names and types of all `size` tokens, as many as the embedding has rows.
fn vocabulary(tokenizer: &Tokenizer, size: usize) -> (Vec<Value>, Vec<Value>) {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const USER_DEFINED: i32 = 4;
    const UNUSED: i32 = 5;
    let added = tokenizer.inner().get_added_tokens_decoder();
    (0..size as u32)
        .map(|id| {
            let (name, kind) = match tokenizer.inner().id_to_token(id) {
                None => (format!("[PAD{id}]"), UNUSED),
                Some(name) if tokenizer.is_special(id) => (name, CONTROL),
                Some(name) if added.contains_key(&id) => (name, USER_DEFINED),
                Some(name) => (name, NORMAL),
            };
            (Value::String(name), Value::I32(kind))
        })
        .unzip()
}

/// `left right` for each pair of tokens that become one. Tokens of byte-level BPE hold no spaces.
fn merges(tokenizer: &Json) -> Vec<Value> {
    let merges = tokenizer["model"]["merges"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |merge: &Json| match merge {
        Json::Array(pair) => pair.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    merges.iter().map(|merge| Value::String(text(merge))).collect()
}

/// Whether the tokenizer, asked for special tokens, puts the one that begins a text first.
fn begins_with_bos(tokenizer: &Tokenizer) -> bool {
    let encoding = tokenizer.inner().encode_fast("a", true);
    let first = encoding.ok().and_then(|encoding| encoding.get_ids().first().copied());
    first.is_some() && first == tokenizer.begin_of_text()
}

fn tensor_type_number(weight_type: WeightType) -> u32 {
    match weight_type {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q8_0 => 8,
        WeightType::Bf16 => 30,
    }
}

fn type_number(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.push(*value),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(text) => put_string(out, text),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
        Value::Array(values) => {
            out.extend(values.first().map_or(0, type_number).to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            for value in values {
                put_value(out, value);
            }
        }
    }
}
