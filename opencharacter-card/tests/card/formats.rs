use opencharacter_card::{Card, CardFile, CardFormat, Spec};
use serde_json::Value;

use super::{cases, expect};

/// What `.expected` beside each card of `tests/cards` holds: its warnings, and what writing it in its own version changes.
#[test]
fn cards_of_the_wild_are_read_and_lose_nothing() {
    let paths = cases("cards");
    for path in &paths {
        let bytes = std::fs::read(path).unwrap();
        let file = CardFile::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut found = vec![format!("read as {}, `{}`", file.card.spec, file.card.display_name())];
        for warning in &file.warnings {
            found.push(format!("warning: {warning}"));
        }
        let original: Value = serde_json::from_slice(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes)).unwrap();
        let written = file.card.to_json(file.card.spec);
        differences("", &original, &written, &mut found);
        expect(path, &(found.join("\n") + "\n"));
    }
    assert!(paths.len() >= 15, "{}", paths.len());
}

/// Where two values differ, order of keys included.
fn differences(place: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(left), Value::Object(right)) => {
            let shared: Vec<&String> = left.keys().filter(|key| right.contains_key(*key)).collect();
            let order: Vec<&String> = right.keys().filter(|key| left.contains_key(*key)).collect();
            assert_eq!(shared, order, "{place}: another order");
            for (key, value) in left {
                match right.get(key) {
                    Some(other) => differences(&format!("{place}.{key}"), value, other, found),
                    None => found.push(format!("removed {place}.{key}: {value}")),
                }
            }
            for (key, value) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
                found.push(format!("added {place}.{key}: {value}"));
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                differences(&format!("{place}[{index}]"), left, right, found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("changed {place}: {before} -> {after}")),
    }
}

/// Through any chain of formats, a card comes back as V3 says it.
#[test]
fn every_format_carries_every_card() {
    let formats = [
        CardFormat::Json(Spec::V1),
        CardFormat::Json(Spec::V2),
        CardFormat::Json(Spec::V3),
        CardFormat::Png(Spec::V1),
        CardFormat::Png(Spec::V2),
        CardFormat::Png(Spec::V3),
        CardFormat::Charx,
    ];
    for path in cases("cards") {
        let mut file = CardFile::parse(&std::fs::read(&path).unwrap()).unwrap();
        // A picture of one pixel: drawing seven hundred placeholders would take most of the time.
        file.set_picture(&std::fs::read(super::tests("bad_input/no_card.png")).unwrap()).unwrap();
        let said = |file: &CardFile| {
            let mut card = file.card.clone();
            // Moving between containers says where the picture is now.
            card.assets = card.assets.map(|assets| assets.into_iter().filter(|asset| !asset.is_main_icon()).collect());
            card.assets = card.assets.filter(|assets| !assets.is_empty());
            fields(&card)
        };
        for first in formats {
            for second in formats {
                let once = CardFile::parse(&file.write(first).unwrap().bytes).unwrap();
                let twice = CardFile::parse(&once.write(second).unwrap().bytes).unwrap();
                assert_eq!(said(&twice), said(&file), "{} as {first:?}, then {second:?}", path.display());
            }
        }
    }
}

/// The typed fields, and the unknown ones of `data` in V2 and V3.
fn fields(card: &Card) -> Value {
    let mut bare = card.clone();
    bare.kept = opencharacter_card::Kept::default();
    bare.kept_around = opencharacter_card::Kept::default();
    let mut value = bare.to_json(Spec::V3);
    if let Some(unknown) = card.to_json(Spec::V3)["data"].get("unknown") {
        value["unknown"] = unknown.clone();
    }
    // A new object has its keys in their own order.
    value.sort_all_objects();
    value
}

#[test]
fn an_edit_changes_what_was_edited_and_nothing_else() {
    let path = super::tests("cards/v2_sillytavern.json");
    let mut file = CardFile::parse(&std::fs::read(&path).unwrap()).unwrap();
    let before = file.card.to_json(Spec::V2);
    file.card.scenario = "A calm.".into();
    file.card.tags.push("sea".into());
    let mut found = Vec::new();
    differences("", &before, &file.card.to_json(Spec::V2), &mut found);
    assert_eq!(
        found,
        [
            "changed .scenario: \"A storm.\" -> \"A calm.\"",
            "changed .data.scenario: \"A storm.\" -> \"A calm.\"",
            "changed .data.tags: [] -> [\"sea\"]"
        ]
    );
}

#[test]
fn what_stands_around_the_data_survives_v1() {
    let file = CardFile::parse(&std::fs::read(super::tests("cards/v2_sillytavern.json")).unwrap()).unwrap();
    let v1 = CardFile::parse(&file.write(CardFormat::Json(Spec::V1)).unwrap().bytes).unwrap();
    let value = v1.card.to_json(Spec::V1);
    assert_eq!((&value["create_date"], &value["talkativeness"]), (&"2024-01-01".into(), &"0.5".into()));
    assert_eq!((value.get("chat"), value.get("fav"), value.get("spec")), (None, None, None));
}

#[test]
fn a_new_card_has_what_its_version_demands_and_no_more() {
    let card = Card { name: "Mira".into(), ..Card::default() };
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let six = "name description personality scenario first_mes mes_example";
    let v2 = format!(
        "{six} creator_notes system_prompt post_history_instructions alternate_greetings tags creator \
         character_version extensions"
    );
    assert_eq!(keys(&card.to_json(Spec::V1)), six);
    assert_eq!(keys(&card.to_json(Spec::V2)), "spec spec_version data");
    assert_eq!(keys(&card.to_json(Spec::V2)["data"]), v2);
    assert_eq!(keys(&card.to_json(Spec::V3)["data"]), format!("{v2} group_only_greetings"));
    assert_eq!(card.to_json(Spec::V3)["spec_version"], "3.0");
}

#[test]
fn v2_has_no_decorators_and_gets_them_back() {
    let file = CardFile::parse(&std::fs::read(super::tests("cards/v3_full.json")).unwrap()).unwrap();
    let entry = &file.card.to_json(Spec::V2)["data"]["character_book"]["entries"][0];
    assert_eq!(entry["content"], "Storms come from the west.");
    let again = CardFile::parse(&file.write(CardFormat::Json(Spec::V2)).unwrap().bytes).unwrap();
    let content = &again.card.character_book.unwrap().entries[0].content;
    assert_eq!(content, "@@depth 2\n@@role assistant\n@@@unknown\nStorms come from the west.");
}
