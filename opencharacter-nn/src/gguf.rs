//! GGUF in: configuration, weights and the raw tokenizer metadata.
//!
//! Parsing and dequantisation are candle's. What is ours is the way back to the layout that the rest of the crate
//! uses: llama.cpp's converter reorders the rows of the query and key projections so that a rotary pair lies side by
//! side; here, as in Hugging Face models, a pair is half a head apart.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use candle_core::{
    Device,
    quantized::{QTensor, gguf_file},
};

use crate::{
    DecoderConfig, LinearName, NnError, NormName, Parameter,
    architecture::{Architecture, Biases, Presence},
    gguf_blocks,
    rope_scaling::RopeScaling,
    weights::{WeightData, WeightSource},
};

/// The tensor with which llama.cpp's converter writes Llama 3's rotary scaling.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The types of weights that candle reads, for messages.
const READABLE_TYPES: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K";

/// llama.cpp's other types of weights, by the numbers that files have for them.
const UNREADABLE_TYPES: [(u32, &str); 13] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// An opened GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    content: gguf_file::Content,
    file: File,
}

impl GgufFile {
    /// Reads the header; weights are read when asked for.
    pub fn open(path: &Path) -> Result<Self, NnError> {
        let file = File::open(path).map_err(|reason| NnError::Io { action: "read", path: path.into(), reason })?;
        let content = gguf_file::Content::read(&mut BufReader::new(&file)).map_err(|error| {
            let reason = first_line(&error);
            let reason = unknown_type(&reason)
                .unwrap_or_else(|| format!("its GGUF header cannot be read ({reason}); fetch the file again"));
            NnError::Malformed { path: path.into(), reason }
        })?;
        Ok(Self { path: path.into(), content, file })
    }

    /// The file's place, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every metadata value with its key, in no particular order.
    pub(crate) fn all_metadata(&self) -> impl Iterator<Item = (&str, &gguf_file::Value)> {
        self.content.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The metadata value of `key`.
    pub fn metadata(&self, key: &str) -> Option<&gguf_file::Value> {
        self.content.metadata.get(key)
    }

    /// The metadata string of `key`.
    pub fn string(&self, key: &str) -> Option<&str> {
        self.metadata(key).and_then(|value| value.to_string().ok()).map(String::as_str)
    }

    /// The metadata integer of `key`, of whatever width.
    pub fn integer(&self, key: &str) -> Option<usize> {
        self.metadata(key).and_then(|value| value.to_u64().ok()).and_then(|value| usize::try_from(value).ok())
    }

    /// The metadata array of strings of `key`.
    pub fn strings(&self, key: &str) -> Option<Vec<String>> {
        let values = self.metadata(key)?.to_vec().ok()?;
        values.iter().map(|value| value.to_string().ok().cloned()).collect()
    }

    /// The metadata array of integers of `key`.
    pub fn integers(&self, key: &str) -> Option<Vec<i64>> {
        let values = self.metadata(key)?.to_vec().ok()?;
        values.iter().map(|value| value.to_i64().or_else(|_| value.to_i32().map(i64::from)).ok()).collect()
    }

    /// The metadata truth value of `key`.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.metadata(key).and_then(|value| value.to_bool().ok())
    }

    /// The metadata array of numbers of `key`.
    pub fn floats(&self, key: &str) -> Option<Vec<f32>> {
        let values = self.metadata(key)?.to_vec().ok()?;
        values.iter().map(|value| value.to_f32().ok()).collect()
    }

    /// The model's family.
    pub(crate) fn architecture(&self) -> Result<Architecture, NnError> {
        let name = self.string("general.architecture").unwrap_or("(none)");
        Architecture::from_gguf(name).ok_or_else(|| NnError::UnknownArchitecture {
            path: self.path.clone(),
            architecture: name.to_owned(),
            known: Architecture::KNOWN,
        })
    }

