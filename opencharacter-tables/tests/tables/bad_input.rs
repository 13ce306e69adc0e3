use std::{fs, path::Path};

use opencharacter_tables::WriteOptions;
use serde_json::json;

use super::{everything, table, write};

/// Each file of `tests/bad_input` gives what stands in `.expected` beside it. `UPDATE_EXPECTED=1` writes these anew.
#[tokio::test]
async fn bad_input_is_named_and_the_rest_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input");
    let mut checked = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".expected") {
            continue;
        }
        let found = everything(&table(&path)).await.replace(&format!("{}/", folder.display()), "");
        let beside = folder.join(format!("{name}.expected"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&beside, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&beside).unwrap_or_default(), "{name}");
        checked += 1;
    }
    assert!(checked >= 10, "{checked}");
}

#[tokio::test]
async fn a_damaged_parquet_file_is_an_error_or_other_rows_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    let rows: Vec<_> =
        (0..50).map(|index| json!({"id": index, "m": [{"role": "user", "content": format!("{index}")}]})).collect();
    write(&table(&path), &rows, WriteOptions::default()).await.unwrap();
    let whole = fs::read(&path).unwrap();
    let damaged = folder.path().join("damaged.parquet");
    for index in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[index] ^= 1 << (index % 8);
        fs::write(&damaged, &bytes).unwrap();
        everything(&table(&damaged)).await;
        if index % 16 == 0 {
            fs::write(&damaged, &whole[..index]).unwrap();
            let found = everything(&table(&damaged)).await;
            assert!(found.contains("damaged.parquet cannot be read on: expected a whole Parquet file"), "{found}");
        }
    }
}
