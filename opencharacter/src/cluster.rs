//! `--cluster` and `worker`: the same calls, answered on other machines.

use std::time::Duration;

use anyhow::Result;
use opencharacter_cluster::{ClusterModel, ClusterOptions, Worker};
use opencharacter_core::Generate;

use crate::{
    cli::WorkerArguments,
    interrupt::Interrupt,
    model_recipe::{ModelRecipe, Models},
    models,
};

/// A model that the workers of a cluster answer for. `model` is asked for its fingerprint alone.
pub async fn model(url: &str, model: &dyn Generate) -> Result<ClusterModel> {
    Ok(ClusterModel::connect(url, model.fingerprint(), ClusterOptions::default()).await?)
}

/// `opencharacter worker`
pub async fn worker(arguments: &WorkerArguments, interrupt: &Interrupt) -> Result<()> {
    let recipe = match &arguments.models {
        Some(path) => Models::read(path)?.teacher,
        None => ModelRecipe::Embedded(arguments.model.clone()),
    };
    let model = models::generator(&recipe, None)?;
    let worker = Worker::connect(&arguments.cluster).await?;
    eprintln!("answering calls of `{}` from {}; Ctrl-C ends it", model.fingerprint(), arguments.cluster);
    let stop = async {
        while interrupt.check().is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    worker.run(&*model, stop).await?;
    let status = worker.status();
    eprintln!("{status:?}");
    Ok(())
}