    /// The decoder's shape.
    pub fn config(&self) -> Result<DecoderConfig, NnError> {
        let architecture = self.architecture()?;
        let key = |name: &str| format!("{}.{name}", architecture.gguf_name());
        let integer = |name: &str| {
            let key = key(name);
            self.integer(&key).ok_or_else(|| self.malformed(format!("metadata `{key}` is missing or no number")))
        };
        let hidden_size = integer("embedding_length")?;
        let num_attention_heads = integer("attention.head_count")?;
        let embedding = self.content.tensor_infos.get("token_embd.weight");
        let vocab_size = embedding
            .and_then(|info| info.shape.dims().first().copied())
            .ok_or_else(|| self.malformed("tensor `token_embd.weight` is missing".into()))?;
        let head_dim = integer("attention.key_length").unwrap_or(hidden_size / num_attention_heads.max(1));
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(width) = self.integer(&key(name)).filter(|width| *width != head_dim) {
                let reason = format!("metadata `{}` is {width}; only {head_dim}, a whole head, works", key(name));
                return Err(self.malformed(reason));
            }
        }
        let epsilon = key("attention.layer_norm_rms_epsilon");
        let config = DecoderConfig {
            vocab_size,
            hidden_size,
            intermediate_size: integer("feed_forward_length")?,
            num_hidden_layers: integer("block_count")?,
            num_attention_heads,
            num_key_value_heads: integer("attention.head_count_kv").unwrap_or(num_attention_heads),
            head_dim,
            rope_theta: self.float(&key("rope.freq_base")).unwrap_or(10_000.0),
            rope_factors: self.rope_factors(architecture, head_dim)?,
            sliding_window: self.integer(&key("attention.sliding_window")).filter(|window| *window > 0),
            rms_norm_eps: self
                .float(&epsilon)
                .ok_or_else(|| self.malformed(format!("metadata `{epsilon}` is missing")))?,
            max_position_embeddings: integer("context_length")?,
            tie_word_embeddings: !self.content.tensor_infos.contains_key("output.weight"),
        };
        config.validate().map_err(|reason| self.malformed(reason))?;
        Ok(config)
    }

    /// What the rotary embedding's frequencies are divided by. Linear scaling is metadata; Llama 3's is a tensor, made
    /// by llama.cpp's converter.
    fn rope_factors(&self, architecture: Architecture, head_dim: usize) -> Result<Vec<f32>, NnError> {
        let key = |name: &str| format!("{}.rope.{name}", architecture.gguf_name());
        let factor = self.float(&key("scaling.factor")).or_else(|| self.float(&key("scale_linear")));
        // As llama.cpp reads it: a factor without a kind is linear, and 0 is no factor.
        let linear = match self.string(&key("scaling.type")).unwrap_or("linear") {
            "linear" => factor.filter(|factor| *factor != 0.0).unwrap_or(1.0),
            "none" => 1.0,
            other => return Err(self.malformed(RopeScaling::unknown(other))),
        };
        let factors = self.vector(ROPE_FACTORS, head_dim / 2)?;
        Ok(match factors {
            Some(factors) => factors.iter().map(|factor| factor * linear).collect(),
            None if linear == 1.0 => Vec::new(),
            None => vec![linear; head_dim / 2],
        })
    }

    fn float(&self, key: &str) -> Option<f32> {
        self.metadata(key).and_then(|value| value.to_f32().ok())
    }

    /// Whether llama.cpp's converter laid the rows of a rotary pair side by side: for the `llama` architecture alone.
    fn pairs_lie_together(&self, name: LinearName) -> bool {
        matches!(name, LinearName::QProj | LinearName::KProj) && matches!(self.architecture(), Ok(Architecture::Llama))
    }

    fn malformed(&self, reason: String) -> NnError {
        NnError::Malformed { path: self.path.clone(), reason }
    }

    /// The tensor `name`, which must have `shape`; nothing where it does not exist.
    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<QTensor>, NnError> {
        match self.content.tensor_infos.get(name).map(|info| info.shape.dims()) {
            None => return Ok(None),
            Some(dims) if dims != shape => {
                return Err(self.malformed(format!("tensor `{name}` has shape {dims:?}, expected {shape:?}")));
            }
            Some(_) => {}
        }
        let found = self.content.tensor(&mut &self.file, name, &Device::Cpu);
        found.map(Some).map_err(|error| self.unreadable(name, &error))
    }

    fn unreadable(&self, name: &str, error: &candle_core::Error) -> NnError {
        let reason = first_line(error);
        self.malformed(format!("tensor `{name}` cannot be read ({reason}); the file is cut short or damaged"))
    }

    fn vector(&self, name: &str, length: usize) -> Result<Option<Vec<f32>>, NnError> {
        let Some(tensor) = self.find(name, &[length])? else { return Ok(None) };
        widen(&tensor).map(Some).map_err(|error| self.unreadable(name, &error))
    }

    /// A matrix, in blocks where it is quantised.
    fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<WeightData, NnError> {
        let tensor = self.find(name, &shape)?.ok_or_else(|| self.malformed(format!("tensor `{name}` is missing")))?;
        let data = || match gguf_blocks::blocks(&tensor)? {
            Some((format, bytes)) => Ok(WeightData::Blocks(format, bytes)),
            None => widen(&tensor).map(WeightData::Floats),
        };
        data().map_err(|error| self.unreadable(name, &error))
    }
}

/// What to say of an error of candle's for a type of weights that it does not know: of that, it says the number.
fn unknown_type(reason: &str) -> Option<String> {
    let number = reason.strip_prefix("unknown dtype for tensor ")?;
    let known = UNREADABLE_TYPES.iter().find(|(known, _)| known.to_string() == number);
    let name = known.map_or_else(|| format!("number {number}"), |(_, name)| format!("`{name}`"));
    Some(format!("a tensor is of type {name}, which cannot be read; use a file whose tensors are {READABLE_TYPES}"))
}

