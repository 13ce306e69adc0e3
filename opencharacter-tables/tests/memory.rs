//! Memory does not grow with the rows. Alone in its process: the peak that the system knows is the process's.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that fails here should stop here")]

use futures_util::TryStreamExt;
use opencharacter_storage::Location;
use opencharacter_tables::{ReadOptions, Table, WriteOptions, sample};
use serde_json::json;

const ROWS: usize = 2_000_000;
/// The files below have 180 to 260 MB as text; batches of rows, encoders and the program itself take up the rest.
const MOST: usize = 200 << 20;

fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[tokio::test]
async fn two_million_rows_take_no_more_memory_than_some_thousand() {
    let folder = tempfile::tempdir().unwrap();
    for ending in ["jsonl", "json", "csv", "parquet"] {
        let table = Table::at(&Location::from(folder.path().join(format!("rows.{ending}")))).unwrap();
        let mut writer = table.writer(WriteOptions::default()).await.unwrap();
        for index in 0..ROWS {
            let content = format!("message {index} about nothing");
            writer.write(&json!({"id": index, "messages": [{"role": "user", "content": content}]})).await.unwrap();
        }
        writer.finish().await.unwrap();
        let mut rows = table.rows(ReadOptions { filter: Some("id % 2 = 0".into()) }).await.unwrap();
        let mut last = 0;
        while let Some(row) = rows.try_next().await.unwrap() {
            assert_eq!(row.number, last + 1);
            last = row.number + 1;
        }
        assert_eq!(last, ROWS);
        let rows = table.rows(ReadOptions::default()).await.unwrap();
        assert_eq!(sample(rows, "id", 100, 1).await.unwrap().len(), 100);
        assert!(peak() < MOST, "{ending}: {} MB", peak() >> 20);
        println!("{ending}: peak {} MB", peak() >> 20);
    }
}
