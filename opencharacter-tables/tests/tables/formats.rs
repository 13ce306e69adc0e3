use std::fs;

use opencharacter_core::{
    Character, Dialogue, Instruction, Message, Persona, PreferencePair, Provenance, SourceNote, Strategy as Made, Turn,
};
use opencharacter_tables::{Column, Kind, TableError, WriteOptions, nouns};
use proptest::{collection::vec, option, prelude::*};
use serde_json::{Map, Value, json};

use super::{read, table, values, write};

/// Text with quotes, line ends, commas and every plane of Unicode; never empty and never like a number, which CSV could
/// not tell apart.
fn text() -> impl Strategy<Value = String> {
    let awkward = ["a \"quoted\", 'text'\r\nwith \\ lines\n", "x,\u{FEFF}\u{0}", " t "];
    prop_oneof![proptest::sample::select(awkward.to_vec()).prop_map(str::to_owned), "t\\PC{0,12}"]
}

fn field<T: Into<Value> + 'static>(values: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Option<Value>> {
    option::of(values.prop_map(Into::into)).boxed()
}

fn object(fields: Vec<(&'static str, Option<Value>)>) -> Value {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect::<Map<_, _>>().into()
}

fn rows() -> impl Strategy<Value = Vec<Value>> {
    let float = any::<f64>().prop_filter("JSON has no others", |float| float.is_finite());
    let message =
        (field(text()), field(text())).prop_map(|(role, content)| object(vec![("role", role), ("content", content)]));
    let counts = proptest::collection::btree_map("[a-z]{1,3}", 0_i64..9, 0..3)
        .prop_map(|counts| counts.into_iter().map(|(name, count)| (name, count.into())).collect::<Map<_, _>>());
    let row = (
        field(text()),
        field(any::<i64>()),
        field((1_u64 << 63)..),
        field(float),
        field(any::<bool>()),
        field(vec(message, 0..3).prop_map(Value::from)),
        field(vec(vec(option::of(text()), 0..3), 0..3).prop_map(|lists| json!(lists))),
        field(counts.prop_map(Value::Object)),
    );
    let row = row.prop_map(|(name, whole, large, float, truth, messages, lists, counts)| {
        object(vec![
            ("name", name),
            ("Whole number", whole),
            ("large", large),
            ("float", float),
            ("truth", truth),
            ("messages", messages),
            ("lists", lists),
            ("counts", counts),
        ])
    });
    vec(row, 1..30).prop_map(|rows| {
        let numbered = rows.into_iter().enumerate().map(|(index, mut row)| {
            row["id"] = json!(format!("row-{index}"));
            row
        });
        numbered.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_format_gives_back_the_rows_that_were_written(rows in rows()) {
        let folder = tempfile::tempdir().unwrap();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            for ending in ["jsonl", "json", "parquet", "csv"] {
                let table = table(folder.path().join(format!("rows.{ending}")));
                assert_eq!(write(&table, &rows, WriteOptions::default()).await.unwrap(), rows.len());
                let found = read(&table, None).await.unwrap();
                assert!(found.iter().map(|row| row.number).eq(1..=rows.len()));
                let found: Vec<Value> = found.into_iter().map(|row| row.value).collect();
                assert_eq!(found, rows, "{ending}");
            }
        });
    }
}

fn provenance() -> Provenance {
    Provenance {
        teacher: "teacher-1".into(),
        templates: [("profile".to_owned(), "abc".to_owned())].into(),
        ledger_keys: vec!["key".into()],
        seed: u64::MAX,
        sources: vec![SourceNote { source: "lamps".into(), license: "MIT".into() }],
        instruction_id: Some("instruction-1".into()),
        specificity: Some(0.1),
    }
}

fn dialogues() -> Vec<Dialogue> {
    let dialogue = |index: usize, provenance| Dialogue {
        dialogue_id: format!("dialogue-{index}"),
        character_id: String::new(),
        question_source: "lima".into(),
        strategy: Some(Made::Rewrite),
        messages: vec![Message::user("Who are you?"), Message::assistant("Löwe 🦁,\n\"king\"")],
        provenance,
    };
    vec![dialogue(1, None), dialogue(2, Some(provenance()))]
}

#[tokio::test]
async fn the_nouns_fit_their_columns_and_come_back_from_parquet() {
    let folder = tempfile::tempdir().unwrap();
    let mut character = Character::from_name("Ada", "made up", "CC0");
    character.provenance = Some(provenance());
    let turns =
        vec![Turn { user: "Why?".into(), answer: None }, Turn { user: "How?".into(), answer: Some("So.".into()) }];
    let pair = PreferencePair {
        pair_id: "pair-1".into(),
        character_id: String::new(),
        prompt: vec![Message::user("Hm?")],
        chosen: vec![Message::assistant("Yes.")],
        rejected: vec![Message::assistant("No.")],
        rejected_character_id: Some("character-2".into()),
    };
    let json = |value: &dyn Fn() -> serde_json::Result<Value>| value().unwrap();
    let cases = [
        (nouns::personas(), vec![json(&|| serde_json::to_value(Persona::new("A nurse.", "hub", "")))]),
        (nouns::characters(), vec![json(&|| serde_json::to_value(&character))]),
        (nouns::instructions(), vec![json(&|| serde_json::to_value(Instruction::new(turns.clone(), "x", "y")))]),
        (nouns::dialogues(), dialogues().iter().map(|dialogue| serde_json::to_value(dialogue).unwrap()).collect()),
        (nouns::pairs(), vec![json(&|| serde_json::to_value(&pair))]),
    ];
    for (index, (columns, rows)) in cases.into_iter().enumerate() {
        let file = table(folder.path().join(format!("{index}.parquet")));
        let options = WriteOptions { columns: Some(columns.clone()) };
        write(&file, &rows, options.clone()).await.unwrap();
        assert_eq!(file.columns().await.unwrap(), columns);
        let found = values(&file).await;
        // Objects are equal whatever the order of their fields.
        assert_eq!(found, rows);
        let empty: [Value; 0] = [];
        write(&file, &empty, options).await.unwrap();
        assert_eq!((values(&file).await.len(), file.columns().await.unwrap()), (0, columns));
    }
}

#[tokio::test]
async fn a_row_that_does_not_fit_is_named_and_the_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    let file = table(&path);
    let columns = vec![
        Column::new("id", Kind::Integer),
        Column::new("m", Kind::Struct(vec![Column::new("c", Kind::Text)]).listed()),
    ];
    let options = WriteOptions { columns: Some(columns) };
    write(&file, &[json!({"id": 7})], options.clone()).await.unwrap();
    let old = fs::read(&path).unwrap();
    let good = json!({"id": 1, "m": [{"c": "x"}]});
    for (bad, message) in [
        (json!({"id": 0.5}), "rows.parquet, row 2: column `id`: expected a whole number, found a number (0.5)"),
        (json!({"m": [{"c": "y"}, {"c": 3}]}), "row 2: column `m[].c`: expected text, found a whole number (3)"),
        (json!({"m": [{"d": "y"}]}), "has no column `m[].d`; it has `id`, `m`"),
        (json!({"other": 1}), "has no column `other`"),
        (json!([1]), "row 2: expected an object, found a list"),
    ] {
        let error = write(&file, &[good.clone(), bad], options.clone()).await.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(fs::read(&path).unwrap(), old);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn a_row_past_the_first_ones_is_checked_against_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows: Vec<Value> = (0..9000).map(|index| json!({ "id": index })).collect();
    rows.push(json!({"id": "nine thousand"}));
    let error = write(&table(folder.path().join("rows.parquet")), &rows, WriteOptions::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("row 9001: column `id`: expected a whole number, found text"), "{error}");
    rows[9000] = json!({"id": 1, "late": 2});
    for ending in ["csv", "parquet"] {
        let file = table(folder.path().join(format!("rows.{ending}")));
        let error = write(&file, &rows, WriteOptions::default()).await.unwrap_err();
        assert!(matches!(error, TableError::UnknownColumn { ref column, .. } if column == "late"), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_empty_file_is_written_where_its_columns_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let none: [Value; 0] = [];
    for (name, content) in [("a.jsonl", ""), ("a.json", "[]\n")] {
        let path = folder.path().join(name);
        write(&table(&path), &none, WriteOptions::default()).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        assert!(values(&table(&path)).await.is_empty());
    }
    for name in ["a.csv", "a.parquet"] {
        let error = write(&table(folder.path().join(name)), &none, WriteOptions::default()).await.unwrap_err();
        assert!(matches!(error, TableError::NoColumns { .. }), "{error}");
    }
    let error = write(&table(folder.path().join("a.txt")), &none, WriteOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("cannot be written as plain text"), "{error}");
}

#[tokio::test]
async fn columns_of_another_kind_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for ending in ["parquet", "csv", "jsonl"] {
        let file = table(folder.path().join(format!("personas.{ending}")));
        write(&file, &[json!({"persona": 5, "age": 3, "n": [1]})], WriteOptions::default()).await.unwrap();
        let age = Column::new("age", Kind::Float);
        file.expect_columns(std::slice::from_ref(&age)).await.unwrap();
        let error = file.expect_columns(&[age, Column::new("persona", Kind::Text)]).await.unwrap_err().to_string();
        let expected = format!("personas.{ending}: column `persona`: expected text, found a whole number");
        assert!(error.ends_with(&expected), "{error}");
        let error = file.expect_columns(&[Column::new("n", Kind::Text.listed())]).await.unwrap_err().to_string();
        assert!(error.ends_with("column `n[]`: expected text, found a whole number"), "{error}");
        let error = file.expect_columns(&[Column::new("name", Kind::Text)]).await.unwrap_err().to_string();
        assert!(error.ends_with("has no column `name`; it has `persona`, `age`, `n`"), "{error}");
    }
}

#[tokio::test]
async fn a_sample_depends_on_ids_and_seed_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows: Vec<Value> = (0..200).map(|index| json!({"id": format!("row-{index}")})).collect();
    let file = table(folder.path().join("rows.jsonl"));
    let mut chosen = Vec::new();
    for _ in 0..2 {
        write(&file, &rows, WriteOptions::default()).await.unwrap();
        let mut ids = Vec::new();
        for count in [5, 50] {
            let sample = opencharacter_tables::sample(
                file.rows(opencharacter_tables::ReadOptions::default()).await.unwrap(),
                "id",
                count,
                7,
            );
            let sample = sample.await.unwrap();
            assert!(sample.is_sorted_by_key(|row| row.number) && sample.len() == count);
            let mut found: Vec<String> = sample.iter().map(|row| row.value["id"].to_string()).collect();
            found.sort();
            ids.push(found);
        }
        assert!(ids[0].iter().all(|id| ids[1].contains(id)));
        chosen.push(ids);
        rows.reverse();
    }
    assert_eq!(chosen[0], chosen[1]);
}
