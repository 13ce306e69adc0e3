use super::*;
use crate::{LedgerError, RecordFilter, show, stats, verify};

fn history(directory: &Path) {
    let ledger = open(directory);
    for record in [
        failed(0, FailureClass::Provider, "down"),
        accepted(0, "a"),
        rejected(2, "b", "too short: 2 words"),
        rejected(4, "c", "too short: 1 word"),
        rejected(6, "d", "no persona"),
        scored(8),
        failed(10, FailureClass::Task, "no"),
        rejudged(0, "a", "too short: 1 word"),
        accepted(2, "paid for twice"),
        accepted(1, "another stage"),
    ] {
        ledger.append(&record).unwrap();
    }
}

#[test]
fn statistics_are_costs_per_call_and_verdicts_per_key() {
    let directory = tempfile::tempdir().unwrap();
    history(directory.path());
    let stages = stats(directory.path()).unwrap();
    let stage = &stages["stage-0"];
    assert_eq!((stage.calls.calls(), stage.calls.accepted, stage.calls.rejected), (8, 2, 3));
    assert_eq!((stage.calls.scored, stage.calls.failed_provider, stage.calls.failed_task), (1, 1, 1));
    assert_eq!((stage.calls.prompt_tokens, stage.calls.completion_tokens, stage.calls.seconds), (42, 15, 4.0));
    assert_eq!((stage.keys, stage.accepted, stage.scored), (6, 0, 1));
    assert_eq!(stage.rejected, [("no persona".to_owned(), 1), ("too short".to_owned(), 3)].into());
    assert_eq!(stage.failed, [(FailureClass::Task, 1)].into());
    assert_eq!((stages["stage-1"].keys, stages["stage-1"].accepted), (1, 1));
}

#[test]
fn verification_adds_up() {
    let directory = tempfile::tempdir().unwrap();
    history(directory.path());
    let report = verify(directory.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.records, report.accepted, report.rejected, report.scored), (10, 3, 4, 1));
    assert_eq!(report.failed, [(FailureClass::Provider, 1), (FailureClass::Task, 1)].into());
    assert_eq!((report.rejudged, report.keys, report.repeated_calls), (1, 7, 1));
    assert_eq!(report.keys_by_calls, [(1, 5), (2, 2)].into());
    assert_eq!((report.segments, report.indexed, report.live_writers, report.torn_bytes), (4, 4, 0, 0));
}

#[test]
fn records_are_shown_oldest_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    history(path);
    let shown = |filter| show(path, filter).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let of_first = [failed(0, FailureClass::Provider, "down"), accepted(0, "a"), rejudged(0, "a", "too short: 1 word")];
    assert_eq!(shown(RecordFilter::Item("item-0".into())), of_first);
    assert_eq!(shown(RecordFilter::Key(key(0).to_string()[..8].to_uppercase())), of_first);
    assert_eq!(shown(RecordFilter::Stage("stage-1".into())), [accepted(1, "another stage")]);
    assert_eq!(shown(RecordFilter::All).len(), 10);
    for (prefix, part) in [("", "begins 7 keys"), ("xyz", "begins no key")] {
        let error = show(path, RecordFilter::Key(prefix.into())).err().unwrap();
        assert!(matches!(error, LedgerError::KeyPrefix { .. }) && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_damaged_record_is_shown_as_an_error_and_the_rest_follows() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 6);
    flip(&logs(directory.path())[0], 0.5, 0);
    let shown: Vec<_> = show(directory.path(), RecordFilter::All).unwrap().collect();
    assert_eq!(shown.iter().filter(|record| record.is_ok()).count(), 5);
    assert!(matches!(shown[1], Err(LedgerError::Corrupt { .. })), "{shown:?}");
}
