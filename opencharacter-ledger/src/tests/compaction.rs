use super::*;
use crate::{LedgerError, RecordFilter, compaction::compact, show, verify};

/// Every kind of record, keys with several, and the costs of an earlier compaction.
fn history(directory: &Path) {
    let ledger = open(directory);
    for number in 0..5 {
        ledger.append(&failed(number, FailureClass::Provider, "down")).unwrap();
        ledger.append(&accepted(number, "first")).unwrap();
    }
    ledger.append(&scored(10)).unwrap();
    drop(ledger);
    compact(directory, SMALL, &mut || Ok(())).unwrap();
    let ledger = open(directory);
    for number in 3..7 {
        ledger.append(&accepted(number, "again")).unwrap();
        ledger.append(&rejudged(number, "again", "too long: 9 words")).unwrap();
    }
    ledger.append(&failed(11, FailureClass::Task, "no")).unwrap();
}

fn effective(directory: &Path) -> Vec<Option<Record>> {
    let ledger = open(directory);
    (0..12).map(|number| ledger.lookup(&key(number)).unwrap()).collect()
}

fn costs(directory: &Path) -> Vec<(String, usize, usize, f64)> {
    let total = open(directory).report().total;
    total.into_iter().map(|(stage, cost)| (stage, cost.calls_made, cost.prompt_tokens, cost.seconds)).collect()
}

#[test]
fn stopped_anywhere_it_has_happened_or_has_not() {
    let original = tempfile::tempdir().unwrap();
    history(original.path());
    let (records, cost) = (effective(original.path()), costs(original.path()));
    let mut stop_at = 0;
    loop {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        copy(original.path(), path);
        let mut steps = 0;
        let stopped = compact(path, SMALL, &mut || {
            steps += 1;
            let stop = || LedgerError::io(path, std::io::ErrorKind::Interrupted.into());
            if steps > stop_at { Err(stop()) } else { Ok(()) }
        });
        for compact_again in [false, true] {
            if compact_again {
                compact(path, SMALL, &mut || Ok(())).unwrap();
            }
            assert_eq!(effective(path), records, "stopped at step {stop_at}");
            assert_eq!(costs(path), cost, "stopped at step {stop_at}");
            let report = verify(path).unwrap();
            assert!(report.is_sound(), "stopped at step {stop_at}: {report:?}");
            let shown = show(path, RecordFilter::All).unwrap().count() as u64;
            assert_eq!(report.records, shown);
            let keys = records.iter().flatten().count() as u64;
            assert_eq!(report.keys, keys);
            assert!(!compact_again || report.records == keys);
        }
        let is_left = |path: PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("compact");
        assert!(!fs::read_dir(path).unwrap().any(|entry| is_left(entry.unwrap().path())));
        if stopped.is_ok() {
            break;
        }
        stop_at += 1;
    }
    assert!(stop_at > 15, "only {stop_at} steps: the segments are too few for this test to tell anything");
}

#[test]
fn a_compacted_ledger_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    history(directory.path());
    let before = compact(directory.path(), SMALL, &mut || Ok(())).unwrap();
    assert!(before.records_before > before.records_after && before.bytes_before > before.bytes_after, "{before:?}");
    let ledger = open(directory.path());
    ledger.append(&accepted(11, "at last")).unwrap();
    drop(ledger);
    assert_eq!(open(directory.path()).lookup(&key(11)).unwrap(), Some(accepted(11, "at last")));
    let again = compact(directory.path(), SMALL, &mut || Ok(())).unwrap();
    assert_eq!((again.records_before, again.records_after), (before.records_after + 1, before.records_after));
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    assert!(matches!(Ledger::compact(&missing), Err(LedgerError::Io { .. })));
    assert!(matches!(verify(&missing), Err(LedgerError::Io { .. })));
    assert!(!missing.exists());
}
