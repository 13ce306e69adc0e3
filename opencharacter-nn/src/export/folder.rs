//! Hugging Face model folders out, as `transformers` loads them with `AutoModelForCausalLM` and `AutoTokenizer`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde_json::{Map, Value as Json, json};

use super::{Export, WeightType, merge::MergedWeight, model_config::model_config, turn_end};
use crate::{GgufFile, NnError, atomic_write};

/// Files of a folder's tokenizer, which are copied where the source is one.
const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// Weight files are cut before they grow beyond this, as on the Hub.
const SHARD_BYTES: usize = 5_000_000_000;

/// Writes the model into `folder`, which exists and is empty.
pub(super) fn write_folder(export: &Export<'_>, folder: &Path) -> Result<(), NnError> {
    let source = &export.model.path;
    if source.is_dir() {
        carry_files(export, folder)?;
    } else {
        write_json(&folder.join("config.json"), &model_config(export, folder)?)?;
        write_json(&folder.join("generation_config.json"), &generation_config(export))?;
        write_tokenizer(export, folder)?;
    }
    write_bytes(&folder.join("chat_template.jinja"), export.model.template.source().as_bytes())?;
    write_weights(export, folder, SHARD_BYTES)
}

/// The source folder's own files, unchanged but for the weights' type: they may say more than this crate reads.
fn carry_files(export: &Export<'_>, folder: &Path) -> Result<(), NnError> {
    let source = &export.model.path;
    for name in TOKENIZER_FILES.into_iter().chain(["generation_config.json"]) {
        let path = source.join(name);
        if path.exists() {
            let bytes = fs::read(&path).map_err(|reason| NnError::Io { action: "read", path, reason })?;
            write_bytes(&folder.join(name), &bytes)?;
        }
    }
    let mut config = read_json(&source.join("config.json"))?;
    if let Some(fields) = config.as_object_mut() {
        fields.remove("dtype");
        fields.remove("quantization_config");
        fields.insert("torch_dtype".into(), torch_type(export.weight_type).into());
    }
    write_json(&folder.join("config.json"), &config)
}

pub(super) fn torch_type(weight_type: WeightType) -> &'static str {
    match weight_type {
        WeightType::F32 => "float32",
        WeightType::Bf16 => "bfloat16",
        WeightType::F16 | WeightType::Q8_0 => "float16",
    }
}

fn generation_config(export: &Export<'_>) -> Json {
    let tokenizer = &export.model.tokenizer;
    let mut fields = Map::new();
    fields.extend(tokenizer.begin_of_text().map(|id| ("bos_token_id".to_owned(), json!(id))));
    fields.insert("eos_token_id".into(), json!(tokenizer.end_of_text()));
    Json::Object(fields)
}

/// `tokenizer.json` and `tokenizer_config.json` of a tokenizer that came from a GGUF file.
fn write_tokenizer(export: &Export<'_>, folder: &Path) -> Result<(), NnError> {
    let source = GgufFile::open(&export.model.path)?;
    let tokenizer = &export.model.tokenizer;
    let serialised = tokenizer.inner().to_string(true);
    let text = serialised.map_err(|error| export.refusal(folder, &format!("its tokenizer: {error}")))?;
    let mut json: Json = serde_json::from_str(&text).map_err(|error| export.refusal(folder, &error.to_string()))?;
    if let Some(begin) = tokenizer.begin_of_text().filter(|_| tokenizer.adds_begin_of_text()) {
        json["post_processor"] = begin_of_text_processor(begin, &tokenizer.token_name(begin));
    }
    write_json(&folder.join("tokenizer.json"), &json)?;

    let name = |id: Option<u32>| id.map(|id| tokenizer.token_name(id));
    let of_source = |key: &str| name(source.integer(key).map(|id| id as u32));
    let special = [
        ("bos_token", name(tokenizer.begin_of_text())),
        ("eos_token", name(turn_end(export.model))),
        ("unk_token", of_source("tokenizer.ggml.unknown_token_id")),
        ("pad_token", of_source("tokenizer.ggml.padding_token_id")),
    ];
    let mut fields = Map::new();
    fields.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    fields.extend(special.into_iter().filter_map(|(key, name)| Some((key.to_owned(), name?.into()))));
    fields.insert("model_max_length".into(), export.decoder.config().max_position_embeddings.into());
    fields.insert("clean_up_tokenization_spaces".into(), false.into());
    // The class' default asks for token types, which no decoder takes.
    fields.insert("model_input_names".into(), json!(["input_ids", "attention_mask"]));
    fields.insert("chat_template".into(), export.model.template.source().into());
    write_json(&folder.join("tokenizer_config.json"), &Json::Object(fields))
}

