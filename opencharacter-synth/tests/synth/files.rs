use std::{
    fs,
    path::{Path, PathBuf},
};

use opencharacter_core::{Character, Dialogue, Instruction, Persona, Role, short_id};
use opencharacter_synth::{FromRow, ImportedDialogue, OnError, Rows, Source, SynthError, write_jsonl_atomic};

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder)
}

async fn read<T: FromRow>(path: &Path, on_error: OnError) -> Result<Rows<T>, SynthError> {
    Source { on_error, ..Source::new(path) }.read().await
}

/// Reads `path` as what its name begins with; why it cannot be read.
async fn refusal(path: &Path) -> SynthError {
    let name = path.file_name().unwrap().to_str().unwrap();
    match name.split('-').next().unwrap() {
        "personas" => read::<Persona>(path, OnError::Fail).await.unwrap_err(),
        "instructions" => read::<Instruction>(path, OnError::Fail).await.unwrap_err(),
        "characters" => read::<Character>(path, OnError::Fail).await.unwrap_err(),
        "dialogues" => read::<ImportedDialogue>(path, OnError::Fail).await.unwrap_err(),
        other => panic!("{name}: no reader for `{other}`"),
    }
}

/// Each file of `tests/bad_input` beside its `.expected` message; adding a pair adds a test.
///
/// With `UPDATE_EXPECTED=1` the messages are written instead, to be read before they are committed.
#[tokio::test]
async fn bad_input_has_one_clear_message() {
    let mut checked = 0;
    for entry in fs::read_dir(fixtures("bad_input")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().unwrap() == "expected" {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let message = refusal(&path).await.to_string();
        let message = message.replace(path.to_str().unwrap(), name);
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(path.with_file_name(format!("{name}.expected")), format!("{message}\n")).unwrap();
        }
        let expected = fs::read_to_string(path.with_file_name(format!("{name}.expected"))).unwrap_or_default();
        assert_eq!(message, expected.trim_end(), "{name}");
        checked += 1;
    }
    assert!(checked >= 15, "{checked}");
}

#[tokio::test]
async fn skipping_keeps_the_good_rows_and_reports_the_bad() {
    let read = read::<Persona>(&fixtures("bad_input").join("personas-malformed.jsonl"), OnError::Skip).await.unwrap();
    let kept: Vec<&str> = read.rows.iter().map(|persona| persona.persona.as_str()).collect();
    assert_eq!(kept, ["A baker", "A diver"]);
    assert_eq!(read.skipped.len(), 1);
    assert_eq!(read.skipped[0].line, 2);
    assert!(read.skipped[0].reason.contains("not valid JSON"), "{:?}", read.skipped);
}

#[tokio::test]
async fn a_persona_of_100_000_characters_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long.jsonl");
    fs::write(&path, format!("{{\"persona\": \"short\"}}\n{{\"persona\": \"{}\"}}\n", "ä".repeat(100_000))).unwrap();
    let message = read::<Persona>(&path, OnError::Fail).await.unwrap_err().to_string();
    assert!(message.contains("line 2: field `persona`: 100000 characters are too many"), "{message}");
    assert_eq!(read::<Persona>(&path, OnError::Skip).await.unwrap().rows.len(), 1);
}

#[tokio::test]
async fn personas_in_every_format() {
    for name in ["personas.jsonl", "personas.txt", "personas.json"] {
        let read = read::<Persona>(&fixtures("formats").join(name), OnError::Fail).await.unwrap();
        let texts: Vec<&str> = read.rows.iter().map(|persona| persona.persona.as_str()).collect();
        assert_eq!(texts, ["A baker", "A diver", "Ein Bäcker"], "{name}");
        assert_eq!(read.rows[0].character_id, short_id("character", &["A baker"]));
        assert_eq!(read.rows[0].source, "personas");
        assert_eq!(read.skipped.len(), 1, "{name}: the duplicate");
        assert!(
            read.skipped[0].reason.contains("duplicate of ") && read.skipped[0].reason.ends_with(" 1"),
            "{:?}",
            read.skipped
        );
    }
}

