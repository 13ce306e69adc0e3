//! Low-rank adapters (Hu et al., 2021): their factors, their files in PEFT's format, and their two forms in a forward
//! pass - trainable, and packed for speed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, Var};
use opencharacter_core::KeyedRandom;
use serde::{Deserialize, Serialize};

use crate::{
    DecoderConfig, LinearName, LoraFactors, NnError,
    ops::{PackedLora, floats},
};

/// The size of an adapter and where it sits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f32,
    /// Which linear layers get one, in every block.
    pub targets: Vec<LinearName>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, targets: LinearName::ALL.to_vec() }
    }
}

impl LoraConfig {
    /// Factor on the adapter's contribution.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }
}

/// An adapter whose factors can be trained.
#[derive(Debug)]
pub struct LoraAdapter {
    config: LoraConfig,
    factors: BTreeMap<(usize, LinearName), (Var, Var)>,
    /// The same factors as tracked tensors, ready for a forward pass.
    tracked: BTreeMap<(usize, LinearName), LoraFactors>,
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

impl LoraAdapter {
    /// A fresh adapter: `A` uniform as in PEFT (Kaiming with a = sqrt 5, so bound `1 / sqrt(inputs)`), `B` zero, so
    /// that training starts at the base model. Draws are keyed by seed, layer and name.
    pub fn new(config: LoraConfig, model: &DecoderConfig, seed: u64) -> Result<Self, NnError> {
        let mut factors = BTreeMap::new();
        for layer in 0..model.num_hidden_layers {
            for &name in &config.targets {
                let (outputs, inputs) = name.shape(model);
                let mut random = KeyedRandom::new(seed, &["lora", &layer.to_string(), name.as_str()]);
                let bound = 1.0 / (inputs as f64).sqrt();
                let a: Vec<f32> =
                    (0..config.rank * inputs).map(|_| ((random.uniform() * 2.0 - 1.0) * bound) as f32).collect();
                let a = Tensor::from_vec(a, (config.rank, inputs), &Device::Cpu)?;
                let b = Tensor::zeros((outputs, config.rank), DType::F32, &Device::Cpu)?;
                factors.insert((layer, name), (Var::from_tensor(&a)?, Var::from_tensor(&b)?));
            }
        }
        Ok(Self::from_factors(config, factors))
    }

    fn from_factors(config: LoraConfig, factors: BTreeMap<(usize, LinearName), (Var, Var)>) -> Self {
        let scale = config.scale();
        let tracked = factors
            .iter()
            .map(|(&key, (a, b))| (key, LoraFactors { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scale }))
            .collect();
        Self { config, factors, tracked }
    }

    /// Rank, scale and targets.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Every trainable variable with its PEFT name, in a fixed order.
    pub fn variables(&self) -> Vec<(String, &Var)> {
        let mut variables = Vec::with_capacity(self.factors.len() * 2);
        for (&(layer, name), (a, b)) in &self.factors {
            variables.push((peft_name(layer, name, "lora_A"), a));
            variables.push((peft_name(layer, name, "lora_B"), b));
        }
        variables
    }

    /// The trainable variables of one block with their places in [`LoraAdapter::variables`].
    pub fn block_variables(&self, layer: usize) -> Vec<(usize, &Var)> {
        self.factors
            .iter()
            .enumerate()
            .filter(|(_, ((of, _), _))| *of == layer)
            .flat_map(|(index, (_, (a, b)))| [(2 * index, a), (2 * index + 1, b)])
            .collect()
    }

    /// Number of trainable parameters.
    pub fn parameters(&self) -> usize {
        self.variables().iter().map(|(_, variable)| variable.elem_count()).sum()
    }

    /// The form for a forward pass through which gradients flow.
    pub fn trainable(&self) -> Adapter<'_> {
        Adapter::Trainable(self)
    }

