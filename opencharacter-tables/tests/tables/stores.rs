use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use opencharacter_storage::Location;
use opencharacter_tables::{QueryOptions, Row, Table, WriteOptions, query};
use serde_json::{Value, json};

use super::{read, values, write};

fn rows() -> Vec<Value> {
    (0..40_000).map(|index| json!({"id": index, "text": format!("{:x}", md5_like(index)).repeat(20)})).collect()
}

/// Text that does not compress away, so that an upload has several parts.
fn md5_like(index: u64) -> u128 {
    (u128::from(index) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
}

#[tokio::test]
async fn every_format_works_in_an_object_store() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let rows = rows();
    for ending in ["jsonl", "json", "parquet", "csv"] {
        let table = Table::in_store(store.clone(), Path::from(format!("run 1/rows.{ending}")));
        write(&table, &rows, WriteOptions::default()).await.unwrap();
        assert!(values(&table).await == rows, "{ending}");
        let found = read(&table, Some("id % 10000 = 7")).await.unwrap();
        assert_eq!(found.iter().map(|row| row.number).collect::<Vec<_>>(), [8, 10_008, 20_008, 30_008]);
        let asked = query("SELECT sum(id) AS s FROM t", &[("t", &table)], QueryOptions::default()).await.unwrap();
        let asked: Vec<Row> = asked.try_collect().await.unwrap();
        assert_eq!(asked[0].value, json!({"s": 40_000_u64 * 39_999 / 2}));
    }
}

#[tokio::test]
async fn an_upload_that_is_not_finished_is_not_there() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let table = Table::in_store(store.clone(), Path::from("rows.jsonl"));
    let mut writer = table.writer(WriteOptions::default()).await.unwrap();
    for row in rows() {
        writer.write(&row).await.unwrap();
    }
    assert!(store.head(&Path::from("rows.jsonl")).await.is_err());
    drop(writer);
    tokio::task::yield_now().await;
    assert!(store.head(&Path::from("rows.jsonl")).await.is_err());
    let error = read(&table, None).await.unwrap_err().to_string();
    assert!(error.contains("cannot read rows.jsonl"), "{error}");
}

/// `cargo xtask stores` starts a store and names a bucket in `OPENCHARACTER_TEST_BUCKET`.
#[tokio::test]
#[ignore = "needs an object store"]
async fn a_real_store_works() {
    let bucket = std::env::var("OPENCHARACTER_TEST_BUCKET").unwrap();
    let at = |name: &str| Table::at(&format!("{bucket}/{name}").parse::<Location>().unwrap()).unwrap();
    let rows = rows();
    for ending in ["jsonl", "json", "parquet", "csv"] {
        let table = at(&format!("rows.{ending}"));
        write(&table, &rows, WriteOptions::default()).await.unwrap();
        assert!(values(&table).await == rows, "{ending}");
        assert_eq!(read(&table, Some("id >= 39990")).await.unwrap().len(), 10);
        let asked = query("SELECT max(id) AS m FROM t", &[("t", &table)], QueryOptions::default()).await.unwrap();
        let asked: Vec<Row> = asked.try_collect().await.unwrap();
        assert_eq!(asked[0].value, json!({"m": 39_999}));
    }
    let mut writer = at("dropped.jsonl").writer(WriteOptions::default()).await.unwrap();
    for row in rows.iter().cycle().take(100_000) {
        writer.write(row).await.unwrap();
    }
    drop(writer);
    let error = read(&at("dropped.jsonl"), None).await.unwrap_err().to_string();
    assert!(error.contains("dropped.jsonl"), "{error}");
}