#[tokio::test]
async fn instructions_in_every_format() {
    let read = read::<Instruction>(&fixtures("formats").join("instructions.jsonl"), OnError::Fail).await.unwrap();
    let turns: Vec<Vec<(&str, Option<&str>)>> = read
        .rows
        .iter()
        .map(|row| row.turns.iter().map(|turn| (turn.user.as_str(), turn.answer.as_deref())).collect())
        .collect();
    let expected: Vec<Vec<(&str, Option<&str>)>> = vec![
        vec![("native one", Some("1")), ("native two", None)],
        vec![("alpaca\n\nwith input", Some("out"))],
        vec![("alpaca without", None)],
        vec![("self-instruct\n\ninstance", Some("out"))],
        vec![("lima one", Some("yes")), ("lima two", Some("no"))],
        vec![("sharegpt", Some("answer"))],
        vec![("openai", Some("answer"))],
        vec![("fastchat one", None), ("fastchat two", None)],
        vec![("plain question", None)],
        vec![("plain prompt", Some("answered"))],
        vec![("plain text", None)],
    ];
    assert_eq!(turns, expected);
    assert_eq!(read.rows[0].instruction_id, "instruction-given");
    assert_eq!((read.rows[1].license.as_str(), read.rows[1].source.as_str()), ("CC0", "elsewhere"));
}

#[tokio::test]
async fn characters_native_and_as_the_paper_released_them() {
    let read = read::<Character>(&fixtures("formats").join("characters.jsonl"), OnError::Fail).await.unwrap();
    let [native, released] = &read.rows[..] else { panic!("{read:?}") };
    assert_eq!((native.profile.name.as_str(), native.profile.age.as_str()), ("Ada", "52"));
    assert_eq!(native.character_id, short_id("character", &["A keeper"]));
    assert_eq!(released.character_id, "17");
    assert_eq!(released.persona, "A diver");
    let profile = &released.profile;
    assert_eq!(profile.name, "Bo Lund");
    assert_eq!(profile.birth_place, "Åbo");
    assert_eq!(profile.general_experience, "Dives.\nStill dives: daily.");
    assert_eq!(profile.personality, "Calm.");
}

#[tokio::test]
async fn dialogues_in_every_format() {
    let read = read::<ImportedDialogue>(&fixtures("formats").join("dialogues.jsonl"), OnError::Fail).await.unwrap();
    let said: Vec<Vec<(Role, &str)>> = read
        .rows
        .iter()
        .map(|row| row.dialogue.messages.iter().map(|m| (m.role, m.content.as_str())).collect())
        .collect();
    let pair = |question, answer| vec![(Role::User, question), (Role::Assistant, answer)];
    let mut with_system = pair("openai q", "openai a");
    with_system.insert(0, (Role::System, "be Ada"));
    assert_eq!(
        said,
        vec![
            pair("native q", "native a"),
            pair("role q", "first"),
            pair("released q", "released a"),
            with_system,
            pair("share q", "share a"),
        ]
    );
    assert_eq!(read.rows[0].dialogue.dialogue_id, "dialogue-given");
    assert_eq!(read.rows[1].dialogue.dialogue_id, short_id("dialogue", &["Jack Sparrow", "role q", "first"]));
    assert_eq!(read.rows[2].dialogue.character_id, "17");
    let characters: Vec<&Character> = read.rows.iter().filter_map(|row| row.character.as_ref()).collect();
    assert_eq!(
        characters.iter().map(|character| character.profile.name.as_str()).collect::<Vec<_>>(),
        ["Jack Sparrow"]
    );
    assert_eq!(characters[0].character_id, read.rows[1].dialogue.character_id);
    assert_eq!(read.skipped.len(), 1, "the duplicate");
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let dialogues =
        read::<ImportedDialogue>(&fixtures("formats").join("dialogues.jsonl"), OnError::Fail).await.unwrap().rows;
    let dialogues: Vec<Dialogue> = dialogues.into_iter().map(|row| row.dialogue).collect();
    let path = directory.path().join("dialogues.jsonl");
    write_jsonl_atomic(&path, &dialogues).unwrap();
    assert_eq!(
        read::<ImportedDialogue>(&path, OnError::Fail)
            .await
            .unwrap()
            .rows
            .into_iter()
            .map(|row| row.dialogue)
            .collect::<Vec<_>>(),
        dialogues
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn a_failed_write_leaves_the_old_file_whole() {
    struct Unwritable;
    impl serde::Serialize for Unwritable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("disk trouble"))
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.jsonl");
    fs::write(&path, "old\n").unwrap();
    let message = write_jsonl_atomic(&path, &[Unwritable]).unwrap_err().to_string();
    assert!(message.contains("rows.jsonl") && message.contains("disk trouble"), "{message}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays");

    let message = write_jsonl_atomic(directory.path().join("none/rows.jsonl"), &["row"]).unwrap_err().to_string();
    assert!(message.contains("choose a writable directory"), "{message}");
}