    /// The form for generation.
    pub fn pack(&self) -> Result<PackedAdapter, NnError> {
        let mut linears = BTreeMap::new();
        for (&key, factors) in &self.tracked {
            let (outputs, rank) = factors.b.dims2()?;
            let inputs = factors.a.dim(1)?;
            let packed = floats(&factors.a, |a| {
                floats(&factors.b, |b| PackedLora::new(a, b, outputs, inputs, rank, factors.scale))
            })??;
            linears.insert(key, packed);
        }
        Ok(PackedAdapter { linears })
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
            lora_dropout: 0.0,
            bias: "none".into(),
            fan_in_fan_out: false,
            inference_mode: true,
            target_modules: self.config.targets.iter().map(|name| name.as_str().to_owned()).collect(),
            use_rslora: false,
            use_dora: false,
        };
        let json = serde_json::to_string_pretty(&config)
            .map_err(|error| NnError::Adapter { path: folder.into(), reason: error.to_string() })?;
        let path = folder.join("adapter_config.json");
        crate::atomic_write(&path, json.as_bytes()).map_err(io(&path))?;
        let path = folder.join("adapter_model.safetensors");
        let tensors: Vec<(String, Tensor)> =
            self.variables().into_iter().map(|(name, variable)| (name, variable.as_tensor().clone())).collect();
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
        let peft: PeftConfig =
            serde_json::from_str(&text).map_err(|error| mismatch(format!("`adapter_config.json`: {error}")))?;
        if peft.peft_type != "LORA" || peft.use_dora || peft.bias != "none" {
            return Err(mismatch("only LoRA without biases and without DoRA can be read".into()));
        }
        let targets: Vec<LinearName> = LinearName::ALL
            .into_iter()
            .filter(|name| peft.target_modules.iter().any(|target| target == name.as_str()))
            .collect();
        if targets.len() != peft.target_modules.len() {
            return Err(mismatch(format!("unknown target among {:?}", peft.target_modules)));
        }
        let alpha = if peft.use_rslora { peft.lora_alpha * (peft.r as f32).sqrt() } else { peft.lora_alpha };
        let config = LoraConfig { rank: peft.r, alpha, targets };
        let path = folder.join("adapter_model.safetensors");
        let bytes = fs::read(&path).map_err(|reason| NnError::Io { action: "read", path, reason })?;
        let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| {
            mismatch(format!("`adapter_model.safetensors` cannot be read ({})", crate::gguf::first_line(&error)))
        })?;
        let mut factors = BTreeMap::new();
        for layer in 0..model.num_hidden_layers {
            for &name in &config.targets {
                let (outputs, inputs) = name.shape(model);
                let mut take = |kind: &str, shape: [usize; 2]| -> Result<Var, NnError> {
                    let key = peft_name(layer, name, kind);
                    let tensor = tensors.remove(&key).ok_or_else(|| mismatch(format!("tensor `{key}` is missing")))?;
                    if tensor.dims() != shape {
                        return Err(mismatch(format!("tensor `{key}` is {:?}, expected {shape:?}", tensor.dims())));
                    }
                    Ok(Var::from_tensor(&tensor.to_dtype(DType::F32)?)?)
                };
                let a = take("lora_A", [config.rank, inputs])?;
                let b = take("lora_B", [outputs, config.rank])?;
                factors.insert((layer, name), (a, b));
            }
        }
        if let Some(name) = tensors.keys().min() {
            return Err(mismatch(format!("tensor `{name}` belongs to no layer of this model")));
        }
        Ok(Self::from_factors(config, factors))
    }

    /// Files that make up an adapter folder, for hashing.
    pub fn files(folder: &Path) -> [PathBuf; 2] {
        [folder.join("adapter_config.json"), folder.join("adapter_model.safetensors")]
    }
}

fn peft_name(layer: usize, name: LinearName, kind: &str) -> String {
    format!("base_model.model.model.layers.{layer}.{}.{}.{kind}.weight", name.module(), name.as_str())
}

/// An adapter ready for generation.
#[derive(Debug)]
pub struct PackedAdapter {
    linears: BTreeMap<(usize, LinearName), PackedLora>,
}

/// What sits on the base model during a forward pass.
#[derive(Debug, Clone, Copy, Default)]
pub enum Adapter<'a> {
    /// Nothing.
    #[default]
    Base,
    /// An adapter whose factors receive gradients.
    Trainable(&'a LoraAdapter),
    /// An adapter packed for speed.
    Packed(&'a PackedAdapter),
}

/// What sits on one linear layer.
pub(crate) enum LinearAdapter<'a> {
    Base,
    Trainable(&'a LoraFactors),
    Packed(&'a PackedLora),
}

impl<'a> Adapter<'a> {
    pub(crate) fn linear(self, layer: usize, name: LinearName) -> LinearAdapter<'a> {
        match self {
            Self::Base => LinearAdapter::Base,
            Self::Trainable(adapter) => {
                adapter.tracked.get(&(layer, name)).map_or(LinearAdapter::Base, LinearAdapter::Trainable)
            }
            Self::Packed(adapter) => {
                adapter.linears.get(&(layer, name)).map_or(LinearAdapter::Base, LinearAdapter::Packed)
            }
        }
    }
}
