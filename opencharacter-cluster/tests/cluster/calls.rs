//! One call at a time: what is asked, who may answer, what is refused.

use std::{future::pending, sync::atomic::Ordering, thread, time::Duration};

use async_nats::jetstream;
use futures_util::future::{join, join_all};
use opencharacter_cluster::{ClusterModel, ClusterOptions, Worker};
use opencharacter_core::{Generate, GenerateError, GenerateRequest, Message, ScoreRequest};
use tokio::time::{sleep, timeout};

use crate::support::{
    mock::{FINGERPRINT, Mock, request},
    server::Server,
    until,
};

const QUICK: Duration = Duration::from_millis(5);

async fn coordinator(server: &Server) -> ClusterModel {
    ClusterModel::connect(&server.url(), FINGERPRINT, ClusterOptions::default()).await.unwrap()
}

/// Runs `work` while these models work for the cluster.
async fn with_workers<T>(server: &Server, models: &[&Mock], work: impl Future<Output = T>) -> T {
    let url = server.url();
    let serving = join_all(models.iter().map(|model| async {
        let worker = Worker::connect(&url).await.unwrap();
        worker.run(*model, pending()).await.unwrap();
    }));
    tokio::select! {
        value = work => value,
        _ = serving => unreachable!("a worker that nobody stops goes on"),
    }
}

#[tokio::test]
async fn every_kind_of_call_gets_the_models_own_answer() {
    let server = Server::start();
    let cluster = coordinator(&server).await;
    let model = Mock::new(QUICK, 4);
    let score = ScoreRequest { messages: vec![Message::user("hello"), Message::assistant("hi")] };
    let schema = serde_json::json!({ "properties": { "b": {}, "a": {} } });
    let with_schema = GenerateRequest { schema: Some(schema), ..request("hello", 1) };
    let with_log_probs = GenerateRequest { log_probs: Some(2), ..request("hello", 1) };
    with_workers(&server, &[&model], async {
        for asked in [request("hello", 1), request("hello", 2), with_schema, with_log_probs] {
            assert_eq!(cluster.generate(asked.clone()).await, model.generate(asked).await);
        }
        assert_eq!(cluster.score(score.clone()).await, model.score(score).await);
        let (text, seen) = std::sync::mpsc::channel();
        let sink = Box::new(move |part: &str| text.send(part.to_owned()).unwrap());
        let streamed = cluster.stream(request("hello", 3), sink).await.unwrap();
        assert_eq!(seen.iter().collect::<String>(), streamed.text);
    })
    .await;
}

#[tokio::test]
async fn calls_in_flight_are_bounded_over_all_workers() {
    let server = Server::start();
    let options = ClusterOptions { calls_in_flight: 5, ..ClusterOptions::default() };
    let cluster = ClusterModel::connect(&server.url(), FINGERPRINT, options).await.unwrap();
    assert_eq!(cluster.concurrency(), 5);
    let first = Mock::new(Duration::from_millis(50), 8);
    let second = Mock { counts: first.counts.clone(), ..Mock::new(Duration::from_millis(50), 8) };
    let calls = join_all((0..60).map(|seed| cluster.generate(request("hello", seed))));
    let answers = with_workers(&server, &[&first, &second], calls).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(first.counts.done.load(Ordering::SeqCst), 60);
    assert_eq!(first.counts.most_under_way.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn one_call_for_all_who_ask_the_same() {
    let server = Server::start();
    let (cluster, other) = join(coordinator(&server), coordinator(&server)).await;
    let model = Mock::new(Duration::from_millis(100), 4);
    with_workers(&server, &[&model], async {
        let answers = join_all([&cluster, &cluster, &other].map(|asking| asking.generate(request("hello", 1)))).await;
        assert!(answers.iter().all(|answer| answer.is_ok() && *answer == answers[0]));
    })
    .await;
    assert_eq!(model.counts.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn calls_wait_for_a_worker_with_their_model() {
    let server = Server::start();
    let cluster = coordinator(&server).await;
    let stranger = Mock { fingerprint: "another model".into(), ..Mock::new(QUICK, 4) };
    let call = cluster.generate(request("hello", 1));
    let mut call = std::pin::pin!(call);
    let waited = with_workers(&server, &[&stranger], timeout(Duration::from_millis(1500), &mut call)).await;
    assert!(waited.is_err(), "{waited:?}");
    assert_eq!(stranger.counts.begun.load(Ordering::SeqCst), 0);
    let model = Mock::new(QUICK, 4);
    assert!(with_workers(&server, &[&model], call).await.is_ok());
}

#[tokio::test]
async fn of_two_workers_with_the_same_call_one_is_accepted() {
    let server = Server::start();
    let options = ClusterOptions { ack_wait: Duration::from_millis(200), ..ClusterOptions::default() };
    let cluster = ClusterModel::connect(&server.url(), FINGERPRINT, options).await.unwrap();
    // A worker whose whole process stands still while it calls: the server takes it for dead.
    let (url, stalled) = (server.url(), Mock { stalls: true, ..Mock::new(Duration::from_millis(1200), 1) });
    let counts = stalled.counts.clone();
    let stalled = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let worker = Worker::connect(&url).await.unwrap();
            let handed_in =
                async { until("its answer", || worker.status().superseded + worker.status().answered > 0).await };
            worker.run(&stalled, handed_in).await.unwrap();
            worker.status()
        })
    });
    let call = cluster.generate(request("hello", 1));
    let begun = async {
        until("the stalled call", || counts.begun.load(Ordering::SeqCst) == 1).await;
        let model = Mock::new(Duration::from_millis(50), 1);
        let worker = Worker::connect(&server.url()).await.unwrap();
        let finished = async { until("an answer", || worker.status().answered == 1).await };
        worker.run(&model, finished).await.unwrap();
        worker.status()
    };
    let (answer, quick) = join(call, begun).await;
    assert!(answer.is_ok());
    let stalled = tokio::task::spawn_blocking(|| stalled.join().unwrap()).await.unwrap();
    assert_eq!((quick.answered, quick.superseded), (1, 0));
    assert_eq!((stalled.answered, stalled.superseded), (0, 1));
    let info = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let mut messages = Vec::new();
    let mut streams = info.streams();
    while let Some(stream) = futures_util::StreamExt::next(&mut streams).await {
        let stream = stream.unwrap();
        messages.push((stream.config.name.rsplit('-').next().unwrap().to_owned(), stream.state.messages));
    }
    messages.sort();
    assert_eq!(messages, [("answers".to_owned(), 1), ("calls".to_owned(), 0)]);
}

