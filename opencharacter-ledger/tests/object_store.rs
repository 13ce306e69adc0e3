//! A ledger on a real S3-compatible server.
//!
//! `cargo xtask stores` starts one and names a bucket in `OPENCHARACTER_TEST_BUCKET`.

use opencharacter_core::{Score, ScoreRequest};
use opencharacter_ledger::{CallKey, Ledger, Outcome, Record, verify};
use opencharacter_storage::Location;

fn record(number: usize) -> Record {
    let request = ScoreRequest { messages: vec![opencharacter_core::Message::user(number.to_string())] };
    Record {
        key: CallKey::of_score("model", &request),
        item: number.to_string(),
        stage: "scores".into(),
        outcome: Outcome::Scored { score: Score { tokens: 5, log_prob: -1.5, prompt_tokens: 7 } },
        seconds: 0.5,
        prompt_tokens: 7,
        completion_tokens: 0,
        rejudged: false,
    }
}

#[test]
#[ignore = "needs an S3-compatible server"]
fn two_machines_share_a_bucket() {
    let bucket = std::env::var("OPENCHARACTER_TEST_BUCKET").unwrap();
    let location: Location = format!("{bucket}/ledger").parse().unwrap();
    let caches = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let open = |cache: usize| Ledger::open_at(&location, caches[cache].path()).unwrap();
    let (first, second) = (open(0), open(1));
    for number in 0..1000 {
        [&first, &second][number % 2].append(&record(number)).unwrap();
    }
    first.flush().unwrap();
    // A second time: nothing is left to send, and nothing is sent over what is there.
    first.flush().unwrap();
    second.refresh().unwrap();
    assert!((0..1000).all(|number| second.lookup(&record(number).key).unwrap() == Some(record(number))));
    first.append(&record(1000)).unwrap();
    first.close().unwrap();
    second.close().unwrap();
    let third = open(2);
    assert_eq!((third.len(), third.report().total["scores"].calls_made), (1001, 1001));
    drop(third);
    assert!(verify(caches[2].path()).unwrap().is_sound());
}
