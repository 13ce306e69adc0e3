use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Killed at a byte of the last segment; the indexes before it are there or were never finished.
    #[test]
    fn killed_at_any_byte_and_continued_gives_the_same_set(
        count in 1_usize..11,
        share in 0.0_f64..=1.0,
        lost_indexes in any::<u8>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        filled(path, count);
        for (number, index) in indexes(path).iter().enumerate() {
            if lost_indexes & (1 << number) != 0 {
                fs::remove_file(index).unwrap();
            }
        }
        let last = logs(path).pop().unwrap();
        let bytes = fs::read(&last).unwrap();
        let length = (bytes.len() as f64 * share) as usize;
        fs::write(&last, &bytes[..length]).unwrap();
        // A line feed ends a frame and is nowhere else: JSON escapes it.
        let in_last = bytes[..length].split(|byte| *byte == b'\n').count() - 1;
        let whole = (count - 1) / 3 * 3 + in_last;
        let end = bytes[..length].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);

        let ledger = open(path);
        for number in 0..count {
            prop_assert_eq!(holds(&ledger, number), number < whole);
        }
        prop_assert_eq!(ledger.report().torn_bytes as usize, length - end);
        for number in whole..count {
            ledger.append(&accepted(number, "text")).unwrap();
        }
        drop(ledger);

        let again = open(path);
        prop_assert_eq!(again.len(), count);
        prop_assert!((0..count).all(|number| holds(&again, number)));
        prop_assert_eq!((calls(&again), again.report().torn_bytes), (count, 0));
        drop(again);
        prop_assert!(crate::verify(path).unwrap().is_sound());
    }
}

#[test]
fn full_segments_are_sealed_and_nothing_of_them_stays_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = open(directory.path());
    for number in 0..8 {
        ledger.append(&accepted(number, "text")).unwrap();
    }
    ledger.segments().wait_until_sealed().unwrap();
    let (sealed, in_memory): (usize, usize) = {
        let state = ledger.segments().state();
        (state.sealed().len(), state.in_memory().map(|(_, contents)| contents.keys()).sum())
    };
    assert_eq!((sealed, in_memory), (2, 2));
    assert!((0..8).all(|number| holds(&ledger, number)));
    assert_eq!(ledger.lookup(&key(8)).unwrap(), None);
    assert_eq!((ledger.len(), logs(directory.path()).len()), (8, 3));
}

#[test]
fn size_fills_a_segment_too() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open_with(directory.path(), Limits { bytes: 600, ..Limits::STANDARD }).unwrap();
    for number in 0..6 {
        ledger.append(&accepted(number, "text")).unwrap();
    }
    drop(ledger);
    let logs = logs(directory.path());
    assert!(logs.len() > 1, "{logs:?}");
    assert!(logs[..logs.len() - 1].iter().all(|log| fs::metadata(log).unwrap().len() >= 600));
}

#[test]
fn opening_reads_no_record_of_a_sealed_segment() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3);
    // Of the same length, and nothing in it: an opening that looked would stumble.
    let log = logs(directory.path()).pop().unwrap();
    let length = fs::metadata(&log).unwrap().len();
    fs::write(&log, vec![0; length as usize]).unwrap();
    let ledger = open(directory.path());
    assert_eq!((calls(&ledger), ledger.len()), (3, 3));
    assert!(matches!(ledger.lookup(&key(0)), Err(crate::LedgerError::Corrupt { offset: 0, .. })));
}
