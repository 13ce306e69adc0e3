//! Cancelling: nothing begins any more, what is under way stops, nothing is left behind.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_nats::jetstream;
use futures_util::{StreamExt as _, future::join_all};
use opencharacter_cluster::{ClusterModel, ClusterOptions, Worker};
use opencharacter_core::{Generate as _, GenerateError};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::support::{
    mock::{Counts, FINGERPRINT, Mock, request},
    server::Server,
    until,
};

const LONG: Duration = Duration::from_secs(30);

async fn coordinator(server: &Server) -> Arc<ClusterModel> {
    Arc::new(ClusterModel::connect(&server.url(), FINGERPRINT, ClusterOptions::default()).await.unwrap())
}

fn worker(server: &Server, model: Mock) -> (Arc<Counts>, JoinHandle<()>) {
    let (url, counts) = (server.url(), Arc::clone(&model.counts));
    let working =
        tokio::spawn(async move { Worker::connect(&url).await.unwrap().run(&model, pending()).await.unwrap() });
    (counts, working)
}

fn under_way(counts: &Counts) -> usize {
    counts.under_way.load(Ordering::SeqCst)
}

/// Messages in all streams.
async fn stored(server: &Server) -> u64 {
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let mut streams = context.streams();
    let mut messages = 0;
    while let Some(stream) = streams.next().await {
        messages += stream.unwrap().state.messages;
    }
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_stops_everywhere_within_a_second() {
    let server = Server::start();
    let cluster = coordinator(&server).await;
    let workers: Vec<_> = (0..3).map(|_| worker(&server, Mock::new(LONG, 8))).collect();
    let asking = Arc::clone(&cluster);
    let run = tokio::spawn(async move { join_all((0..100).map(|seed| asking.generate(request("hello", seed)))).await });
    let all = || workers.iter().map(|(counts, _)| under_way(counts)).sum::<usize>();
    until("24 calls under way", || all() == 24).await;

    // As Ctrl-C does: the work is dropped, then the cluster is told.
    let start = Instant::now();
    run.abort();
    cluster.close().await;
    until("no call under way", || all() == 0).await;
    let seconds = start.elapsed().as_secs_f64();
    println!("cancelled within {seconds:.3} s");
    assert!(seconds < 1.0, "it took {seconds} s");

    sleep(Duration::from_secs(1)).await;
    let begun: usize = workers.iter().map(|(counts, _)| counts.begun.load(Ordering::SeqCst)).sum();
    assert_eq!(begun, 24, "calls of a cancelled run began");
    assert_eq!(stored(&server).await, 0);
    let later = cluster.generate(request("hello", 0)).await;
    assert!(matches!(later, Err(GenerateError::Unavailable { .. })), "{later:?}");
    // The workers are there for the next run.
    let next = coordinator(&server).await;
    let asking = tokio::spawn(async move { next.generate(request("hello", 0)).await });
    until("the next run's call", || all() == 1).await;
    asking.abort();
    for (_, working) in &workers {
        working.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_no_longer_waited_for_stops_alone() {
    let server = Server::start();
    let (cluster, other) = (coordinator(&server).await, coordinator(&server).await);
    let (counts, working) = worker(&server, Mock::new(LONG, 8));
    let ask = |cluster: &Arc<ClusterModel>, seed| {
        let cluster = Arc::clone(cluster);
        tokio::spawn(async move { cluster.generate(request("hello", seed)).await })
    };
    let calls: Vec<_> = (0..3).map(|seed| ask(&cluster, seed)).collect();
    // Another run wants one of them too.
    let shared = ask(&other, 0);
    until("calls under way", || under_way(&counts) == 3).await;
    sleep(Duration::from_millis(200)).await;
    calls[0].abort();
    calls[1].abort();
    until("a call stopped", || under_way(&counts) == 2).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(under_way(&counts), 2);
    assert!(!calls[2].is_finished() && !shared.is_finished());
    working.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_run_leaves_nothing_on_the_server() {
    let server = Server::start();
    let cluster = coordinator(&server).await;
    let (_, working) = worker(&server, Mock::new(Duration::from_millis(1), 8));
    let answers = join_all((0..50).map(|seed| cluster.generate(request("hello", seed)))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(stored(&server).await >= 50, "answers stay until the caller surely has them");
    cluster.close().await;
    assert_eq!(stored(&server).await, 0);
    working.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_loses_its_server_for_too_long_stops() {
    let mut server = Server::start();
    let options = ClusterOptions { patience: Duration::from_secs(1), ..ClusterOptions::default() };
    let cluster = ClusterModel::connect(&server.url(), FINGERPRINT, options).await.unwrap();
    let call = cluster.generate(request("hello", 1));
    let mut call = std::pin::pin!(call);
    assert!(timeout(Duration::from_millis(300), &mut call).await.is_err());
    server.kill();
    let lost = timeout(Duration::from_secs(25), call).await.expect("it must give up");
    assert!(matches!(&lost, Err(GenerateError::Unavailable { reason, .. }) if reason.contains("is lost")), "{lost:?}");
}
