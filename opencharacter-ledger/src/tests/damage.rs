use proptest::prelude::*;

use super::*;
use crate::{LedgerError, verify};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_index_is_never_the_truth(place in 0.0_f64..1.0, bit in 0_u8..8, segment in 0_usize..3) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        filled(path, 8);
        let whole: Vec<_> = indexes(path).iter().map(|index| fs::read(index).unwrap()).collect();
        let damaged = &indexes(path)[segment];
        flip(damaged, place, bit);
        let report = verify(path).unwrap();
        prop_assert_eq!(report.damage.len(), 1, "{:?}", report);
        prop_assert_eq!(&report.damage[0].path, damaged);

        let ledger = open(path);
        prop_assert!((0..8).all(|number| holds(&ledger, number)));
        prop_assert_eq!((calls(&ledger), ledger.len(), ledger.lookup(&key(8)).unwrap()), (8, 8, None));
        drop(ledger);
        prop_assert!(verify(path).unwrap().is_sound());
        for (index, whole) in indexes(path).iter().zip(whole) {
            prop_assert_eq!(fs::read(index).unwrap(), whole);
        }
    }

    #[test]
    fn a_flipped_byte_of_a_sealed_segment_is_never_taken_for_a_record(
        place in 0.0_f64..1.0,
        bit in 0_u8..8,
        segment in 0_usize..2,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        filled(path, 6);
        let log = &logs(path)[segment];
        let ends: Vec<_> =
            fs::read(log).unwrap().iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        let at = flip(log, place, bit);
        let damaged = segment * 3 + ends.iter().filter(|end| **end < at).count();
        let bytes = fs::read(log).unwrap();

        let ledger = open(path);
        for number in 0..6 {
            match ledger.lookup(&key(number)) {
                Ok(record) => {
                    prop_assert_ne!(number, damaged);
                    prop_assert_eq!(record, Some(accepted(number, "text")));
                }
                Err(error) => {
                    prop_assert_eq!(number, damaged, "{}", error);
                    let is_named = matches!(&error, LedgerError::Corrupt { path, .. } if path == log);
                    prop_assert!(is_named, "{}", error);
                }
            }
        }
        drop(ledger);
        prop_assert_eq!(fs::read(log).unwrap(), bytes, "a damaged segment is left as it is");
        let report = verify(path).unwrap();
        prop_assert!(!report.is_sound(), "{:?}", report);
        prop_assert_eq!(report.records, 5);
    }
}

#[test]
fn every_damaged_place_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    filled(path, 9);
    let logs = logs(path);
    flip(&logs[0], 0.5, 0);
    flip(&logs[2], 0.1, 3);
    fs::remove_file(&logs[1]).unwrap();
    let report = verify(path).unwrap();
    let places: Vec<_> = report.damage.iter().map(|damage| (damage.path.clone(), damage.offset)).collect();
    let third = fs::read(&logs[0]).unwrap().len() as u64 / 3;
    assert_eq!(
        places,
        [(logs[0].clone(), third), (logs[2].clone(), 0), (indexes(path)[0].with_file_name("segment-000002.index"), 0)]
    );
    assert_eq!((report.records, report.is_sound()), (4, false));
}
