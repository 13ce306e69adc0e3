//! Low-rank adapters (Hu et al., 2021): their factors, their files in PEFT's format, and their two forms in a forward
//! pass - trainable, and packed for speed.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use opencharacter_core::KeyedRandom;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    DecoderConfig, Gradients, LinearName, NnError, Parameter,
    ops::{AdaptedRows, Dropout, PackedLora},
};

/// The size of an adapter and where it sits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`, or by `alpha / sqrt(rank)`.
    pub alpha: f32,
    /// Scale by `alpha / sqrt(rank)` (rsLoRA, Kalajdzievski, 2023): larger ranks then learn as fast as small ones.
    pub rank_stabilised: bool,
    /// Share of the adapter's inputs that are dropped while training.
    pub dropout: f32,
    /// Which linear layers get one, in every block.
    pub targets: Vec<LinearName>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, rank_stabilised: false, dropout: 0.0, targets: LinearName::ALL.to_vec() }
    }
}

impl LoraConfig {
    /// Factor on the adapter's contribution.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Checks that the settings make sense; the error is a setting's name and what it must be.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.rank == 0 {
            return Err(("lora.rank", "must be at least 1".into()));
        }
        if !self.alpha.is_finite() || self.alpha <= 0.0 {
            return Err(("lora.alpha", "must be above 0".into()));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(("lora.dropout", "must be from 0 to below 1".into()));
        }
        if self.targets.is_empty() {
            return Err(("lora.targets", "must name at least one layer".into()));
        }
        Ok(())
    }
}

/// An adapter whose factors can be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    config: LoraConfig,
    factors: BTreeMap<(usize, LinearName), Factors>,
}

/// The adapter of one linear layer.
#[derive(Debug, Clone, PartialEq)]
struct Factors {
    outputs: usize,
    inputs: usize,
    /// `[rank, inputs]`.
    a: Vec<f32>,
    /// `[outputs, rank]`.
    b: Vec<f32>,
}

/// PEFT's `adapter_config.json`, as far as it concerns us.
#[derive(Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields are PEFT's")]
struct PeftConfig {
    peft_type: String,
    task_type: String,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f32,
    lora_dropout: f32,
    bias: String,
    fan_in_fan_out: bool,
    inference_mode: bool,
    target_modules: Vec<String>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
}