fn widen(tensor: &QTensor) -> candle_core::Result<Vec<f32>> {
    tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()
}

/// What a GGUF file calls a parameter, for reading and for export.
pub(crate) fn tensor_name(parameter: Parameter) -> String {
    let norm = |layer: usize, name: &str| format!("blk.{layer}.{name}.weight");
    match parameter {
        Parameter::Embedding => "token_embd.weight".into(),
        Parameter::InputNorm(layer) => norm(layer, "attn_norm"),
        Parameter::QueryNorm(layer) => norm(layer, "attn_q_norm"),
        Parameter::KeyNorm(layer) => norm(layer, "attn_k_norm"),
        Parameter::PostAttentionNorm(layer) => norm(layer, "ffn_norm"),
        Parameter::Weight(layer, name) => format!("blk.{layer}.{}.weight", name.gguf()),
        Parameter::Bias(layer, name) => format!("blk.{layer}.{}.bias", name.gguf()),
        Parameter::FinalNorm => "output_norm.weight".into(),
        Parameter::Head => "output.weight".into(),
        Parameter::LoraA(layer, name) => format!("blk.{layer}.{}.weight.lora_a", name.gguf()),
        Parameter::LoraB(layer, name) => format!("blk.{layer}.{}.weight.lora_b", name.gguf()),
    }
}

impl WeightSource for GgufFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn check(&self, config: &DecoderConfig) -> Result<(), NnError> {
        // GGUF metadata does not announce biases.
        let biases = Biases { attention: Presence::Optional, feed_forward: Presence::Optional };
        let names = self.content.tensor_infos.keys().map(String::as_str).filter(|name| *name != ROPE_FACTORS);
        let checked = self.architecture()?.check_tensors(config, biases, names, tensor_name);
        checked.map_err(|reason| self.malformed(reason))
    }

    fn embedding(&mut self, config: &DecoderConfig) -> Result<WeightData, NnError> {
        self.matrix(&tensor_name(Parameter::Embedding), [config.vocab_size, config.hidden_size])
    }

    fn head(&mut self, config: &DecoderConfig) -> Result<WeightData, NnError> {
        self.matrix(&tensor_name(Parameter::Head), [config.vocab_size, config.hidden_size])
    }

    fn final_norm(&mut self, config: &DecoderConfig) -> Result<Vec<f32>, NnError> {
        let name = tensor_name(Parameter::FinalNorm);
        let norm = self.vector(&name, config.hidden_size)?;
        norm.ok_or_else(|| self.malformed(format!("tensor `{name}` is missing")))
    }

    fn norm(&mut self, layer: usize, name: NormName, config: &DecoderConfig) -> Result<Option<Vec<f32>>, NnError> {
        let (parameter, length) = name.parameter(layer, config);
        self.vector(&tensor_name(parameter), length)
    }

    fn linear(&mut self, layer: usize, name: LinearName, config: &DecoderConfig) -> Result<WeightData, NnError> {
        let (outputs, inputs) = name.shape(config);
        let weight = self.matrix(&tensor_name(Parameter::Weight(layer, name)), [outputs, inputs])?;
        if !self.pairs_lie_together(name) {
            return Ok(weight);
        }
        Ok(match weight {
            WeightData::Floats(values) => {
                WeightData::Floats(separate_rotary_pairs(&values, values.len() / outputs, config.head_dim))
            }
            WeightData::Blocks(format, bytes) => {
                WeightData::Blocks(format, separate_rotary_pairs(&bytes, bytes.len() / outputs, config.head_dim))
            }
        })
    }

    fn bias(&mut self, layer: usize, name: LinearName, config: &DecoderConfig) -> Result<Option<Vec<f32>>, NnError> {
        let bias = self.vector(&tensor_name(Parameter::Bias(layer, name)), name.shape(config).0)?;
        let together = self.pairs_lie_together(name);
        Ok(bias.map(|bias| if together { separate_rotary_pairs(&bias, 1, config.head_dim) } else { bias }))
    }
}

/// Rows `2i` and `2i + 1` of each head become rows `i` and `head_dim / 2 + i`; a row is `width` elements.
fn separate_rotary_pairs<T: Copy + Default>(weight: &[T], width: usize, head_dim: usize) -> Vec<T> {
    let mut out = vec![T::default(); weight.len()];
    for (row, values) in weight.chunks_exact(width).enumerate() {
        let (head, within) = (row / head_dim, row % head_dim);
        let target = head * head_dim + within / 2 + (within % 2) * (head_dim / 2);
        out[target * width..(target + 1) * width].copy_from_slice(values);
    }
    out
}

/// candle's errors carry backtraces; their first line is what a user can use.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