#[tokio::test]
async fn what_the_server_does_not_take_is_refused() {
    let server = Server::start();
    let cluster = coordinator(&server).await;
    let refused = cluster.generate(request(&"long ".repeat(300_000), 1)).await;
    assert!(
        matches!(&refused, Err(GenerateError::Refused { reason }) if reason.contains("the call has 15")),
        "{refused:?}"
    );
    let wordy = Mock { answer_bytes: 2_000_000, ..Mock::new(QUICK, 4) };
    let refused = with_workers(&server, &[&wordy], cluster.generate(request("hello", 1))).await;
    assert!(
        matches!(&refused, Err(GenerateError::Refused { reason }) if reason.contains("the answer has 2000")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_failure_reaches_the_caller_and_answers_no_later_call() {
    let server = Server::start();
    // A worker is stopped at the answer, perhaps before it could acknowledge.
    let options = ClusterOptions { ack_wait: Duration::from_millis(500), ..ClusterOptions::default() };
    let cluster = ClusterModel::connect(&server.url(), FINGERPRINT, options).await.unwrap();
    for error in [
        GenerateError::Refused { reason: "too long".into() },
        GenerateError::Failed { model: FINGERPRINT.into(), reason: "cut short".into() },
        GenerateError::Unsupported { model: FINGERPRINT.into(), what: "scores".into() },
    ] {
        let failing = Mock { fails_with: Some(error.clone()), ..Mock::new(QUICK, 4) };
        let answer = with_workers(&server, &[&failing], cluster.generate(request("hello", 1))).await;
        assert_eq!(answer, Err(error));
        assert_eq!(failing.counts.begun.load(Ordering::SeqCst), 1);
    }
    let healthy = Mock::new(QUICK, 4);
    assert!(with_workers(&server, &[&healthy], cluster.generate(request("hello", 1))).await.is_ok());
}

#[tokio::test]
async fn a_model_that_is_gone_leaves_its_calls_to_others() {
    let server = Server::start();
    let cluster = coordinator(&server).await;
    let gone = GenerateError::Unavailable { model: FINGERPRINT.into(), reason: "connection refused".into() };
    let broken = Mock { fails_with: Some(gone), ..Mock::new(QUICK, 4) };
    let healthy = Mock::new(QUICK, 4);
    let calls = join_all((0..20).map(|seed| cluster.generate(request("hello", seed))));
    let answers = with_workers(&server, &[&broken, &healthy], calls).await;
    assert!(answers.iter().all(Result::is_ok));
    let tried = broken.counts.begun.load(Ordering::SeqCst);
    assert!(tried <= 12, "a broken worker took {tried} calls");
}

#[tokio::test]
async fn when_every_model_is_gone_the_run_is_told() {
    let server = Server::start();
    let cluster = coordinator(&server).await;
    let gone = GenerateError::Unavailable { model: FINGERPRINT.into(), reason: "connection refused".into() };
    let broken: Vec<Mock> = (0..5).map(|_| Mock { fails_with: Some(gone.clone()), ..Mock::new(QUICK, 1) }).collect();
    let answer = with_workers(&server, &broken.iter().collect::<Vec<_>>(), cluster.generate(request("hello", 1))).await;
    assert_eq!(answer, Err(gone));
    let tried: usize = broken.iter().map(|model| model.counts.begun.load(Ordering::SeqCst)).sum();
    assert_eq!(tried, 5);
}

#[tokio::test]
async fn a_worker_that_is_stopped_finishes_what_is_paid_for() {
    let server = Server::start();
    let cluster = coordinator(&server).await;
    let model = Mock::new(Duration::from_millis(400), 2);
    let worker = Worker::connect(&server.url()).await.unwrap();
    let stop = until("calls under way", || model.counts.under_way.load(Ordering::SeqCst) == 2);
    let calls = join_all((0..4).map(|seed| cluster.generate(request("hello", seed))));
    let mut calls = std::pin::pin!(calls);
    let stopped = async {
        worker.run(&model, stop).await.unwrap();
        sleep(Duration::from_millis(300)).await;
    };
    tokio::select! {
        _ = &mut calls => panic!("more was answered than was under way"),
        () = stopped => {}
    }
    assert_eq!((model.counts.begun.load(Ordering::SeqCst), model.counts.done.load(Ordering::SeqCst)), (2, 2));
    let next = Mock::new(QUICK, 2);
    assert!(with_workers(&server, &[&next], calls).await.iter().all(Result::is_ok));
    assert_eq!(next.counts.begun.load(Ordering::SeqCst), 2);
}
