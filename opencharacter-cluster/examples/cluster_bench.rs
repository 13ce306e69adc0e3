//! Calls per second with 1, 2 and 3 workers against a model that takes 200 ms, and without latency.
//!
//!     cargo run --release -p opencharacter-cluster --example cluster_bench
//!
//! Server, workers (a process each) and coordinator share this machine. Needs `nats-server` in the path and the example
//! `cluster_process`, which `cargo build --release -p opencharacter-cluster --examples` makes.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{error::Error, path::Path, time::Instant};

use futures_util::{StreamExt as _, stream};
use opencharacter_cluster::{ClusterModel, ClusterOptions};
use opencharacter_core::Generate as _;

use support::{
    mock::{FINGERPRINT, request},
    process::Process,
    server::Server,
};

/// Calls that each worker has under way.
const CONCURRENCY: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("latency  workers  calls  seconds  calls/s  of the ideal");
    for (latency_ms, calls_per_worker) in [(200, 1_600), (0, 8_000)] {
        for workers in 1..=3 {
            let calls = calls_per_worker * workers;
            let seconds = measure(latency_ms, workers, calls).await?;
            let rate = calls as f64 / seconds;
            let ideal = (workers * CONCURRENCY) as f64 * 1000.0 / latency_ms as f64;
            let share = if latency_ms == 0 { "-".into() } else { format!("{:.0} %", 100.0 * rate / ideal) };
            println!("{latency_ms:>4} ms  {workers:>7}  {calls:>5}  {seconds:>7.2}  {rate:>7.0}  {share:>12}");
        }
    }
    Ok(())
}

/// Seconds for `calls` calls, after as many as warm every worker.
async fn measure(latency_ms: u64, workers: usize, calls: usize) -> Result<f64, Box<dyn Error>> {
    let server = Server::start();
    let options = ClusterOptions::default();
    let model = ClusterModel::connect(&server.url(), FINGERPRINT, options).await?;
    let _workers: Vec<_> =
        (0..workers).map(|_| Process::worker(&server.url(), Path::new("-"), latency_ms, CONCURRENCY)).collect();
    run(&model, "warm", 4 * workers * CONCURRENCY).await?;
    let start = Instant::now();
    run(&model, "timed", calls).await?;
    Ok(start.elapsed().as_secs_f64())
}

async fn run(model: &ClusterModel, name: &str, calls: usize) -> Result<(), Box<dyn Error>> {
    // About as long as a prompt of synthesis.
    let prompt = format!("{name} {}", "word ".repeat(400));
    let mut answers = stream::iter(0..calls as u64)
        .map(|seed| model.generate(request(&prompt, seed)))
        .buffer_unordered(model.concurrency());
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}
