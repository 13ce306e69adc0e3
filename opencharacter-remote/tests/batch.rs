//! A model behind a batch API that misbehaves, and a process that dies in between.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use opencharacter_core::{
    Completion, Generate, GenerateError, GenerateRequest, Message, Sampling, conformance::examine,
};
use opencharacter_remote::{
    BatchConfig, BatchModel, EndpointConfig, Notice, RemoteError,
    mock::{BatchFate, LineFate, MockBatches, MockEndpoint, MockFault, MockOptions, MockRoute},
};
use serde_json::{Value, json};
use tempfile::TempDir;

type Answer = Result<Completion, GenerateError>;

fn config(mock: &MockEndpoint, folder: &Path) -> BatchConfig {
    let endpoint = EndpointConfig::new(&mock.base_url(), None).unwrap();
    BatchConfig {
        quiet: Duration::from_millis(50),
        first_poll: Duration::from_millis(10),
        longest_poll: Duration::from_millis(40),
        down_after: Duration::from_secs(20),
        ..BatchConfig::new("mock", endpoint, folder)
    }
}

/// A mock, and the folder of those who ask it.
struct Scene {
    mock: MockEndpoint,
    folder: TempDir,
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl Scene {
    async fn new(options: MockOptions) -> Self {
        let mock = MockEndpoint::start(options).await.unwrap();
        Self { mock, folder: tempfile::tempdir().unwrap(), notices: Arc::default() }
    }

    /// A mock whose batches have these fates, one after the other.
    async fn of_fates(fates: &'static [BatchFate]) -> Self {
        let fate = Arc::new(move |batch: usize, _| fates.get(batch).copied().unwrap_or(BatchFate::Completed));
        Self::new(MockOptions { batches: MockBatches { fate, ..MockBatches::default() }, ..MockOptions::default() })
            .await
    }

    /// A mock where something becomes of a batch's lines.
    async fn of_lines(line: impl Fn(usize, &Value) -> LineFate + Send + Sync + 'static) -> Self {
        let batches = MockBatches { line: Arc::new(line), ..MockBatches::default() };
        Self::new(MockOptions { batches, ..MockOptions::default() }).await
    }

    fn config(&self) -> BatchConfig {
        config(&self.mock, self.folder.path())
    }

    fn model(&self) -> BatchModel {
        self.model_with(self.config())
    }

    fn model_with(&self, config: BatchConfig) -> BatchModel {
        let notices = Arc::clone(&self.notices);
        BatchModel::open(config, move |notice| notices.lock().unwrap().push(notice)).unwrap()
    }

    fn records(&self) -> usize {
        let files = fs::read_dir(self.folder.path()).unwrap();
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("batch-")).count()
    }

    fn told(&self, which: impl Fn(&Notice) -> bool) -> usize {
        self.notices.lock().unwrap().iter().filter(|notice| which(notice)).count()
    }

    /// Drops a model in the midst of `count` calls, as soon as `when` holds.
    async fn kill(&self, model: BatchModel, count: usize, when: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !when(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            answers = ask_all(&model, count) => panic!("the answers came first: {answers:?}"),
            () = waiting => {}
        }
    }
}

fn request(text: &str) -> GenerateRequest {
    let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
    GenerateRequest { messages: vec![Message::user(text)], sampling, schema: None, log_probs: None }
}

async fn ask_all(model: &BatchModel, count: usize) -> Vec<Answer> {
    join_all((0..count).map(|number| model.generate(request(&number.to_string())))).await
}

/// Every call ended with its own answer.
fn all_answered(answers: &[Answer]) {
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer.as_ref().unwrap().text, format!("You said: {number}"));
    }
}

