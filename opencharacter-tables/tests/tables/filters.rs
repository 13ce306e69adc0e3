use std::fs;

use opencharacter_tables::{TableError, WriteOptions};
use serde_json::{Value, json};

use super::{read, table, write};

fn people() -> Vec<Value> {
    let person = |index: usize| {
        json!({
            "id": format!("p{index}"),
            "age": index,
            "Profession": if index.is_multiple_of(2) { "a nurse" } else { "a pilot" },
            "profile": {"height": index as f64 / 2.0},
            "messages": [{"role": "user", "content": "Hm?"}],
        })
    };
    (0..3000).map(person).collect()
}

#[tokio::test]
async fn a_condition_keeps_the_same_rows_and_numbers_in_every_format() {
    /// A condition, and which people it is true for.
    type Case = (&'static str, fn(usize) -> bool);
    let folder = tempfile::tempdir().unwrap();
    let cases: [Case; 7] = [
        ("age > 30 AND Profession LIKE '%nurse%'", |index| index > 30 && index % 2 == 0),
        ("age BETWEEN 10 AND 12 OR id = 'p2999'", |index| (10..=12).contains(&index) || index == 2999),
        ("\"Profession\" = 'a pilot'", |index| index % 2 == 1),
        ("profile.height >= 1499.5", |index| index == 2999),
        ("array_length(messages) = 1 AND length(id) < 3 AND age IS NOT NULL", |index| index < 10),
        ("regexp_like(id, '^p1.$')", |index| (10..20).contains(&index)),
        ("false", |_| false),
    ];
    for ending in ["jsonl", "json", "parquet", "csv"] {
        let file = table(folder.path().join(format!("people.{ending}")));
        write(&file, &people(), WriteOptions::default()).await.unwrap();
        for (condition, keeps) in cases {
            if ending == "csv" && (condition.contains("profile") || condition.contains("messages")) {
                // Nested values are there too: their kinds come from the JSON in the cells.
                assert!(read(&file, Some(condition)).await.is_ok(), "{condition}");
            }
            let found: Vec<usize> = read(&file, Some(condition)).await.unwrap().iter().map(|row| row.number).collect();
            let expected: Vec<usize> = (0..3000).filter(|&index| keeps(index)).map(|index| index + 1).collect();
            assert_eq!(found, expected, "{ending}: {condition}");
        }
    }
}

#[tokio::test]
async fn what_is_no_condition_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    for ending in ["jsonl", "parquet"] {
        let file = table(folder.path().join(format!("people.{ending}")));
        write(&file, &people()[..3], WriteOptions::default()).await.unwrap();
        for (condition, message) in [
            ("ages > 3", "has no column `ages`; it has `id`, `age`, `Profession`, `profile`, `messages`"),
            ("Profession = \"nurse\"", "has no column `nurse`"),
            ("age >", "text in single quotes"),
            ("age + 1", "it is no condition"),
            ("id IN (SELECT id FROM other)", "filter `id IN"),
            ("sum(age) > 3", "filter `sum(age) > 3`"),
            ("nonsense(age)", "nonsense"),
            ("profile.weight = 3", "weight"),
            ("age > 3; DROP TABLE x", "filter `age"),
            ("", "filter ``"),
        ] {
            let error = read(&file, Some(condition)).await.unwrap_err().to_string();
            assert!(error.contains(message), "{condition}: {error}");
        }
    }
}

#[tokio::test]
async fn a_column_of_mixed_kinds_is_an_error_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.jsonl");
    fs::write(&path, "{\"age\":30,\"id\":1}\n\n{\"age\":null,\"id\":2}\nno json\n{\"age\":\"old\",\"id\":3}\n")
        .unwrap();
    let file = table(&path);
    let error = read(&file, Some("age > 3")).await.unwrap_err().to_string();
    assert!(
        error.ends_with("people.jsonl, row 5: column `age`: expected a whole number as in the rows before, found text"),
        "{error}"
    );
    let rows = file.rows(opencharacter_tables::ReadOptions { filter: Some("id >= 2".into()) }).await.unwrap();
    let items: Vec<_> = futures_util::StreamExt::collect(rows).await;
    let numbers: Vec<Option<usize>> = items.iter().map(|item| item.as_ref().ok().map(|row| row.number)).collect();
    assert_eq!(numbers, [Some(3), None, Some(5)]);
}

#[tokio::test]
async fn text_and_numbers_are_never_compared_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.jsonl");
    fs::write(&path, "{\"age\":\"9\"}\n{\"age\":\"30\"}\n{\"age\":\"200\"}\n").unwrap();
    // As text, '9' is larger than '30', and '200' is smaller.
    match read(&table(&path), Some("age > 30")).await {
        Ok(rows) => assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [3]),
        Err(error) => assert!(error.to_string().contains("age"), "{error}"),
    }
}

#[tokio::test]
async fn a_condition_of_thousands_of_parts_does_not_end_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = table(folder.path().join("people.jsonl"));
    write(&file, &people()[..10], WriteOptions::default()).await.unwrap();
    let any = |count: usize| (0..count).map(|index| format!("age + {index} = 201")).collect::<Vec<_>>().join(" OR ");
    assert_eq!(read(&file, Some(&any(200))).await.unwrap().len(), 8);
    let listed: Vec<String> = (5..50_000).map(|age| age.to_string()).collect();
    assert_eq!(read(&file, Some(&format!("age IN ({})", listed.join(",")))).await.unwrap().len(), 5);
    let nested = format!("{}age > 3{}", "(".repeat(3000), ")".repeat(3000));
    let long = format!("age > 3 {}", "OR age = 1 ".repeat(100_000));
    for condition in [any(5000), any(50_000), "NOT ".repeat(100_000) + "true", "- ".repeat(100_000) + "1", nested, long]
    {
        assert!(matches!(read(&file, Some(&condition)).await, Err(TableError::Filter { .. })));
    }
}
