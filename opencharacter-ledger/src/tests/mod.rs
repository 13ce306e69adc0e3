//! What needs small segments, or a look inside.

mod compaction;
mod damage;
mod full_disk;
mod remote;
mod reports;
mod rotation;
mod writers;

use std::{
    fs,
    path::{Path, PathBuf},
};

use opencharacter_core::{Completion, FinishReason, Score, content_hash};

use crate::{CallKey, FailureClass, Ledger, Outcome, Record, directory::segments, segments::Limits};

/// Three records to a segment.
const SMALL: Limits = Limits { bytes: 64 << 20, records: 3, age: None };

fn key(number: usize) -> CallKey {
    CallKey(content_hash(&[number.to_string()]))
}

/// Different for each number; the text tells records of one key apart.
fn accepted(number: usize, text: &str) -> Record {
    let completion = Completion {
        text: text.into(),
        finish: FinishReason::Stop,
        prompt_tokens: 7,
        cached_tokens: 0,
        completion_tokens: 3,
        log_probs: Vec::new(),
    };
    Record {
        key: key(number),
        item: format!("item-{number}"),
        stage: format!("stage-{}", number % 2),
        outcome: Outcome::Accepted { completion },
        seconds: 0.5,
        prompt_tokens: 7,
        completion_tokens: 3,
        rejudged: false,
    }
}

fn rejected(number: usize, text: &str, reason: &str) -> Record {
    let Outcome::Accepted { completion } = accepted(number, text).outcome else { unreachable!() };
    Record { outcome: Outcome::Rejected { completion, reason: reason.into() }, ..accepted(number, text) }
}

fn rejudged(number: usize, text: &str, reason: &str) -> Record {
    Record { rejudged: true, seconds: 0.0, prompt_tokens: 0, completion_tokens: 0, ..rejected(number, text, reason) }
}

fn scored(number: usize) -> Record {
    let score = Score { tokens: 5, log_prob: -1.5, prompt_tokens: 7 };
    Record { outcome: Outcome::Scored { score }, completion_tokens: 0, ..accepted(number, "") }
}

fn failed(number: usize, class: FailureClass, reason: &str) -> Record {
    let outcome = Outcome::Failed { class, reason: reason.into() };
    Record { outcome, prompt_tokens: 0, completion_tokens: 0, ..accepted(number, "") }
}

fn open(directory: &Path) -> Ledger {
    Ledger::open_with(directory, SMALL).unwrap()
}

/// A closed ledger with accepted records `0..count`, three to a segment.
fn filled(directory: &Path, count: usize) {
    let ledger = open(directory);
    for number in 0..count {
        ledger.append(&accepted(number, "text")).unwrap();
    }
    ledger.close().unwrap();
}

fn holds(ledger: &Ledger, number: usize) -> bool {
    ledger.lookup(&key(number)).unwrap() == Some(accepted(number, "text"))
}

fn logs(directory: &Path) -> Vec<PathBuf> {
    segments(directory).unwrap().into_iter().map(|id| id.log(directory)).collect()
}

fn indexes(directory: &Path) -> Vec<PathBuf> {
    segments(directory).unwrap().into_iter().map(|id| id.index(directory)).collect()
}

fn calls(ledger: &Ledger) -> usize {
    ledger.report().total.values().map(|stats| stats.calls_made).sum()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn flip(path: &Path, place: f64, bit: u8) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let index = (bytes.len() as f64 * place) as usize;
    bytes[index] ^= 1 << bit;
    fs::write(path, &bytes).unwrap();
    index
}
