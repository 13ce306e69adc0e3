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

/// An engine over `model`.
pub fn engine(model: &Arc<Model>, options: EngineOptions) -> Result<Engine> {
    Engine::start(Arc::clone(model), options).context("the engine cannot start")
}

/// A handle on `engine` that answers with the adapter in `folder`.
pub fn adapted(engine: &Engine, folder: &Path) -> Result<Engine> {
    let adapter = LoraAdapter::load(folder, engine.model().decoder.config())?;
    Ok(engine.with_adapter(adapter.pack(), file_hash(&LoraAdapter::files(folder))?))
}

/// The engine that a command's `--model` and `--adapter` ask for.
pub fn chosen(choice: &ModelChoice, options: EngineOptions) -> Result<Engine> {
    let engine = engine(&load(&choice.model)?, options)?;
    match &choice.adapter {
        Some(folder) => adapted(&engine, folder),
        None => Ok(engine),
    }
}
