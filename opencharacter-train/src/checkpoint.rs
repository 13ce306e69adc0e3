//! Checkpoints: everything that decides the next step, in a folder that appears whole or not at all.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use opencharacter_core::{content_hash, hex};
use opencharacter_nn::Parameter;
use serde::{Deserialize, Serialize};

use crate::{TrainError, Trainer};

/// What a checkpoint says beside weights and moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Steps done.
    pub(crate) step: usize,
    /// Tokens seen, untrained ones included.
    pub(crate) tokens: u64,
    /// Seconds spent so far, over all sessions.
    pub(crate) seconds: f64,
    /// Held-out loss before the first step, where there are held-out examples.
    #[serde(default)]
    pub(crate) held_out_before: Option<f64>,
    /// What was trained on what with which settings.
    pub(crate) run: String,
    /// SHA-256 of weights and moments, so that a damaged checkpoint is not taken for whole.
    pub(crate) hash: String,
}

const STATE: &str = "state.json";
const MOMENTS: &str = "optimizer.safetensors";
const WEIGHTS: &str = "weights.safetensors";

/// The newest checkpoints of one run.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TrainError + use<> {
    let path = path.to_path_buf();
    move |reason| TrainError::Io { action, path, reason }
}

impl Checkpoints {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes a checkpoint and drops all but the last two.
    pub(crate) fn save(&self, trainer: &mut Trainer, base_model: &str, mut state: State) -> Result<(), TrainError> {
        let temporary = self.folder.join("unfinished.tmp");
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(io_error("write", &temporary))?;
        }
        fs::create_dir_all(&temporary).map_err(io_error("write", &temporary))?;
        trainer.save(&temporary, base_model)?;
        state.hash = hash(&temporary)?;
        let path = temporary.join(STATE);
        let json = serde_json::to_string_pretty(&state).unwrap_or_default();
        opencharacter_nn::atomic_write(&path, json.as_bytes()).map_err(io_error("write", &path))?;
        let target = self.folder.join(format!("step-{:07}", state.step));
        if target.exists() {
            fs::remove_dir_all(&target).map_err(io_error("write", &target))?;
        }
        fs::rename(&temporary, &target).map_err(io_error("write", &target))?;
        let all = self.list()?;
        for old in &all[..all.len().saturating_sub(2)] {
            fs::remove_dir_all(old).map_err(io_error("write", old))?;
        }
        Ok(())
    }

    /// Checkpoint folders, oldest first.
    fn list(&self) -> Result<Vec<PathBuf>, TrainError> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io_error("read", &self.folder))? {
            let path = entry.map_err(io_error("read", &self.folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.strip_prefix("step-").is_some_and(|step| step.parse::<usize>().is_ok()) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// The newest undamaged checkpoint of `run`, if there is one: its folder and state. A damaged one is passed over
    /// for the one before it, and `damaged` is told.
    pub(crate) fn latest(&self, run: &str, damaged: impl Fn(&Path)) -> Result<Option<(PathBuf, State)>, TrainError> {
        for folder in self.list()?.into_iter().rev() {
            if let Some(state) = read_state(&folder) {
                if state.run != run {
                    return Err(TrainError::OtherRun { path: self.folder.clone() });
                }
                if hash(&folder).is_ok_and(|hash| hash == state.hash) {
                    return Ok(Some((folder, state)));
                }
            }
            damaged(&folder);
        }
        Ok(None)
    }
}

fn read_state(folder: &Path) -> Option<State> {
    serde_json::from_str(&fs::read_to_string(folder.join(STATE)).ok()?).ok()
}

fn hash(folder: &Path) -> Result<String, TrainError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("read", folder))? {
        let path = entry.map_err(io_error("read", folder))?.path();
        if path.file_name().is_some_and(|name| name != STATE) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut parts = Vec::new();
    for path in paths {
        parts.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned().into_bytes());
        parts.push(fs::read(&path).map_err(io_error("read", &path))?);
    }
    Ok(hex(&content_hash(&parts)))
}

/// Writes the optimiser's moments into `folder`.
pub(crate) fn save_moments(folder: &Path, moments: &[(String, Tensor)]) -> Result<(), TrainError> {
    save_tensors(&folder.join(MOMENTS), moments)
}

/// The moments of the checkpoint in `folder`.
pub(crate) fn load_moments(folder: &Path) -> Result<HashMap<String, Tensor>, TrainError> {
    Ok(candle_core::safetensors::load(folder.join(MOMENTS), &Device::Cpu)?)
}

/// Writes weights into `folder`, each in the layout in which it is trained.
pub(crate) fn save_weights(folder: &Path, weights: &[(Parameter, &mut [f32])]) -> Result<(), TrainError> {
    let mut tensors = Vec::with_capacity(weights.len());
    for (parameter, values) in weights {
        tensors.push((parameter.name(), Tensor::from_slice(values, values.len(), &Device::Cpu)?));
    }
    save_tensors(&folder.join(WEIGHTS), &tensors)
}

/// Reads the weights that [`save_weights`] wrote; names the first that is missing.
pub(crate) fn load_weights(folder: &Path, weights: Vec<(Parameter, &mut [f32])>) -> Result<(), TrainError> {
    let saved = candle_core::safetensors::load(folder.join(WEIGHTS), &Device::Cpu)?;
    for (parameter, values) in weights {
        let name = parameter.name();
        let tensor = saved
            .get(&name)
            .filter(|tensor| tensor.elem_count() == values.len())
            .ok_or_else(|| TrainError::Tensor(candle_core::Error::Msg(format!("checkpoint has no usable `{name}`"))))?;
        values.copy_from_slice(&tensor.to_vec1::<f32>()?);
    }
    Ok(())
}

fn save_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
    let bytes = safetensors::serialize(tensors.iter().map(|(name, tensor)| (name, tensor)), None)
        .map_err(|error| TrainError::Tensor(candle_core::Error::Msg(error.to_string())))?;
    opencharacter_nn::atomic_write(path, &bytes).map_err(io_error("write", path))
}
