//! `--cluster` and `worker`: the same calls, answered on other machines.

use std::time::{Duration, Instant};

use anyhow::Result;
use opencharacter_cluster::{ClusterModel, ClusterOptions, Worker, WorkerStatus};
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
    let model = models::generator(&recipe, None, "worker")?;
    let worker = Worker::connect(&arguments.cluster).await?;
    eprintln!("answering calls of `{}`; Ctrl-C ends it", model.fingerprint());
    let stop = watch(&worker, interrupt);
    worker.run(&*model, stop).await?;
    eprintln!("{}", figures(&worker.status()));
    Ok(())
}

/// Says what troubles a worker, and what it has done every minute, until Ctrl-C is pressed.
async fn watch(worker: &Worker, interrupt: &Interrupt) {
    const TICK: Duration = Duration::from_millis(100);
    const MINUTE: Duration = Duration::from_mins(1);
    let (mut trouble, mut said, mut shown) = (None, Instant::now(), worker.status());
    while interrupt.check().is_ok() {
        tokio::time::sleep(TICK).await;
        let status = worker.status();
        if status.trouble != trouble {
            eprintln!("{}", status.trouble.as_deref().unwrap_or("working again"));
            trouble.clone_from(&status.trouble);
        }
        if said.elapsed() >= MINUTE {
            said = Instant::now();
            if status != shown {
                eprintln!("{}", figures(&status));
                shown = status;
            }
        }
    }
}

fn figures(status: &WorkerStatus) -> String {
    let WorkerStatus { under_way, answered, failed, superseded, dropped, .. } = status;
    format!(
        "{answered} calls answered, {failed} failed, {superseded} answered by others too, {dropped} dropped, {under_way} \
         under way"
    )
}
