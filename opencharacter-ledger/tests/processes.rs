//! Several processes on one ledger, killed without warning.

#![expect(clippy::unwrap_used, reason = "a test that fails here should stop here")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use opencharacter_core::{Completion, FinishReason, GenerateRequest, Message, Sampling};
use opencharacter_ledger::{CallKey, Ledger, Outcome, Record, verify};

const DIRECTORY: &str = "LEDGER_PROCESS_TEST";
const FIRST: &str = "LEDGER_PROCESS_TEST_FIRST";

fn record(number: usize) -> Record {
    let request = GenerateRequest {
        messages: vec![Message::user(number.to_string())],
        sampling: Sampling::default(),
        schema: None,
        log_probs: None,
    };
    let completion = Completion {
        text: "word ".repeat(300),
        finish: FinishReason::Stop,
        prompt_tokens: 7,
        cached_tokens: 0,
        completion_tokens: 3,
        log_probs: Vec::new(),
    };
    Record {
        key: CallKey::of_generate("model", &request),
        item: number.to_string(),
        stage: "dialogues".into(),
        outcome: Outcome::Accepted { completion },
        seconds: 0.5,
        prompt_tokens: 7,
        completion_tokens: 3,
        rejudged: false,
    }
}

/// The part that runs in processes of its own: appends for ever, and says so after each.
#[test]
#[ignore = "run by the test below, and killed"]
fn append_for_ever() {
    let (Ok(directory), Ok(first)) = (std::env::var(DIRECTORY), std::env::var(FIRST)) else { return };
    let ledger = Ledger::open(directory).unwrap();
    for number in first.parse::<usize>().unwrap().. {
        ledger.append(&record(number)).unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "appended {number}").unwrap();
        out.flush().unwrap();
    }
}

fn spawn(directory: &Path, first: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "append_for_ever", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The numbers that a process says it appended; a last line without its end does not count.
fn appended(reader: &mut impl BufRead) -> impl Iterator<Item = usize> {
    std::iter::from_fn(|| {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.ends_with('\n').then_some(line)
    })
    .filter_map(|line| line.trim_end().split_once("appended ")?.1.parse().ok())
}

#[test]
fn killed_processes_lose_nothing_that_append_returned_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = BTreeSet::new();
    for round in 0..3 {
        let mut children = [0, 1, 2].map(|writer| spawn(directory.path(), (3 * round + writer) * 1_000_000));
        let mut readers = children.each_mut().map(|child| BufReader::new(child.stdout.take().unwrap()));
        for (writer, reader) in readers.iter_mut().enumerate() {
            expected.extend(appended(reader).take(50 + 17 * writer));
        }
        // While they write, a fourth reads.
        let ledger = Ledger::open(directory.path()).unwrap();
        for number in &expected {
            assert_eq!(ledger.lookup(&record(*number).key).unwrap(), Some(record(*number)));
        }
        for (child, reader) in children.iter_mut().zip(&mut readers) {
            child.kill().unwrap();
            child.wait().unwrap();
            expected.extend(appended(reader));
        }
        ledger.refresh().unwrap();
        for number in &expected {
            assert_eq!(ledger.lookup(&record(*number).key).unwrap(), Some(record(*number)), "{number}");
        }
    }
    let report = verify(directory.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.torn_bytes, report.live_writers, report.repeated_calls), (0, 0, 0));
    assert!(report.records as usize >= expected.len());
}
