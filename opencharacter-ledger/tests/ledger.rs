//! What the ledger promises: nothing lost, nothing twice, nothing made up.

#![expect(clippy::unwrap_used, reason = "a test that fails here should stop here")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use opencharacter_core::{Completion, FinishReason, GenerateError, GenerateRequest, Message, Sampling};
use opencharacter_ledger::{
    CallError, CallKey, Ledger, LedgerError, LedgeredModel, Outcome, Record,
    scripted::{Scripted, unavailable},
};
use proptest::prelude::*;

fn record(number: usize) -> Record {
    let request = GenerateRequest {
        messages: vec![Message::user(number.to_string())],
        sampling: Sampling::default(),
        schema: None,
        log_probs: None,
    };
    let completion = Completion {
        text: format!("Answer {number}, with a line\nfeed and “quotes”."),
        finish: FinishReason::Stop,
        prompt_tokens: 7,
        cached_tokens: 0,
        completion_tokens: 3,
        log_probs: Vec::new(),
    };
    Record {
        key: CallKey::of_generate("model", &request),
        item: format!("item-{number}"),
        stage: "profiles".into(),
        outcome: Outcome::Accepted { completion },
        seconds: 0.5,
        prompt_tokens: 7,
        completion_tokens: 3,
        rejudged: false,
    }
}

/// A closed ledger with records `0..count`; its only segment, and where each record ends in it.
fn filled(directory: &Path, count: usize) -> (PathBuf, Vec<u64>) {
    let ledger = Ledger::open(directory).unwrap();
    let segment = directory.join("segment-000001.log");
    let ends = (0..count)
        .map(|number| {
            ledger.append(&record(number)).unwrap();
            fs::metadata(&segment).unwrap().len()
        })
        .collect();
    (segment, ends)
}

fn holds(ledger: &Ledger, number: usize) -> bool {
    ledger.lookup(&record(number).key).unwrap() == Some(record(number))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn killed_at_any_byte_and_continued_gives_the_same_set(count in 1_usize..6, share in 0.0_f64..=1.0) {
        let directory = tempfile::tempdir().unwrap();
        let (segment, ends) = filled(directory.path(), count);
        let length = (*ends.last().unwrap() as f64 * share) as u64;
        fs::File::options().write(true).open(&segment).unwrap().set_len(length).unwrap();
        let whole = ends.iter().filter(|&&end| end <= length).count();

        let ledger = Ledger::open(directory.path()).unwrap();
        for number in 0..count {
            prop_assert_eq!(holds(&ledger, number), number < whole);
        }
        prop_assert_eq!(ledger.report().torn_bytes, length - ends[..whole].last().unwrap_or(&0));
        for number in whole..count {
            ledger.append(&record(number)).unwrap();
        }
        drop(ledger);

        let again = Ledger::open(directory.path()).unwrap();
        prop_assert_eq!(again.len(), count);
        prop_assert!((0..count).all(|number| holds(&again, number)));
        prop_assert_eq!(again.report().torn_bytes, 0);
        prop_assert_eq!(again.report().total["profiles"].calls_made, count);
    }

    /// Of a segment without index, which is read when it is opened.
    #[test]
    fn a_flipped_byte_is_never_taken_for_a_record(place in 0.0_f64..1.0, bit in 0_u8..8) {
        let directory = tempfile::tempdir().unwrap();
        let (segment, ends) = filled(directory.path(), 4);
        fs::remove_file(segment.with_extension("index")).unwrap();
        let mut bytes = fs::read(&segment).unwrap();
        let index = (bytes.len() as f64 * place) as usize;
        bytes[index] ^= 1 << bit;
        fs::write(&segment, &bytes).unwrap();
        let damaged = ends.iter().filter(|&&end| end <= index as u64).count();

        let opened = Ledger::open(directory.path());
        if damaged == 3 {
            // The last record: no different from one whose writing was interrupted.
            let ledger = opened.unwrap();
            prop_assert!((0..4).all(|number| holds(&ledger, number) == (number < 3)));
        } else {
            let start = if damaged == 0 { 0 } else { ends[damaged - 1] };
            let error = opened.unwrap_err();
            let is_found = matches!(&error, LedgerError::Corrupt { offset, .. } if *offset == start);
            prop_assert!(is_found, "{}", error);
            prop_assert!(error.to_string().contains("segment-000001.log"), "{}", error);
            prop_assert_eq!(fs::read(&segment).unwrap(), bytes, "a damaged ledger is left as it is");
        }
    }
}

