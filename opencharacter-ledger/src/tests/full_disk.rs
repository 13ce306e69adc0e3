use std::process::Command;

use super::*;
use crate::LedgerError;

const DIRECTORY: &str = "LEDGER_FULL_DISK_TEST";

/// The part that runs in a process of its own: appends until nothing fits, then prints how many did.
#[test]
#[ignore = "run by the test below, with a limit on file sizes"]
fn append_until_full() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let ledger = Ledger::open_with(Path::new(&directory), Limits { records: 1000, ..SMALL }).unwrap();
    let mut number = 0;
    let error = loop {
        match ledger.append(&accepted(number, "text")) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LedgerError::Full { .. }), "{error}");
    assert!(matches!(ledger.append(&accepted(number, "text")), Err(LedgerError::Full { .. })), "still full");
    assert!((0..number).all(|number| holds(&ledger, number)), "and readable");
    println!("appended {number}.");
}

#[test]
fn a_full_disk_in_the_middle_of_a_segment_keeps_everything_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    filled(path, 7);
    // A file may have 10,000 bytes, and a write beyond fails instead of ending the process.
    let script =
        r#"trap "" XFSZ; ulimit -f 10; exec "$0" --ignored --exact tests::full_disk::append_until_full --nocapture"#;
    let output = Command::new("bash")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(DIRECTORY, path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let appended: usize = text.split("appended ").nth(1).unwrap().split('.').next().unwrap().parse().unwrap();
    assert!(appended > 20, "{appended}");
    let ledger = open(path);
    assert_eq!(ledger.len(), appended);
    assert!((0..appended).all(|number| holds(&ledger, number)));
    assert_eq!(calls(&ledger), 7 + appended);
    ledger.append(&accepted(appended, "text")).unwrap();
}
