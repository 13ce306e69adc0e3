use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use opencharacter_engine::{Engine, EngineOptions};
use opencharacter_nn::{LoraAdapter, Model, file_hash};

use crate::{cli::ModelChoice, model_source};

/// Fetches if need be, verifies and loads a model.
pub fn load(name: &str) -> Result<Arc<Model>> {
    let path = model_source::resolve(name)?;
    Ok(Arc::new(Model::load(&path)?))
}

/// An engine over `model`, with the adapter in `folder` where there is one.
pub fn engine(model: &Arc<Model>, adapter: Option<&Path>, options: EngineOptions) -> Result<Engine> {
    let adapter = match adapter {
        None => None,
        Some(folder) => {
            let packed = LoraAdapter::load(folder, model.decoder.config())?.pack();
            Some((packed, file_hash(&LoraAdapter::files(folder))?))
        }
    };
    Engine::start(Arc::clone(model), adapter, options).context("the engine cannot start")
}

/// The engine that a command's `--model` and `--adapter` ask for.
pub fn chosen(choice: &ModelChoice) -> Result<Engine> {
    engine(&load(&choice.model)?, choice.adapter.as_deref(), EngineOptions::default())
}