/// The setting in PEFT's `config` that makes it another kind of adapter than is read here. With its factors alone it
/// would be applied wrongly, often without a tensor that is too many or has another shape.
fn unsupported(config: &Value) -> Option<String> {
    const FLAGS: [&str; 5] = ["use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "alora_invocation_tokens"];
    // What only draws the factors. Others (`pissa`, `olora`, `loftq`, ...) change the base model's weights too.
    const INITIALISATIONS: [&str; 3] = ["gaussian", "eva", "orthogonal"];
    let is_set = |setting: &Value| match setting {
        Value::Null | Value::Bool(false) => false,
        Value::Object(settings) => !settings.is_empty(),
        _ => true,
    };
    let other = |name: &str, known: &[&str]| {
        let value = config[name].as_str().filter(|value| !known.contains(value))?;
        Some(format!("`{name}` is `{value}`"))
    };
    other("peft_type", &["LORA"])
        .or_else(|| other("bias", &["none"]))
        .or_else(|| other("init_lora_weights", &INITIALISATIONS))
        .or_else(|| FLAGS.into_iter().find(|name| is_set(&config[name])).map(|name| format!("`{name}` is set")))
}

impl LoraAdapter {
    /// A fresh adapter: `A` uniform as in PEFT (Kaiming with a = sqrt 5, so bound `1 / sqrt(inputs)`), `B` zero, so
    /// that training starts at the base model. Draws are keyed by seed, layer and name.
    pub fn new(config: LoraConfig, model: &DecoderConfig, seed: u64) -> Self {
        let mut factors = BTreeMap::new();
        for layer in 0..model.num_hidden_layers {
            for &name in &config.targets {
                let (outputs, inputs) = name.shape(model);
                let mut random = KeyedRandom::new(seed, &["lora", &layer.to_string(), name.as_str()]);
                let bound = 1.0 / (inputs as f64).sqrt();
                let a = (0..config.rank * inputs).map(|_| ((random.uniform() * 2.0 - 1.0) * bound) as f32).collect();
                let b = vec![0.0; outputs * config.rank];
                factors.insert((layer, name), Factors { outputs, inputs, a, b });
            }
        }
        Self { config, factors }
    }

    /// Rank, scale and targets.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Every trainable parameter with its values, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (Parameter, &[f32])> {
        self.factors.iter().flat_map(|(&(layer, name), factors)| {
            [(Parameter::LoraA(layer, name), &*factors.a), (Parameter::LoraB(layer, name), &*factors.b)]
        })
    }

    /// `A` `[rank, inputs]` and `B` `[outputs, rank]` of one linear layer, where it has them.
    pub(crate) fn factors(&self, layer: usize, name: LinearName) -> Option<[&[f32]; 2]> {
        self.factors.get(&(layer, name)).map(|factors| [&*factors.a, &*factors.b])
    }

    /// Every trainable parameter, to be changed.
    pub fn parameters_mut(&mut self) -> Vec<(Parameter, &mut [f32])> {
        let mut all = Vec::with_capacity(self.factors.len() * 2);
        for (&(layer, name), factors) in &mut self.factors {
            all.push((Parameter::LoraA(layer, name), factors.a.as_mut_slice()));
            all.push((Parameter::LoraB(layer, name), factors.b.as_mut_slice()));
        }
        all
    }

    /// Zero gradients for all parameters.
    pub fn gradients(&self) -> Gradients {
        Gradients::zeros(self.parameters().map(|(parameter, values)| (parameter, values.len())))
    }

    /// Number of trainable parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters().map(|(_, values)| values.len()).sum()
    }

    /// The form for multiplication.
    pub fn pack(&self) -> PackedAdapter {
        let (rank, scale) = (self.config.rank, self.config.scale());
        let pack =
            |factors: &Factors| PackedLora::new(&factors.a, &factors.b, factors.outputs, factors.inputs, rank, scale);
        PackedAdapter { linears: self.factors.iter().map(|(&key, factors)| (key, pack(factors))).collect() }
    }

    /// As [`LoraAdapter::pack`], with dropout of its own on every layer's input.
    pub(crate) fn pack_with_dropout(&self, probability: f32, key: u64) -> PackedAdapter {
        let mut packed = self.pack();
        if probability > 0.0 {
            for (place, lora) in packed.linears.values_mut().enumerate() {
                let key = key.wrapping_add((place as u64 + 1) << 40);
                *lora = lora.clone().with_dropout(Dropout { probability, key });
            }
        }
        packed
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them. Each file appears whole or not
    /// at all.
    pub fn save(&self, folder: &Path, base_model: &str) -> Result<(), NnError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |reason| NnError::Io { action: "write", path, reason }
        };
        fs::create_dir_all(folder).map_err(io(folder))?;
        let config = PeftConfig {
            peft_type: "LORA".into(),
            task_type: "CAUSAL_LM".into(),
            base_model_name_or_path: Some(base_model.into()),
            r: self.config.rank,
            lora_alpha: self.config.alpha,
            lora_dropout: self.config.dropout,
            bias: "none".into(),
            fan_in_fan_out: false,
            inference_mode: true,
            target_modules: self.config.targets.iter().map(|name| name.as_str().to_owned()).collect(),
            use_rslora: self.config.rank_stabilised,
            use_dora: false,
        };
        let json = serde_json::to_string_pretty(&config)
            .map_err(|error| NnError::Adapter { path: folder.into(), reason: error.to_string() })?;
        let path = folder.join("adapter_config.json");
        crate::atomic_write(&path, json.as_bytes()).map_err(io(&path))?;
        let path = folder.join("adapter_model.safetensors");
        let mut tensors = Vec::with_capacity(2 * self.factors.len());
        for (&(layer, name), factors) in &self.factors {
            let tensor = |values: &[f32], shape: (usize, usize)| Tensor::from_slice(values, shape, &Device::Cpu);
            let (a, b) = (Parameter::LoraA(layer, name).name(), Parameter::LoraB(layer, name).name());
            tensors.push((a, tensor(&factors.a, (self.config.rank, factors.inputs))?));
            tensors.push((b, tensor(&factors.b, (factors.outputs, self.config.rank))?));
        }
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let bytes = safetensors::serialize(tensors.iter().map(|(name, tensor)| (name, tensor)), Some(metadata))
            .map_err(|error| NnError::Adapter { path: path.clone(), reason: error.to_string() })?;
        crate::atomic_write(&path, &bytes).map_err(io(&path))
    }

    /// Reads an adapter folder as PEFT or [`LoraAdapter::save`] wrote it, for a model of `model`'s shape.
    pub fn load(folder: &Path, model: &DecoderConfig) -> Result<Self, NnError> {
        let mismatch = |reason: String| NnError::Adapter { path: folder.into(), reason };
        let config_path = folder.join("adapter_config.json");
        let text = fs::read_to_string(&config_path).map_err(|reason| NnError::Io {
            action: "read",
            path: config_path,
            reason,
        })?;
        let malformed = |error: serde_json::Error| mismatch(format!("`adapter_config.json`: {error}"));
        let config: Value = serde_json::from_str(&text).map_err(malformed)?;
        if let Some(setting) = unsupported(&config) {
            return Err(mismatch(format!("`adapter_config.json`: {setting}; only plain LoRA and rsLoRA can be read")));
        }
        let peft: PeftConfig = serde_json::from_value(config).map_err(malformed)?;
        let targets: Vec<LinearName> = LinearName::ALL
            .into_iter()
            .filter(|name| peft.target_modules.iter().any(|target| target == name.as_str()))
            .collect();
        if targets.len() != peft.target_modules.len() {
            return Err(mismatch(format!("unknown target among {:?}", peft.target_modules)));
        }
        let config = LoraConfig {
            rank: peft.r,
            alpha: peft.lora_alpha,
            rank_stabilised: peft.use_rslora,
            dropout: peft.lora_dropout,
            targets,
        };
        config.validate().map_err(|(name, reason)| mismatch(format!("`adapter_config.json`: `{name}` {reason}")))?;
        let path = folder.join("adapter_model.safetensors");
        let bytes = fs::read(&path).map_err(|reason| NnError::Io { action: "read", path, reason })?;
        let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| {
            mismatch(format!("`adapter_model.safetensors` cannot be read ({})", crate::gguf::first_line(&error)))
        })?;
        let mut factors = BTreeMap::new();
        for layer in 0..model.num_hidden_layers {
            for &name in &config.targets {
                let (outputs, inputs) = name.shape(model);
                let mut take = |parameter: Parameter, shape: [usize; 2]| -> Result<Vec<f32>, NnError> {
                    let key = parameter.name();
                    let tensor = tensors.remove(&key).ok_or_else(|| mismatch(format!("tensor `{key}` is missing")))?;
                    if tensor.dims() != shape {
                        return Err(mismatch(format!("tensor `{key}` is {:?}, expected {shape:?}", tensor.dims())));
                    }
                    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
                };
                let a = take(Parameter::LoraA(layer, name), [config.rank, inputs])?;
                let b = take(Parameter::LoraB(layer, name), [outputs, config.rank])?;
                factors.insert((layer, name), Factors { outputs, inputs, a, b });
            }
        }
        if let Some(name) = tensors.keys().min() {
            return Err(mismatch(format!("tensor `{name}` belongs to no layer of this model")));
        }
        Ok(Self { config, factors })
    }

    /// Files that make up an adapter folder, for hashing.
    pub fn files(folder: &Path) -> [PathBuf; 2] {
        [folder.join("adapter_config.json"), folder.join("adapter_model.safetensors")]
    }
}

