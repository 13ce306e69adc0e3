//! Hugging Face model folders in: `config.json` and one or more `*.safetensors` files.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, safetensors::MmapedSafetensors};

use crate::{
    DecoderConfig, LinearName, NnError, NormName, Parameter,
    gguf::first_line,
    weights::{WeightData, WeightSource},
};

/// An opened model folder.
pub struct SafetensorsFolder {
    path: PathBuf,
    files: Vec<PathBuf>,
    tensors: MmapedSafetensors,
    shapes: HashMap<String, Vec<usize>>,
    json: serde_json::Value,
}

impl SafetensorsFolder {
    /// Maps the weights of `folder` into memory and reads its `config.json`.
    pub fn open(folder: &Path) -> Result<Self, NnError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |reason| NnError::Io { action: "read", path, reason }
        };
        let config_path = folder.join("config.json");
        let text = fs::read_to_string(&config_path).map_err(io(&config_path))?;
        let json = serde_json::from_str(&text)
            .map_err(|error| NnError::Malformed { path: config_path, reason: format!("it is not JSON: {error}") })?;
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(io(folder))? {
            let path = entry.map_err(io(folder))?.path();
            if path.extension().is_some_and(|ending| ending == "safetensors") {
                files.push(path);
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(NnError::Malformed { path: folder.into(), reason: "it holds no `*.safetensors` file".into() });
        }
        let malformed = |error: &candle_core::Error| NnError::Malformed {
            path: folder.into(),
            reason: format!("its weights cannot be read ({}); fetch them again", first_line(error)),
        };
        // SAFETY: the maps are read-only. A file that is truncated by somebody else meanwhile would end the process;
        // that is the known price of mapping instead of copying a whole model.
        let tensors = unsafe { MmapedSafetensors::multi(&files) }.map_err(|error| malformed(&error))?;
        let shapes = tensors.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect();
        Ok(Self { path: folder.into(), files, tensors, shapes, json })
    }

    /// The weight files, sorted by name.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The decoder's shape.
    pub fn config(&self) -> Result<DecoderConfig, NnError> {
        let path = self.path.join("config.json");
        let malformed = |reason: String| NnError::Malformed { path: path.clone(), reason };
        let architecture = self.json["model_type"].as_str().unwrap_or("(none)");
        if architecture != "llama" {
            return Err(NnError::UnknownArchitecture {
                path: path.clone(),
                architecture: architecture.to_owned(),
                known: "llama (SmolLM2 included)",
            });
        }
        let rope = &self.json["rope_parameters"];
        let scaling = [&self.json["rope_scaling"]["rope_type"], &rope["rope_type"]];
        if scaling.iter().any(|kind| kind.as_str().is_some_and(|kind| kind != "default")) {
            return Err(malformed("it uses RoPE scaling, which is not implemented yet".into()));
        }
        if self.json["attention_bias"] == true || self.json["mlp_bias"] == true {
            return Err(malformed("its linear layers have biases, which are not implemented yet".into()));
        }
        let integer = |key: &str| {
            let value = self.json[key].as_u64().and_then(|value| usize::try_from(value).ok());
            value.ok_or_else(|| malformed(format!("`{key}` is missing or no number")))
        };
        let theta = self.json["rope_theta"].as_f64().or_else(|| rope["rope_theta"].as_f64()).unwrap_or(10_000.0);
        let epsilon =
            self.json["rms_norm_eps"].as_f64().ok_or_else(|| malformed("`rms_norm_eps` is missing".into()))?;
        let hidden_size = integer("hidden_size")?;
        let num_attention_heads = integer("num_attention_heads")?;
        let config = DecoderConfig {
            vocab_size: integer("vocab_size")?,
            hidden_size,
            intermediate_size: integer("intermediate_size")?,
            num_hidden_layers: integer("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: integer("num_key_value_heads").unwrap_or(num_attention_heads),
            head_dim: integer("head_dim").unwrap_or(hidden_size / num_attention_heads.max(1)),
            rope_theta: theta as f32,
            rope_factors: Vec::new(),
            sliding_window: None,
            rms_norm_eps: epsilon as f32,
            max_position_embeddings: integer("max_position_embeddings")?,
            tie_word_embeddings: self.json["tie_word_embeddings"].as_bool().unwrap_or(false),
        };
        config.validate().map_err(malformed)?;
        Ok(config)
    }

    /// The tensor of `parameter`, which must have `shape`; nothing where it does not exist.
    fn find(&self, parameter: Parameter, shape: &[usize]) -> Result<Option<Vec<f32>>, NnError> {
        let name = parameter.name();
        let malformed = |reason| NnError::Malformed { path: self.path.clone(), reason };
        match self.shapes.get(&name) {
            None => return Ok(None),
            Some(found) if found != shape => {
                return Err(malformed(format!("tensor `{name}` has shape {found:?}, expected {shape:?}")));
            }
            Some(_) => {}
        }
        let read = || self.tensors.load(&name, &Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let found =
            read().map_err(|error| malformed(format!("tensor `{name}` cannot be read ({})", first_line(&error))));
        found.map(Some)
    }

    fn tensor(&self, parameter: Parameter, shape: &[usize]) -> Result<Vec<f32>, NnError> {
        self.find(parameter, shape)?.ok_or_else(|| NnError::Malformed {
            path: self.path.clone(),
            reason: format!("tensor `{}` is missing", parameter.name()),
        })
    }
}

impl WeightSource for SafetensorsFolder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn embedding(&mut self, config: &DecoderConfig) -> Result<WeightData, NnError> {
        self.tensor(Parameter::Embedding, &[config.vocab_size, config.hidden_size]).map(WeightData::Floats)
    }

    fn head(&mut self, config: &DecoderConfig) -> Result<WeightData, NnError> {
        self.tensor(Parameter::Head, &[config.vocab_size, config.hidden_size]).map(WeightData::Floats)
    }

    fn final_norm(&mut self, config: &DecoderConfig) -> Result<Vec<f32>, NnError> {
        self.tensor(Parameter::FinalNorm, &[config.hidden_size])
    }

    fn norm(&mut self, layer: usize, name: NormName, config: &DecoderConfig) -> Result<Option<Vec<f32>>, NnError> {
        let (parameter, length) = match name {
            NormName::Input => (Parameter::InputNorm(layer), config.hidden_size),
            NormName::Query => (Parameter::QueryNorm(layer), config.head_dim),
            NormName::Key => (Parameter::KeyNorm(layer), config.head_dim),
            NormName::PostAttention => (Parameter::PostAttentionNorm(layer), config.hidden_size),
        };
        self.find(parameter, &[length])
    }

    fn linear(&mut self, layer: usize, name: LinearName, config: &DecoderConfig) -> Result<WeightData, NnError> {
        let (outputs, inputs) = name.shape(config);
        self.tensor(Parameter::Weight(layer, name), &[outputs, inputs]).map(WeightData::Floats)
    }

    fn bias(&mut self, layer: usize, name: LinearName, config: &DecoderConfig) -> Result<Option<Vec<f32>>, NnError> {
        self.find(Parameter::Bias(layer, name), &[name.shape(config).0])
    }
}