fn asked(body: &Value) -> usize {
    body["messages"][0]["content"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn calls_of_one_moment_are_one_batch_and_each_gets_its_own_answer() {
    let scene = Scene::new(MockOptions::default()).await;
    let model = scene.model();
    all_answered(&ask_all(&model, 100).await);
    assert_eq!(scene.mock.batches(), [100]);
    assert_eq!(scene.mock.answered(), (100, 100));
    assert_eq!(scene.told(|notice| matches!(notice, Notice::BatchSubmitted { requests: 100, .. })), 1);
    assert_eq!(scene.told(|notice| matches!(notice, Notice::BatchEnded { answered: 100, requests: 100, .. })), 1);
    assert_eq!(model.fingerprint(), "openai:mock");
    let score = model.score(opencharacter_core::ScoreRequest { messages: Vec::new() }).await;
    assert!(matches!(score, Err(GenerateError::Unsupported { .. })));
}

#[tokio::test]
async fn a_file_is_sent_when_it_holds_enough_and_equal_calls_are_one_request() {
    let scene = Scene::new(MockOptions::default()).await;
    let model = scene.model_with(BatchConfig { max_requests: 30, ..scene.config() });
    assert_eq!(model.concurrency(), 30);
    all_answered(&ask_all(&model, 70).await);
    assert_eq!(scene.mock.batches(), [30, 30, 10]);
    drop(model);
    // A line has some 250 bytes.
    let scene = Scene::new(MockOptions::default()).await;
    let model = scene.model_with(BatchConfig { max_bytes: 1000, ..scene.config() });
    all_answered(&ask_all(&model, 20).await);
    let sizes = scene.mock.batches();
    assert!(sizes.len() > 4 && sizes.iter().all(|size| (1..=5).contains(size)), "{sizes:?}");
    let long = model.generate(request(&"word ".repeat(300))).await;
    assert!(matches!(&long, Err(GenerateError::Refused { reason }) if reason.contains("shorten")), "{long:?}");
    let same = join_all((0..10).map(|_| model.generate(request("5000")))).await;
    assert!(same.iter().all(|answer| answer.as_ref().unwrap().text == "You said: 5000"));
    assert_eq!(scene.mock.answered(), (21, 21));
}

#[tokio::test]
async fn a_killed_process_pays_for_nothing_twice() {
    // The moments: the file is up but the batch is not made, it is made, it is at work.
    let moments: [&(dyn Fn(&Scene) -> bool + Sync); 3] = [
        &|scene| scene.mock.requests_for(MockRoute::Upload) > 0,
        &|scene| !scene.mock.batches().is_empty(),
        &|scene| scene.mock.requests_for(MockRoute::Look) > 1,
    ];
    for moment in moments {
        let batches = MockBatches { looks: 5, ..MockBatches::default() };
        let latency = Duration::from_millis(10);
        let scene = Scene::new(MockOptions { latency, batches, ..MockOptions::default() }).await;
        scene.kill(scene.model(), 40, moment).await;
        // Some more than before, and in another company.
        all_answered(&ask_all(&scene.model(), 50).await);
        assert_eq!(scene.mock.answered(), (50, 50));
        assert_eq!(scene.mock.batches().iter().sum::<usize>(), 50);
    }
}

#[tokio::test]
async fn a_batch_whose_making_was_not_heard_of_is_found_again() {
    // The word that the batch was made gets lost.
    let fault_at = Arc::new(|route, count| (route == MockRoute::Create && count == 0).then_some(MockFault::HalfReply));
    let scene = Scene::new(MockOptions { fault_at, ..MockOptions::default() }).await;
    all_answered(&ask_all(&scene.model(), 10).await);
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![10], (10, 10)));

    let fault_at = Arc::new(|route, count| {
        (route == MockRoute::Create && count == 0).then_some(MockFault::Stall(Duration::from_secs(5)))
    });
    let scene = Scene::new(MockOptions { fault_at, ..MockOptions::default() }).await;
    // Killed while the reply is on its way, so that nobody knows whether there is a batch. There is none: made now.
    scene.kill(scene.model(), 10, |scene| scene.mock.requests_for(MockRoute::Create) == 1).await;
    assert_eq!(scene.records(), 1);
    all_answered(&ask_all(&scene.model(), 10).await);
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![10], (10, 10)));
    assert_eq!(scene.mock.requests_for(MockRoute::Upload), 1, "the file is there already");
}