/// What makes a `tokenizer.json` put the token that begins a text before it.
fn begin_of_text_processor(id: u32, name: &str) -> Json {
    let special = json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let sequence = |id: &str, kind: usize| json!({ "Sequence": { "id": id, "type_id": kind } });
    json!({
        "type": "TemplateProcessing",
        "single": [special, sequence("A", 0)],
        "pair": [special, sequence("A", 0), special, sequence("B", 1)],
        "special_tokens": { name: { "id": name, "ids": [id], "tokens": [name] } },
    })
}

/// `model.safetensors`, or as many files as it takes with `model.safetensors.index.json`.
pub(super) fn write_weights(export: &Export<'_>, folder: &Path, shard_bytes: usize) -> Result<(), NnError> {
    let weight_type = export.weight_type;
    let bytes = |weight: &MergedWeight<'_>| weight_type.bytes(weight.shape().iter().product());
    let mut shards: Vec<Vec<MergedWeight<'_>>> = vec![Vec::new()];
    let (mut shard, mut total) = (0, 0);
    for weight in export.weights() {
        let size = bytes(&weight);
        if shard > 0 && shard + size > shard_bytes {
            shards.push(Vec::new());
            shard = 0;
        }
        (shard, total) = (shard + size, total + size);
        shards.last_mut().unwrap_or(&mut Vec::new()).push(weight);
    }
    if let [all] = shards.as_slice() {
        return write_safetensors(export, all, &folder.join("model.safetensors"));
    }
    let mut places = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write_safetensors(export, shard, &folder.join(&name))?;
        places.extend(shard.iter().map(|weight| (weight.parameter.name(), name.clone().into())));
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
    write_json(&folder.join("model.safetensors.index.json"), &index)
}

/// One file, tensor after tensor: the library's own writer gives files that only their owner can read.
fn write_safetensors(export: &Export<'_>, weights: &[MergedWeight<'_>], path: &Path) -> Result<(), NnError> {
    let io = |reason| NnError::Io { action: "write", path: path.into(), reason };
    let dtype = match export.weight_type {
        WeightType::F32 => Dtype::F32,
        WeightType::F16 => Dtype::F16,
        WeightType::Bf16 => Dtype::BF16,
        WeightType::Q8_0 => return Err(export.refusal(path, "safetensors cannot hold `q8_0`")),
    };
    let mut end = 0;
    let place = |weight: &MergedWeight<'_>| {
        let shape = weight.shape();
        let start = end;
        end += export.weight_type.bytes(shape.iter().product());
        (weight.parameter.name(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    };
    // `transformers` refuses files that do not say so.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(format), weights.iter().map(place).collect());
    let header = header.map_err(|error| export.refusal(path, &error.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|error| export.refusal(path, &error.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    for weight in weights {
        file.write_all(&export.weight_type.encode(weight.values())?).map_err(io)?;
    }
    let file = file.into_inner().map_err(io::IntoInnerError::into_error).map_err(io)?;
    file.sync_all().map_err(io)
}

pub(super) fn read_json(path: &Path) -> Result<Json, NnError> {
    let text = fs::read_to_string(path).map_err(|reason| NnError::Io { action: "read", path: path.into(), reason })?;
    serde_json::from_str(&text).map_err(|error| NnError::Malformed { path: path.into(), reason: error.to_string() })
}

fn write_json(path: &Path, json: &Json) -> Result<(), NnError> {
    write_bytes(path, format!("{json:#}\n").as_bytes())
}

pub(super) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), NnError> {
    atomic_write(path, bytes).map_err(|reason| NnError::Io { action: "write", path: path.into(), reason })
}
