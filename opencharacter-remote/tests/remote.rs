//! A remote model against an endpoint that misbehaves.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all, stream};
use opencharacter_core::{
    Completion, FinishReason, Generate, GenerateError, GenerateRequest, Message, Sampling, conformance::examine,
};
use opencharacter_remote::{
    EndpointConfig, Notice, RemoteConfig, RemoteModel,
    mock::{MockEndpoint, MockFault, MockOptions},
};
use serde_json::json;

fn config(mocks: &[&MockEndpoint]) -> RemoteConfig {
    let endpoints = mocks.iter().map(|mock| EndpointConfig::new(&mock.base_url(), None).unwrap()).collect();
    RemoteConfig { request_timeout: Duration::from_secs(2), ..RemoteConfig::new("mock", endpoints) }
}

fn request(text: &str) -> GenerateRequest {
    let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
    GenerateRequest { messages: vec![Message::user(text)], sampling, schema: None, log_probs: None }
}

async fn ask_all(model: &RemoteModel, count: usize) -> Vec<Result<Completion, GenerateError>> {
    let calls = (0..count).map(|number| model.generate(request(&number.to_string())));
    stream::iter(calls).buffered(model.concurrency()).collect().await
}

#[tokio::test]
async fn an_answer_is_what_the_endpoint_said() {
    let mock = MockEndpoint::start(MockOptions::default()).await.unwrap();
    let model = RemoteModel::new(config(&[&mock]), |_| {}).unwrap();
    let completion = model.generate(request("Good day")).await.unwrap();
    assert_eq!(completion.text, "You said: Good day");
    assert_eq!(
        (completion.finish, completion.prompt_tokens, completion.completion_tokens),
        (FinishReason::Stop, 10, 4)
    );
    let pieces = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&pieces);
    let shown = Box::new(move |piece: &str| sink.lock().unwrap().push(piece.to_owned()));
    let streamed = model.stream(request("Good day"), shown).await.unwrap();
    assert_eq!(streamed, completion);
    assert_eq!(*pieces.lock().unwrap(), ["You ", "said: ", "Good ", "day"]);
    assert!(matches!(
        model.score(opencharacter_core::ScoreRequest { messages: Vec::new() }).await,
        Err(GenerateError::Unsupported { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_ends_with_its_own_answer_whatever_the_endpoint_does() {
    let faults = vec![
        (MockFault::TooMany, 0.05),
        (MockFault::TooManyFor(0), 0.03),
        (MockFault::ServerError, 0.05),
        (MockFault::Reset, 0.05),
        (MockFault::HalfReply, 0.05),
        (MockFault::Stall(Duration::from_mins(1)), 0.005),
        (MockFault::NotJson, 0.02),
        (MockFault::Empty, 0.02),
        (MockFault::Unfinished, 0.02),
    ];
    let latency = Duration::from_millis(5);
    let mock = MockEndpoint::start(MockOptions { latency, faults, seed: 3, ..MockOptions::default() }).await.unwrap();
    let model = RemoteModel::new(config(&[&mock]), |_| {}).unwrap();
    let results = ask_all(&model, 600).await;
    let mut failed = 0;
    for (number, result) in results.iter().enumerate() {
        match result {
            Ok(completion) => assert_eq!(completion.text, format!("You said: {number}")),
            // Three unusable answers in a row: at 6 % each, one call in some thousands.
            Err(GenerateError::Failed { reason, .. }) => {
                assert!(reason.contains("could not be used"), "{reason}");
                failed += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(failed <= 3, "{failed} of 600");
    let statistics = model.statistics();
    assert_eq!(statistics.answers, 600 - failed);
    // Nobody but a stalled call's second try was answered twice.
    let (different, answers) = mock.answered();
    assert_eq!(different as u64, 600 - failed);
    assert!(answers - different as u64 <= 10, "{answers} answers to {different} calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_finds_what_an_endpoint_bears() {
    let options = MockOptions { latency: Duration::from_millis(20), capacity: 40, ..MockOptions::default() };
    let mock = MockEndpoint::start(options).await.unwrap();
    let model = RemoteModel::new(RemoteConfig { max_in_flight: 1000, ..config(&[&mock]) }, |_| {}).unwrap();
    let results = ask_all(&model, 2000).await;
    assert!(results.iter().all(Result::is_ok));
    let statistics = model.statistics();
    assert!((10..=60).contains(&statistics.window), "{statistics:?}");
    assert!(statistics.overloads < 400, "{statistics:?}");
}

#[tokio::test]
async fn a_pause_that_was_asked_for_is_kept_by_all() {
    let faults = vec![(MockFault::TooManyFor(1), 0.5)];
    let mock = MockEndpoint::start(MockOptions { faults, seed: 2, ..MockOptions::default() }).await.unwrap();
    let model = RemoteModel::new(RemoteConfig { max_in_flight: 1, ..config(&[&mock]) }, |_| {}).unwrap();
    let started = Instant::now();
    let results = ask_all(&model, 6).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let overloads = model.statistics().overloads;
    assert!(overloads >= 1, "the draw has changed");
    assert!(started.elapsed() >= Duration::from_secs(overloads), "{overloads} pauses in {:?}", started.elapsed());
}

#[tokio::test]
async fn a_dead_endpoint_ends_the_run_in_the_time_that_was_said() {
    let mock = MockEndpoint::start(MockOptions::default()).await.unwrap();
    let config = RemoteConfig { down_after: Duration::from_secs(3), ..config(&[&mock]) };
    let model = RemoteModel::new(config, |_| {}).unwrap();
    model.generate(request("Are you there?")).await.unwrap();
    drop(mock);
    let started = Instant::now();
    for result in ask_all(&model, 100).await {
        let Err(GenerateError::Unavailable { reason, .. }) = &result else { panic!("{result:?}") };
        assert!(reason.contains("run again"), "{reason}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_where_the_model_is_served() {
    let options = MockOptions { latency: Duration::from_millis(5), ..MockOptions::default() };
    let mocks = [MockEndpoint::start(options.clone()).await.unwrap(), MockEndpoint::start(options).await.unwrap()];
    let model = RemoteModel::new(config(&[&mocks[0], &mocks[1]]), |_| {}).unwrap();
    assert!(ask_all(&model, 400).await.iter().all(Result::is_ok));
    assert!(mocks.iter().all(|mock| mock.requests() > 100), "{:?}", mocks.each_ref().map(MockEndpoint::requests));
    let [gone, stays] = mocks;
    drop(gone);
    let results = ask_all(&model, 400).await;
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
    assert!(stays.requests() > 500);
}

#[tokio::test]
async fn what_an_endpoint_does_not_take_is_left_out() {
    for field in ["top_k", "max_tokens", "seed"] {
        let mock = MockEndpoint::start(MockOptions { refuses: Some(field), ..MockOptions::default() }).await.unwrap();
        let (told, notices) = mpsc::channel();
        let model = RemoteModel::new(config(&[&mock]), move |notice| told.send(notice).unwrap()).unwrap();
        let mut asked = request("Hi");
        asked.sampling.top_k = 40;
        let result = model.generate(asked.clone()).await;
        if field == "max_tokens" {
            // Its refusal does not name the other spelling, so there is nothing to learn.
            assert!(matches!(result, Err(GenerateError::Refused { .. })), "{result:?}");
        } else {
            result.unwrap();
            model.generate(asked).await.unwrap();
            assert_eq!(mock.requests(), 3, "learned once");
            let notices: Vec<Notice> = notices.try_iter().collect();
            assert!(
                matches!(&notices[..], [Notice::FieldLeftOut { field: left_out, .. }] if *left_out == field),
                "{notices:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_schema_is_kept_with_and_without_the_endpoints_help() {
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
    for refuses in [None, Some("response_format")] {
        // Wrong at first, right once it is told what is wrong.
        let answer = Arc::new(|body: &serde_json::Value| {
            let last = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
            let asked = body.get("response_format").is_some() || body["messages"].to_string().contains("JSON schema");
            assert!(asked, "nobody asked for JSON: {body}");
            if last.contains("/age") { "```json\n{\"age\": 5}\n```".into() } else { "{\"age\": \"five\"}".into() }
        });
        let mock = MockEndpoint::start(MockOptions { refuses, answer, ..MockOptions::default() }).await.unwrap();
        let model = RemoteModel::new(config(&[&mock]), |_| {}).unwrap();
        let asked = GenerateRequest { schema: Some(schema.clone()), ..request("Invent a person.") };
        assert_eq!(model.generate(asked).await.unwrap().text, "{\"age\": 5}");
        assert_eq!(model.statistics().answers, 1);
    }
    let answer = Arc::new(|_: &serde_json::Value| "I would rather not.".to_owned());
    let mock = MockEndpoint::start(MockOptions { answer, ..MockOptions::default() }).await.unwrap();
    let model = RemoteModel::new(config(&[&mock]), |_| {}).unwrap();
    let asked = GenerateRequest { schema: Some(schema), ..request("Invent a person.") };
    let error = model.generate(asked).await.unwrap_err();
    assert!(matches!(&error, GenerateError::Failed { reason, .. } if reason.contains("not valid JSON")), "{error}");
}

#[tokio::test]
async fn a_dropped_call_frees_its_place() {
    let options = MockOptions { latency: Duration::from_millis(300), ..MockOptions::default() };
    let mock = MockEndpoint::start(options).await.unwrap();
    let model = RemoteModel::new(RemoteConfig { max_in_flight: 2, ..config(&[&mock]) }, |_| {}).unwrap();
    let dropped = join_all((0..2).map(|number| model.generate(request(&number.to_string()))));
    assert!(tokio::time::timeout(Duration::from_millis(50), dropped).await.is_err());
    tokio::time::timeout(Duration::from_secs(1), model.generate(request("next"))).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_what_every_model_must() {
    let options = MockOptions { latency: Duration::from_millis(60), tiny_model: true, ..MockOptions::default() };
    let mock = MockEndpoint::start(options).await.unwrap();
    // Few places: those that dropped calls kept would be missed.
    let model = RemoteModel::new(RemoteConfig { max_in_flight: 4, ..config(&[&mock]) }, |_| {}).unwrap();
    let report = examine(&model, &|duration| Box::pin(tokio::time::sleep(duration))).await;
    assert!(report.passed(), "{report}");
}