#[tokio::test]
async fn answers_that_nobody_took_are_found_by_the_next_process() {
    let scene = Scene::new(MockOptions::default()).await;
    let model = scene.model();
    // All calls are dropped when their batch is at work; two come back in the same process.
    let waiting = tokio::time::timeout(Duration::from_millis(80), ask_all(&model, 20)).await;
    assert!(waiting.is_err() || scene.mock.batches() == [20]);
    all_answered(&ask_all(&model, 2).await);
    drop(model);
    assert_eq!(scene.records(), 1);
    let model = scene.model();
    all_answered(&ask_all(&model, 20).await);
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![20], (20, 20)));
    // All were taken: the record goes as soon as whoever took them had time to keep them.
    assert_eq!(scene.records(), 1);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(scene.records(), 0);
}

#[tokio::test]
async fn a_dropped_call_that_is_in_no_batch_yet_is_never_sent() {
    let scene = Scene::new(MockOptions::default()).await;
    let model = scene.model();
    assert!(tokio::time::timeout(Duration::from_millis(10), ask_all(&model, 500)).await.is_err());
    let answer = model.generate(request("last")).await.unwrap();
    assert_eq!(answer.text, "You said: last");
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![1], (1, 1)));
}

#[tokio::test]
async fn what_an_expired_batch_did_not_do_goes_into_the_next() {
    let scene = Scene::of_fates(&[BatchFate::Expired(7), BatchFate::Expired(0)]).await;
    let model = scene.model();
    all_answered(&ask_all(&model, 20).await);
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![20, 13, 13], (20, 20)));
    let ended = |notice: &Notice| matches!(notice, Notice::BatchEnded { status, .. } if status == "expired");
    assert_eq!(scene.told(ended), 2);
}

#[tokio::test]
async fn missing_lines_and_errors_that_may_pass_are_tried_again_a_few_times() {
    // In the first batch every second line is missing, every third an error; one line is never answered.
    let line = |batch: usize, body: &Value| match asked(body) {
        9 => LineFate::Error(503, "no room"),
        number if batch == 0 && number % 2 == 0 => LineFate::Missing,
        number if batch == 0 && number % 3 == 0 => LineFate::Error(500, "an accident"),
        number if batch == 1 && number == 4 => LineFate::Error(429, "slow down"),
        number if batch < 2 && number == 5 => LineFate::Empty,
        _ => LineFate::Answered,
    };
    let scene = Scene::of_lines(line).await;
    let mut answers = ask_all(&scene.model(), 12).await;
    let Err(GenerateError::Failed { reason, .. }) = answers.remove(9) else { panic!("{answers:?}") };
    assert!(reason.contains("4 batches") && reason.contains("no room"), "{reason}");
    for (place, answer) in answers.iter().enumerate() {
        assert_eq!(answer.as_ref().unwrap().text, format!("You said: {}", place + usize::from(place >= 9)));
    }
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![12, 9, 3, 1], (11, 11)));
}

