use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use opencharacter_core::Generate;
use opencharacter_engine::{Engine, EngineOptions};
use opencharacter_nn::{LoraAdapter, Model, file_hash};
use opencharacter_remote::{BatchModel, RemoteModel};

use crate::{cli::ModelChoice, model_recipe::ModelRecipe, model_source};

/// Fetches if need be, verifies and loads a model.
pub fn load(name: &str) -> Result<Arc<Model>> {
    let path = model_source::resolve(name)?;
    Ok(Arc::new(Model::load(&path)?))
}

/// The model that a recipe names, as something to be asked. `loaded` is an embedded model that is in memory already;
/// `work` names what the calls are for, so that the same work finds the batches that it submitted before.
pub fn generator(
    recipe: &ModelRecipe,
    loaded: Option<(&ModelRecipe, &Arc<Model>)>,
    work: &str,
) -> Result<Box<dyn Generate>> {
    let told = |notice| eprintln!("{notice}");
    let unusable = "the remote model cannot be used";
    match (recipe, loaded) {
        (ModelRecipe::OpenAi(model), _) if model.batch => {
            Ok(Box::new(BatchModel::open(model.batch_config(work)?, told).context(unusable)?))
        }
        (ModelRecipe::OpenAi(model), _) => Ok(Box::new(RemoteModel::new(model.config()?, told).context(unusable)?)),
        (_, Some((name, model))) if name == recipe => Ok(Box::new(engine(model, EngineOptions::default())?)),
        (ModelRecipe::Embedded(name), _) => Ok(Box::new(engine(&load(name)?, EngineOptions::default())?)),
    }
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
