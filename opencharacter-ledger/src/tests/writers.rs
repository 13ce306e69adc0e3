use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{LedgerError, RecordFilter, show, verify};

/// One record of a random kind; `text` is its own.
fn any_record() -> impl Strategy<Value = (usize, usize, u8)> {
    (0_usize..3, 0_usize..4, 0_u8..5)
}

fn build((key, kind): (usize, u8), text: &str) -> Record {
    match kind {
        0 => accepted(key, text),
        1 => rejected(key, text, "too short: 3 words"),
        2 => rejudged(key, text, "too long: 9 words"),
        3 => failed(key, FailureClass::Provider, text),
        _ => failed(key, FailureClass::Task, text),
    }
}

/// The rule in so many words, over all records in order.
fn expected(records: &[Record]) -> BTreeMap<CallKey, Record> {
    let mut expected = BTreeMap::new();
    for key in records.iter().map(|record| record.key) {
        let of_key: Vec<_> = records.iter().filter(|record| record.key == key).collect();
        let latest_verdict = of_key.iter().rfind(|record| record.rejudged);
        let earliest_success = of_key.iter().find(|record| !matches!(record.outcome, Outcome::Failed { .. }));
        let record = latest_verdict.or(earliest_success).or(of_key.last()).unwrap();
        expected.insert(key, Record::clone(record));
    }
    expected
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn several_writers_agree_on_what_counts(appended in prop::collection::vec(any_record(), 1..30)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let writers = [open(path), open(path), open(path)];
        for (number, (writer, key, kind)) in appended.iter().enumerate() {
            writers[*writer].append(&build((*key, *kind), &number.to_string())).unwrap();
        }
        let records: Vec<_> = show(path, RecordFilter::All).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(records.len(), appended.len());
        let expected = expected(&records);
        for writer in &writers {
            writer.refresh().unwrap();
            for (key, record) in &expected {
                prop_assert_eq!(writer.lookup(key).unwrap(), Some(record.clone()));
            }
            prop_assert_eq!(writer.len(), expected.len());
        }
        let live = verify(path).unwrap();
        prop_assert!(live.is_sound(), "{:?}", live);
        drop(writers);

        let cost = records.iter().filter(|record| !record.rejudged).count();
        for compacted in [false, true] {
            if compacted {
                let report = crate::compaction::compact(path, SMALL, &mut || Ok(())).unwrap();
                prop_assert_eq!(report.records_before as usize, records.len());
                prop_assert_eq!(report.records_after as usize, expected.len());
                let shown: Vec<_> = show(path, RecordFilter::All).unwrap().map(|record| record.unwrap().key).collect();
                let mut first: Vec<CallKey> = Vec::new();
                for record in &records {
                    if !first.contains(&record.key) {
                        first.push(record.key);
                    }
                }
                prop_assert_eq!(shown, first, "in the order of first appearance");
            }
            let again = open(path);
            for (key, record) in &expected {
                prop_assert_eq!(again.lookup(key).unwrap(), Some(record.clone()));
            }
            prop_assert_eq!((again.len(), calls(&again)), (expected.len(), cost));
        }
        prop_assert!(verify(path).unwrap().damage.is_empty());
    }
}

#[test]
fn a_live_writers_torn_record_is_left_alone_and_cut_when_it_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let writer = open(path);
    writer.append(&accepted(0, "text")).unwrap();
    let log = logs(path).pop().unwrap();
    let whole = fs::read(&log).unwrap();
    // Half of what the writer is about to append, as another process may see it.
    let torn = [&whole[..], &whole[..40]].concat();
    fs::write(&log, &torn).unwrap();
    let reader = open(path);
    assert!(holds(&reader, 0));
    assert_eq!(reader.report().torn_bytes, 0);
    assert_eq!(fs::read(&log).unwrap(), torn);
    assert_eq!(verify(path).unwrap().live_writers, 1);
    // Closing cuts the torn end too: what is behind the last record that it wrote is not its own.
    writer.close().unwrap();
    reader.refresh().unwrap();
    assert_eq!(fs::read(&log).unwrap(), whole);
    assert!(holds(&reader, 0));
}

#[test]
fn compaction_needs_the_ledger_alone() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    let second = open(directory.path());
    let error = Ledger::compact(directory.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Locked { .. }), "{error}");
    drop((first, second));
    Ledger::compact(directory.path()).unwrap();
}

#[test]
fn an_empty_segment_of_a_killed_writer_is_no_segment() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("segment-000007.log"), "").unwrap();
    let ledger = open(directory.path());
    assert!(ledger.is_empty());
    ledger.append(&accepted(0, "text")).unwrap();
    drop(ledger);
    assert_eq!(logs(directory.path()).last().unwrap().file_name().unwrap(), "segment-000008.log");
    assert_eq!(open(directory.path()).len(), 1);
}