/// An adapter ready for multiplication.
#[derive(Debug)]
pub struct PackedAdapter {
    linears: BTreeMap<(usize, LinearName), PackedLora>,
}

impl PackedAdapter {
    pub(crate) fn linear(&self, layer: usize, name: LinearName) -> Option<&PackedLora> {
        self.linears.get(&(layer, name))
    }
}

/// What sits on the base model during a forward pass.
#[derive(Debug, Clone, Copy, Default)]
pub enum Adapter<'a> {
    /// Nothing.
    #[default]
    Base,
    /// One adapter on all rows.
    Packed(&'a PackedAdapter),
    /// Adapters of their own on some rows of the batch, which must not overlap.
    Rows(&'a [(Range<usize>, &'a PackedAdapter)]),
}

impl<'a> Adapter<'a> {
    /// What applies to which rows of a batch of which only `rows` are left, in ascending order.
    pub(crate) fn ranges_among(self, rows: &[u32]) -> Vec<(Range<usize>, &'a PackedAdapter)> {
        let before = |row: usize| rows.partition_point(|&left| (left as usize) < row);
        match self {
            Self::Base => Vec::new(),
            Self::Packed(adapter) => vec![(0..rows.len(), adapter)],
            Self::Rows(parts) => parts
                .iter()
                .map(|(range, adapter)| (before(range.start)..before(range.end), *adapter))
                .filter(|(range, _)| !range.is_empty())
                .collect(),
        }
    }

    /// What applies to a linear layer in a batch of `rows` rows.
    pub(crate) fn rows(self, layer: usize, name: LinearName, rows: usize) -> Vec<AdaptedRows<'a>> {
        match self {
            Self::Base => Vec::new(),
            Self::Packed(adapter) => adapter.linear(layer, name).map(|lora| (0..rows, lora)).into_iter().collect(),
            Self::Rows(parts) => parts
                .iter()
                .filter_map(|(range, adapter)| adapter.linear(layer, name).map(|lora| (range.clone(), lora)))
                .collect(),
        }
    }
}
