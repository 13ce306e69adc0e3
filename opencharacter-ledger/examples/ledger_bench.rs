//! Times and memory of a ledger at size. Prints one JSON object per step.
//!
//!     cargo run --release -p opencharacter-ledger --example ledger_bench -- DIRECTORY [RECORDS] [TEXT_BYTES]
//!
//! The directory must not exist. The peak is the process's largest resident set so far, which counts what was
//! allocated and not the system's cache of files.

use std::{error::Error, fs, hint::black_box, path::Path, time::Instant};

use opencharacter_core::{Completion, FinishReason, content_hash, hex};
use opencharacter_ledger::{CallKey, Ledger, Outcome, Record, stats, verify};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("expected a directory for the ledger")?;
    let records: usize = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let text_bytes: usize = arguments.next().map_or(Ok(1_150), |text| text.parse())?;
    let directory = Path::new(&directory);
    if directory.exists() {
        return Err("the directory exists".into());
    }
    let text = "The quick brown fox said “jump”, and over it went.\n".repeat(text_bytes / 51 + 1);
    let mut record = Record {
        key: key(0)?,
        item: String::new(),
        stage: "dialogues, answers".into(),
        outcome: Outcome::Accepted {
            completion: Completion {
                text: text[..text.floor_char_boundary(text_bytes)].to_owned(),
                finish: FinishReason::Stop,
                prompt_tokens: 412,
                cached_tokens: 300,
                completion_tokens: 287,
                log_probs: Vec::new(),
            },
        },
        seconds: 1.25,
        prompt_tokens: 412,
        completion_tokens: 287,
        rejudged: false,
    };

    let ledger = Ledger::open(directory)?;
    let keys: Vec<_> = (0..records.min(100_000)).map(key).collect::<Result<_, _>>()?;
    report("keys made, which are not the ledger's", 1, Instant::now());
    let (mut appending, started) = (0.0, Instant::now());
    for number in 0..records {
        record.key = match keys.get(number) {
            Some(key) => *key,
            None => key(number)?,
        };
        record.item = format!("d-{number:016x}");
        let before = Instant::now();
        ledger.append(&record)?;
        appending += before.elapsed().as_secs_f64();
        if number == records / 10 || number == records / 2 {
            report("appended so far, keys made included", number, started);
        }
    }
    println!(
        "{{\"step\": \"append\", \"count\": {records}, \"microseconds_each\": {:.2}}}",
        appending * 1e6 / records as f64
    );
    report("appended, keys made included", records, started);
    let started = Instant::now();
    ledger.close()?;
    report("close", 1, started);

    let started = Instant::now();
    let ledger = Ledger::open(directory)?;
    report("open", 1, started);
    let started = Instant::now();
    let total = ledger.report().total["dialogues, answers"];
    assert_eq!(total.calls_made, records);
    report("report", 1, started);
    let started = Instant::now();
    for number in (0..keys.len()).map(|number| number * 7_919 % keys.len()) {
        assert!(black_box(ledger.lookup(&keys[number])?).is_some());
    }
    report("lookup, hits", keys.len(), started);
    let misses: Vec<_> = (records..records + keys.len()).map(key).collect::<Result<_, _>>()?;
    let started = Instant::now();
    for missing in &misses {
        assert!(black_box(ledger.lookup(missing)?).is_none());
    }
    report("lookup, misses", misses.len(), started);
    let started = Instant::now();
    assert_eq!(ledger.len(), records);
    report("len", 1, started);
    drop(ledger);
    let started = Instant::now();
    assert_eq!(stats(directory)?["dialogues, answers"].accepted as usize, records);
    report("stats", 1, started);
    let started = Instant::now();
    let report_of_compaction = Ledger::compact(directory)?;
    assert_eq!(report_of_compaction.records_after as usize, records);
    report("compact", 1, started);
    let started = Instant::now();
    assert!(verify(directory)?.is_sound());
    report("verify", 1, started);
    Ok(())
}

fn key(number: usize) -> Result<CallKey, String> {
    hex(&content_hash(&[number.to_string()])).parse()
}

fn report(step: &str, count: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    let each = seconds * 1e6 / count.max(1) as f64;
    println!(
        "{{\"step\": \"{step}\", \"count\": {count}, \"seconds\": {seconds:.4}, \"microseconds_each\": {each:.2}, \
         \"peak_mib\": {}}}",
        peak_mib().map_or("null".to_owned(), |peak| format!("{peak:.1}"))
    );
}

/// The process's largest resident set, where the system tells.
fn peak_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}
