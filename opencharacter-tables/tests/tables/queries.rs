use std::fs;

use futures_util::TryStreamExt;
use opencharacter_tables::{QueryOptions, Row, Table, TableError, WriteOptions, query};
use serde_json::{Value, json};

use super::{table, values, write};

async fn ask(sql: &str, tables: &[(&str, &Table)]) -> Result<Vec<Value>, TableError> {
    let rows: Vec<Row> = query(sql, tables, QueryOptions::default()).await?.try_collect().await?;
    assert!(rows.iter().map(|row| row.number).eq(1..=rows.len()));
    Ok(rows.into_iter().map(|row| row.value).collect())
}

async fn two_tables(folder: &tempfile::TempDir, endings: [&str; 2]) -> [Table; 2] {
    // A name that would be a pattern, if names were patterns.
    let characters = table(folder.path().join(format!("characters [1] *.{}", endings[0])));
    let dialogues = table(folder.path().join(format!("dialogues %20 #.{}", endings[1])));
    let rows: Vec<Value> =
        (0..5).map(|index| json!({"id": format!("c{index}"), "Name": format!("N{index}")})).collect();
    write(&characters, &rows, WriteOptions::default()).await.unwrap();
    let rows: Vec<Value> = (0..20)
        .map(|index| json!({"character": format!("c{}", index % 4), "turns": index, "messages": [{"role": "user"}]}))
        .collect();
    write(&dialogues, &rows, WriteOptions::default()).await.unwrap();
    [characters, dialogues]
}

#[tokio::test]
async fn tables_of_different_formats_are_joined_grouped_and_ordered() {
    for endings in [["jsonl", "parquet"], ["csv", "jsonl"], ["parquet", "json"]] {
        let folder = tempfile::tempdir().unwrap();
        let [characters, dialogues] = two_tables(&folder, endings).await;
        let tables = [("characters", &characters), ("dialogues", &dialogues)];
        let sql = "SELECT Name, COUNT(*) AS n, sum(turns) AS turns FROM characters c \
                   JOIN dialogues d ON c.id = d.character WHERE turns > 3 GROUP BY Name ORDER BY turns DESC LIMIT 2";
        let expected = [
            json!({"Name": "N3", "n": 4, "turns": 7 + 11 + 15 + 19}),
            json!({"Name": "N2", "n": 4, "turns": 6 + 10 + 14 + 18}),
        ];
        assert_eq!(ask(sql, &tables).await.unwrap(), expected, "{endings:?}");
        let sql = "SELECT * FROM characters WHERE id NOT IN (SELECT character FROM dialogues)";
        assert_eq!(ask(sql, &tables).await.unwrap(), [json!({"id": "c4", "Name": "N4"})], "{endings:?}");
        assert_eq!(
            ask("SELECT messages FROM dialogues LIMIT 1", &tables).await.unwrap(),
            [json!({"messages": [{"role": "user"}]})]
        );
        assert_eq!(ask("SELECT count(*) AS n FROM dialogues", &tables).await.unwrap(), [json!({"n": 20})]);
    }
}

#[tokio::test]
async fn everything_but_a_select_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [characters, _] = two_tables(&folder, ["parquet", "jsonl"]).await;
    let before = fs::read_dir(folder.path()).unwrap().count();
    let out = folder.path().join("out.parquet");
    for sql in [
        &format!("COPY characters TO '{}'", out.display()),
        "DROP TABLE characters",
        "INSERT INTO characters VALUES ('a', 'b')",
        "CREATE TABLE other AS SELECT * FROM characters",
        &format!("CREATE EXTERNAL TABLE other STORED AS CSV LOCATION '{}'", out.display()),
        "SET datafusion.execution.batch_size = 1",
        "SELECT 1; DROP TABLE characters",
        "SELECT * FROM 'characters [1] *.parquet'",
        "SELECT * FROM other",
        "SELECT nme FROM characters",
        "SELECT a.*, b.* FROM characters a JOIN characters b ON a.id = b.id",
        "SELEC",
        "",
    ] {
        let error = ask(sql, &[("characters", &characters)]).await.unwrap_err();
        assert!(matches!(error, TableError::Query(_)), "{sql}: {error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
    assert_eq!(values(&characters).await.len(), 5);
}

#[tokio::test]
async fn mixed_columns_and_bad_rows_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixed.jsonl");
    fs::write(&path, "{\"id\":1,\"age\":3}\n{\"id\":2,\"age\":\"old\"}\n").unwrap();
    let mixed = table(&path);
    let error = ask("SELECT id FROM t WHERE age > 3", &[("t", &mixed)]).await.unwrap_err().to_string();
    assert!(error.contains("mixed.jsonl, row 2: column `age`: expected a whole number"), "{error}");
    let all = ask("SELECT * FROM t ORDER BY id", &[("t", &mixed)]).await.unwrap();
    assert_eq!(all, [json!({"id": 1, "age": 3}), json!({"id": 2, "age": "old"})]);
    fs::write(&path, "{\"id\":1}\n{\"id\":\n").unwrap();
    let error = ask("SELECT id FROM t", &[("t", &mixed)]).await.unwrap_err();
    assert!(matches!(error, TableError::Row { number: 2, .. }), "{error}");
}

#[tokio::test]
async fn a_sort_and_a_join_larger_than_their_memory_work() {
    let folder = tempfile::tempdir().unwrap();
    let spill = tempfile::tempdir().unwrap();
    let file = table(folder.path().join("rows.parquet"));
    let count = 120_000_u64;
    let rows: Vec<Value> = (0..count)
        .map(|index| {
            let key = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 1_000_003;
            json!({"key": key, "text": format!("{index:0>500}")})
        })
        .collect();
    write(&file, &rows, WriteOptions::default()).await.unwrap();
    let options = QueryOptions { memory: 48 << 20, spill_folder: Some(spill.path().to_owned()) };
    for (sql, expected) in [
        ("SELECT * FROM t ORDER BY key, text", count),
        ("SELECT a.key, a.text, b.text AS other FROM t a JOIN t b ON a.text = b.text ORDER BY a.key", count),
    ] {
        let mut rows = query(sql, &[("t", &file)], options.clone()).await.unwrap();
        let (mut last, mut seen, mut spilled) = (0, 0, 0);
        while let Some(row) = rows.try_next().await.unwrap() {
            let key = row.value["key"].as_u64().unwrap();
            assert!(last <= key);
            if seen == 0 {
                spilled = bytes_under(spill.path());
            }
            last = key;
            seen += 1;
        }
        assert_eq!(seen, expected);
        assert!(spilled > 10 << 20, "{spilled} bytes were moved to disk");
    }
    assert_eq!(bytes_under(spill.path()), 0);
}

fn bytes_under(folder: &std::path::Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { bytes_under(&path) } else { fs::metadata(path).unwrap().len() }).sum()
}
