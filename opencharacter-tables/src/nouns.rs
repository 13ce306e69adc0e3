//! The columns of opencharacter's own tables. A file with these has the same columns whatever its first rows lack.

use crate::{Column, Kind};

/// Of `opencharacter_core::Persona`.
pub fn personas() -> Vec<Column> {
    texts(&["character_id", "persona", "source", "license"])
}

/// Of `opencharacter_core::Character`.
pub fn characters() -> Vec<Column> {
    let mut columns = texts(&["character_id", "persona"]);
    columns.extend(texts(&[
        "name",
        "age",
        "gender",
        "race",
        "birth_place",
        "appearance",
        "general_experience",
        "personality",
        "source",
        "license",
    ]));
    columns.push(provenance());
    columns
}

/// Of `opencharacter_core::Instruction`.
pub fn instructions() -> Vec<Column> {
    let mut columns = texts(&["instruction_id"]);
    columns.push(Column::new("turns", Kind::Struct(texts(&["user", "answer"])).listed()));
    columns.extend(texts(&["source", "license"]));
    columns.push(provenance());
    columns
}

/// Of `opencharacter_core::Dialogue`: `messages` is a list of `role` and `content`, as trainers expect it.
pub fn dialogues() -> Vec<Column> {
    let mut columns = texts(&["dialogue_id", "character_id", "question_source", "strategy"]);
    columns.push(Column::new("messages", Kind::Struct(texts(&["role", "content"])).listed()));
    columns.push(provenance());
    columns
}

/// Of `opencharacter_core::PreferencePair`.
pub fn pairs() -> Vec<Column> {
    let mut columns = texts(&["pair_id", "character_id", "rejected_character_id"]);
    for name in ["prompt", "chosen", "rejected"] {
        columns.push(Column::new(name, Kind::Struct(texts(&["role", "content"])).listed()));
    }
    columns
}

fn provenance() -> Column {
    let mut parts = texts(&["teacher"]);
    // Names of templates are data.
    parts.push(Column::new("templates", Kind::Json));
    parts.push(Column::new("ledger_keys", Kind::Text.listed()));
    parts.push(Column::new("seed", Kind::Unsigned));
    parts.push(Column::new("sources", Kind::Struct(texts(&["source", "license"])).listed()));
    parts.push(Column::new("instruction_id", Kind::Text));
    parts.push(Column::new("specificity", Kind::Float));
    Column::new("provenance", Kind::Struct(parts))
}

fn texts(names: &[&str]) -> Vec<Column> {
    names.iter().map(|name| Column::new(*name, Kind::Text)).collect()
}