#[tokio::test]
async fn errors_have_the_classes_of_direct_calls() {
    let line = |_: usize, body: &Value| match asked(body) {
        0 => LineFate::Error(400, "the prompt is too long"),
        1 => LineFate::Error(401, "wrong key"),
        2 => LineFate::Empty,
        _ => LineFate::Answered,
    };
    let scene = Scene::of_lines(line).await;
    let model = scene.model();
    let answers = ask_all(&model, 5).await;
    assert!(
        matches!(&answers[0], Err(GenerateError::Refused { reason }) if reason.contains("too long")),
        "{answers:?}"
    );
    assert!(matches!(&answers[1], Err(GenerateError::Unavailable { .. })), "{answers:?}");
    assert!(
        matches!(&answers[2], Err(GenerateError::Failed { reason, .. }) if reason.contains("3 answers")),
        "{answers:?}"
    );
    assert!(answers[3].is_ok() && answers[4].is_ok());
    assert_eq!(scene.mock.batches(), [5, 1, 1]);
    for (schema, messages) in [(Some(json!({"type": "nonsense"})), vec![Message::user("Hi")]), (None, Vec::new())] {
        let wrong = model.generate(GenerateRequest { schema, messages, ..request("") }).await;
        assert!(matches!(wrong, Err(GenerateError::Refused { .. })), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_refused_batch_blames_its_lines_or_ends_the_run() {
    let scene = Scene::of_fates(&[BatchFate::Failed { code: "invalid_request", line: Some(3) }]).await;
    let answers = ask_all(&scene.model(), 10).await;
    let refused =
        |answer: &Answer| matches!(answer, Err(GenerateError::Refused { reason }) if reason.contains("invalid"));
    assert_eq!(answers.iter().filter(|answer| refused(answer)).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 9);
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![10, 9], (9, 9)));

    let scene = Scene::of_fates(&[BatchFate::Failed { code: "billing_hard_limit_reached", line: None }]).await;
    for answer in ask_all(&scene.model(), 3).await {
        let Err(GenerateError::Unavailable { reason, .. }) = &answer else { panic!("{answer:?}") };
        assert!(reason.contains("billing"), "{reason}");
    }
    // Nothing was paid, so nothing is kept: the next run submits it anew.
    assert_eq!(scene.records(), 0);
    all_answered(&ask_all(&scene.model(), 3).await);

    let scene = Scene::of_fates(&[BatchFate::Cancelled(4)]).await;
    let answers = ask_all(&scene.model(), 10).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 4);
    all_answered(&ask_all(&scene.model(), 10).await);
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![10, 6], (10, 10)));
}

#[tokio::test]
async fn a_full_queue_makes_batches_smaller_until_they_fit() {
    let fate = Arc::new(|_, requests| match requests {
        0..=10 => BatchFate::Completed,
        _ => BatchFate::Failed { code: "token_limit_exceeded", line: None },
    });
    let batches = MockBatches { fate, ..MockBatches::default() };
    let scene = Scene::new(MockOptions { batches, ..MockOptions::default() }).await;
    all_answered(&ask_all(&scene.model(), 40).await);
    assert_eq!(scene.mock.answered(), (40, 40));
    assert_eq!(scene.mock.batches()[..3], [40, 20, 10]);
}

#[tokio::test]
async fn uploads_looks_and_fetches_that_fail_for_a_while_are_tried_again() {
    let fault_at = Arc::new(|route, count| match (route, count) {
        (MockRoute::Upload, 0 | 1) => Some(MockFault::ServerError),
        (MockRoute::Create, 0) => Some(MockFault::TooManyFor(0)),
        (MockRoute::Look, 1..=3) => Some(MockFault::Reset),
        (MockRoute::Look, 4) => Some(MockFault::NotJson),
        (MockRoute::Content, 0) => Some(MockFault::HalfReply),
        _ => None,
    });
    let scene = Scene::new(MockOptions { fault_at, ..MockOptions::default() }).await;
    all_answered(&ask_all(&scene.model(), 30).await);
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![30], (30, 30)));
    assert_eq!(scene.mock.requests_for(MockRoute::Upload), 3);
    assert_eq!(scene.told(|notice| matches!(notice, Notice::TriedAgain { .. })), 4, "{:?}", scene.notices);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_ends_the_run_and_the_batch_waits() {
    let fault_at = Arc::new(|route, count| {
        (route == MockRoute::Look && (1..8).contains(&count)).then_some(MockFault::ServerError)
    });
    let scene = Scene::new(MockOptions { fault_at, ..MockOptions::default() }).await;
    let model = scene.model_with(BatchConfig { down_after: Duration::from_secs(1), ..scene.config() });
    for answer in ask_all(&model, 5).await {
        let Err(GenerateError::Unavailable { reason, .. }) = &answer else { panic!("{answer:?}") };
        assert!(reason.contains("Run again"), "{reason}");
    }
    // The same process may come back to it, too.
    assert_eq!(scene.records(), 1);
    while ask_all(&model, 5).await.iter().any(Result::is_err) {}
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![5], (5, 5)));

    let unknown = Arc::new(|route, _| (route == MockRoute::Upload).then_some(MockFault::ServerError));
    let scene = Scene::new(MockOptions { fault_at: unknown, ..MockOptions::default() }).await;
    let model = scene.model_with(BatchConfig { down_after: Duration::from_secs(1), ..scene.config() });
    assert!(matches!(&ask_all(&model, 1).await[0], Err(GenerateError::Unavailable { .. })));
    assert_eq!(scene.records(), 0, "there is no batch to be remembered");
}

