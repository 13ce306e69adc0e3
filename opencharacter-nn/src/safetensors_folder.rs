//! Hugging Face model folders in: `config.json` and one or more `*.safetensors` files, which
//! `model.safetensors.index.json` names where there are several.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, safetensors::MmapedSafetensors};

use crate::{
    DecoderConfig, LinearName, NnError, NormName, Parameter,
    config_json::ConfigJson,
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
        let files = weight_files(folder)?;
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
        self.parsed_config().map(|parsed| parsed.decoder)
    }

    fn parsed_config(&self) -> Result<ConfigJson, NnError> {
        ConfigJson::parse(&self.json, &self.path.join("config.json"))
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

/// The files that `model.safetensors.index.json` names, else `model.safetensors`, else all `*.safetensors` files; sorted
/// by name. Folders can hold others beside: the same weights once more in the author's format, or an adapter.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, NnError> {
    let index = folder.join("model.safetensors.index.json");
    if index.exists() {
        return indexed_files(folder, &index);
    }
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let io = |reason| NnError::Io { action: "read", path: folder.into(), reason };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(NnError::Malformed { path: folder.into(), reason: "it holds no `*.safetensors` file".into() });
    }
    Ok(files)
}

/// The shards that an index names, all of which must be there.
fn indexed_files(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, NnError> {
    let malformed = |reason: String| NnError::Malformed { path: index.into(), reason };
    let text =
        fs::read_to_string(index).map_err(|reason| NnError::Io { action: "read", path: index.into(), reason })?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| malformed(format!("it is not JSON: {error}")))?;
    let map = json["weight_map"].as_object().ok_or_else(|| malformed("`weight_map` is missing".into()))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        // A bare name: an index must not reach outside its folder.
        let name = file.as_str().filter(|name| Path::new(name).file_name().is_some_and(|bare| bare == *name));
        names.insert(name.ok_or_else(|| malformed(format!("`weight_map` names no file for tensor `{tensor}`")))?);
    }
    if names.is_empty() {
        return Err(malformed("`weight_map` names no file".into()));
    }
    if let Some(missing) = names.iter().find(|name| !folder.join(name).is_file()) {
        let reason = format!("its shard `{missing}` is missing; fetch that file into the same folder");
        return Err(malformed(reason));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

impl WeightSource for SafetensorsFolder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn check(&self, config: &DecoderConfig) -> Result<(), NnError> {
        let parsed = self.parsed_config()?;
        // Llama checkpoints of before 2024 store the rotary embedding's frequencies, which follow from the config.
        let names = self.shapes.keys().map(String::as_str).filter(|name| !name.ends_with("rotary_emb.inv_freq"));
        let checked = parsed.architecture.check_tensors(config, parsed.biases, names, Parameter::name);
        checked.map_err(|reason| NnError::Malformed { path: self.path.clone(), reason })
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
        let (parameter, length) = name.parameter(layer, config);
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