#[test]
fn several_may_have_it_open_and_refresh_what_the_others_appended() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (Ledger::open(directory.path()).unwrap(), Ledger::open(directory.path()).unwrap());
    first.append(&record(1)).unwrap();
    second.append(&record(2)).unwrap();
    first.append(&record(3)).unwrap();
    assert!(!holds(&second, 1));
    second.refresh().unwrap();
    assert!((1..4).all(|number| holds(&second, number)));
    first.append(&record(4)).unwrap();
    drop(first);
    second.refresh().unwrap();
    assert!((1..5).all(|number| holds(&second, number)));
    assert_eq!((second.len(), second.report().total["profiles"].calls_made), (4, 4));
    assert_eq!(second.session("profiles").calls_made, 1);
}

/// A frame as ledgers have been written from the first version on, byte for byte.
#[test]
fn a_ledger_of_an_earlier_version_opens() {
    let directory = tempfile::tempdir().unwrap();
    let key = "ab".repeat(32);
    let payload = format!(
        r#"{{"key":"{key}","item":"i","stage":"s","outcome":{{"accepted":{{"completion":{{"text":"yes","finish":"stop","prompt_tokens":7,"cached_tokens":0,"completion_tokens":3}}}}}},"seconds":0.5,"prompt_tokens":7,"completion_tokens":3}}"#
    );
    let length = (payload.len() as u32).to_le_bytes();
    let checksum = crc32fast::hash(&[&length, payload.as_bytes()].concat()).to_le_bytes();
    let framed = [b"\xF5OC1", &length[..], &checksum, payload.as_bytes(), b"\n"].concat();
    fs::write(directory.path().join("segment-000001.log"), framed.repeat(2)).unwrap();
    fs::write(directory.path().join("lock"), "4711\n").unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let found = ledger.lookup(&key.parse().unwrap()).unwrap().unwrap();
    assert!(matches!(&found.outcome, Outcome::Accepted { completion } if completion.text == "yes"), "{found:?}");
    assert_eq!((ledger.len(), ledger.report().total["s"].calls_made), (1, 2));
}

#[test]
fn an_opening_without_a_call_leaves_no_segment() {
    let directory = tempfile::tempdir().unwrap();
    drop(Ledger::open(directory.path()).unwrap());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "only the lock");
}

#[test]
fn keys_tell_everything_asked_apart() {
    let request = GenerateRequest {
        messages: vec![Message::user("a")],
        sampling: Sampling::default(),
        schema: None,
        log_probs: None,
    };
    let key = CallKey::of_generate("model", &request);
    let with_seed = GenerateRequest { sampling: Sampling { seed: 1, ..Sampling::default() }, ..request.clone() };
    let with_schema = GenerateRequest { schema: Some(serde_json::json!({"type": "object"})), ..request.clone() };
    let with_log_probs = GenerateRequest { log_probs: Some(3), ..request.clone() };
    let with_role = GenerateRequest { messages: vec![Message::system("a")], ..request.clone() };
    assert_eq!(key, CallKey::of_generate("model", &request));
    assert_eq!(key, key.to_string().parse().unwrap());
    for (model, other) in [
        ("other", &request),
        ("model", &with_seed),
        ("model", &with_schema),
        ("model", &with_role),
        ("model", &with_log_probs),
    ] {
        assert_ne!(key, CallKey::of_generate(model, other), "{model} {other:?}");
    }
}

