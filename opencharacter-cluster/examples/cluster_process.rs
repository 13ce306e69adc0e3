//! A worker or a coordinator with a model that answers with hashes: what the tests kill and `cluster_bench` measures.
//!
//!     cluster_process worker URL LOG LATENCY_MS CONCURRENCY
//!     cluster_process coordinator URL LEDGER ITEMS CALLS_IN_FLIGHT ROWS

#[path = "../tests/support/mod.rs"]
mod support;

use std::{env, error::Error, fs, future::pending, path::Path, time::Duration};

use opencharacter_cluster::{ClusterModel, ClusterOptions, Worker};

use support::{
    job,
    mock::{FINGERPRINT, Mock},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker", url, log, latency, concurrency] => {
            let model = Mock::new(Duration::from_millis(latency.parse()?), concurrency.parse()?);
            let model = if log == "-" { model } else { model.logging(Path::new(log)) };
            Worker::connect(url).await?.run(&model, pending()).await?;
        }
        ["coordinator", url, ledger, items, in_flight, rows] => {
            let options = ClusterOptions {
                calls_in_flight: in_flight.parse()?,
                ack_wait: Duration::from_secs(2),
                ..ClusterOptions::default()
            };
            let model = ClusterModel::connect(url, FINGERPRINT, options).await?;
            let made = job::work(&model, Path::new(ledger), items.parse()?).await;
            model.close().await;
            fs::write(rows, made?.join("\n"))?;
        }
        _ => return Err("see the head of this file for its arguments".into()),
    }
    Ok(())
}