#[tokio::test]
async fn whatever_goes_wrong_on_the_way_each_request_is_answered_once() {
    for seed in 0..3 {
        let faults = vec![
            (MockFault::TooMany, 0.05),
            (MockFault::ServerError, 0.1),
            (MockFault::Reset, 0.1),
            (MockFault::HalfReply, 0.1),
            (MockFault::NotJson, 0.05),
        ];
        let batches = MockBatches { looks: 3, ..MockBatches::default() };
        let scene = Scene::new(MockOptions { faults, seed, batches, ..MockOptions::default() }).await;
        let model = scene.model_with(BatchConfig { max_requests: 20, ..scene.config() });
        let _ = tokio::time::timeout(Duration::from_millis(150 * (seed + 1)), ask_all(&model, 60)).await;
        drop(model);
        all_answered(&ask_all(&scene.model(), 80).await);
        assert_eq!(scene.mock.answered(), (80, 80), "seed {seed}");
    }
}

#[tokio::test]
async fn a_field_that_is_not_taken_is_left_out_and_a_broken_schema_repaired() {
    let line = |_: usize, body: &Value| match body.get("seed") {
        Some(_) => LineFate::Error(400, "Unrecognized request argument supplied: seed"),
        None => LineFate::Answered,
    };
    let answer = Arc::new(|body: &Value| {
        let last = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
        if last.contains("/age") { "{\"age\": 5}".into() } else { "{\"age\": \"five\"}".into() }
    });
    let batches = MockBatches { line: Arc::new(line), ..MockBatches::default() };
    let scene = Scene::new(MockOptions { answer, batches, ..MockOptions::default() }).await;
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
    let asked = || GenerateRequest { schema: Some(schema.clone()), ..request("Invent a person.") };
    let model = scene.model();
    let waiting = async {
        while scene.mock.batches().len() < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        answer = model.generate(asked()) => panic!("too early: {answer:?}"),
        () = waiting => {}
    }
    // What was learned is kept with the batch: the request is known again.
    drop(model);
    let model = scene.model();
    assert_eq!(model.generate(asked()).await.unwrap().text, "{\"age\": 5}");
    assert_eq!((scene.mock.batches(), scene.mock.answered()), (vec![1, 1, 1], (2, 2)));
    assert_eq!(scene.told(|notice| matches!(notice, Notice::FieldLeftOut { field: "seed", .. })), 1);
}

#[tokio::test]
async fn settings_that_make_no_sense_are_named() {
    let scene = Scene::new(MockOptions::default()).await;
    let open = |config| BatchModel::open(config, |_| {}).map(drop).unwrap_err();
    for (config, part) in [
        (BatchConfig { max_requests: 50_001, ..scene.config() }, "max_requests"),
        (BatchConfig { max_bytes: 0, ..scene.config() }, "max_bytes"),
        (BatchConfig { model: " ".into(), ..scene.config() }, "model"),
        (BatchConfig { folder: "/proc/none".into(), ..scene.config() }, "/proc/none"),
    ] {
        let error = open(config).to_string();
        assert!(error.contains(part), "{error}");
    }
    let config = scene.config();
    let outside = std::thread::spawn(move || BatchModel::open(config, |_| {}).map(drop).unwrap_err()).join().unwrap();
    assert!(matches!(outside, RemoteError::NoRuntime));
    let _model = scene.model();
    assert!(open(scene.config()).to_string().contains("another process"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_what_every_model_must() {
    let scene = Scene::new(MockOptions { tiny_model: true, ..MockOptions::default() }).await;
    let model = scene.model_with(BatchConfig { max_requests: 40, ..scene.config() });
    let report = examine(&model, &|duration| Box::pin(tokio::time::sleep(duration))).await;
    assert!(report.passed(), "{report}");
}