fn asking(text: &str) -> GenerateRequest {
    GenerateRequest {
        messages: vec![Message::user(text)],
        sampling: Sampling::default(),
        schema: None,
        log_probs: None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a check")]
fn accept(completion: &Completion) -> Result<String, String> {
    Ok(completion.text.clone())
}

#[tokio::test]
async fn the_same_question_at_the_same_time_costs_one_call() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let scripted = Scripted::new(|_| Ok("yes".into()));
    let model = LedgeredModel::new(&scripted, &ledger);
    let (first, second) =
        tokio::join!(model.complete("s", "1", asking("q"), accept), model.complete("s", "2", asking("q"), accept));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(scripted.calls(), (1, 0));
    let stats = ledger.session("s");
    assert_eq!((stats.calls_made, stats.calls_reused, stats.completion_tokens), (1, 1, 1));
}

#[tokio::test]
async fn a_changed_check_takes_effect_without_a_call() {
    let directory = tempfile::tempdir().unwrap();
    let scripted = Scripted::new(|_| Ok("a short answer".into()));
    let strict = |_: &Completion| Err::<String, _>("too short".to_owned());
    {
        let ledger = Ledger::open(directory.path()).unwrap();
        let model = LedgeredModel::new(&scripted, &ledger);
        assert_eq!(model.complete("s", "1", asking("q"), accept).await.unwrap().0, "a short answer");
        let error = model.complete("s", "1", asking("q"), strict).await.unwrap_err();
        assert!(matches!(&error, CallError::Rejected { reason, .. } if reason == "too short"), "{error}");
    }
    let ledger = Ledger::open(directory.path()).unwrap();
    let model = LedgeredModel::new(&scripted, &ledger);
    let key = CallKey::of_generate("scripted", &asking("q"));
    let recorded = ledger.lookup(&key).unwrap().unwrap();
    assert!(matches!(recorded.outcome, Outcome::Rejected { .. }), "{recorded:?}");
    assert!(model.complete("s", "1", asking("q"), accept).await.is_ok());
    assert_eq!(scripted.calls(), (1, 0));
    assert_eq!(ledger.report().total["s"].calls_made, 1, "new verdicts are no calls");
}

#[tokio::test]
async fn a_failure_is_recorded_and_called_again() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let broken = Scripted::new(|_| Err(unavailable()));
    let error = LedgeredModel::new(&broken, &ledger).complete("s", "1", asking("q"), accept).await;
    assert!(matches!(error, Err(CallError::Failed(_))));
    let recorded = ledger.lookup(&CallKey::of_generate("scripted", &asking("q"))).unwrap().unwrap();
    assert!(matches!(recorded.outcome, Outcome::Failed { .. }), "{recorded:?}");
    let working = Scripted::new(|_| Ok("yes".into()));
    let model = LedgeredModel::new(&working, &ledger);
    assert_eq!(model.complete("s", "1", asking("q"), accept).await.unwrap().0, "yes");
}

#[tokio::test]
async fn a_refused_request_is_sent_again_only_if_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let refusing = Scripted::new(|_| Err(GenerateError::Refused { reason: "content policy".into() }));
    let model = LedgeredModel::new(&refusing, &ledger);
    for _ in 0..3 {
        let error = model.complete("s", "1", asking("q"), accept).await.unwrap_err();
        assert!(
            matches!(&error, CallError::Failed(GenerateError::Refused { reason }) if reason == "content policy"),
            "{error}"
        );
    }
    assert_eq!(refusing.calls(), (1, 0));
    let stats = ledger.session("s");
    assert_eq!((stats.calls_made, stats.calls_reused), (1, 2));
    let working = Scripted::new(|_| Ok("yes".into()));
    let again = LedgeredModel { retry_refused: true, ..LedgeredModel::new(&working, &ledger) };
    assert_eq!(again.complete("s", "1", asking("q"), accept).await.unwrap().0, "yes");
    assert_eq!(model.complete("s", "1", asking("q"), accept).await.unwrap().0, "yes", "a success stays");
}
