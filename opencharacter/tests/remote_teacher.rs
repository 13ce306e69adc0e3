//! A teacher behind an endpoint, from the command line.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use opencharacter_core::{Character, Dialogue};
use opencharacter_remote::mock::{MockEndpoint, MockFault, MockOptions};

const KEY: &str = "sk-nobody-may-see-this";

/// Runs `dialogues` with a teacher at `base_url`; 30 questions for one character.
async fn dialogues(folder: &Path, base_url: &str) -> Output {
    let models = format!(
        "[models.teacher]\nprovider = \"openai\"\nmodel = \"big\"\nbase_url = \"{base_url}\"\napi_key_env = \"A_KEY\"\n"
    );
    fs::write(folder.join("models.toml"), models).unwrap();
    let character = serde_json::to_string(&Character::from_name("Ada Holm", "", "")).unwrap();
    fs::write(folder.join("characters.jsonl"), character).unwrap();
    let questions: Vec<String> =
        (0..30).map(|number| format!("{{\"question\": \"What is lamp number {number} for?\"}}")).collect();
    fs::write(folder.join("instructions.jsonl"), questions.join("\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencharacter"));
    command.current_dir(folder).env("A_KEY", KEY).stdin(Stdio::null());
    command.args(["dialogues", "--models", "models.toml", "--characters", "characters.jsonl"]);
    command.args(["--instructions", "instructions.jsonl", "--characters-per-instruction", "1", "--out", "d.jsonl"]);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Whether any file under `folder` holds `text`.
fn holds(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, text);
        }
        fs::read(&path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_served_teacher_writes_every_row_once_and_its_key_shows_nowhere() {
    let answer = Arc::new(|body: &serde_json::Value| {
        let asked = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
        let number: String = asked.chars().filter(char::is_ascii_digit).collect();
        format!("It burns for ship {number}, and I do not care which flag she flies.")
    });
    let faults = vec![(MockFault::ServerError, 0.15), (MockFault::TooMany, 0.1), (MockFault::HalfReply, 0.1)];
    let latency = Duration::from_millis(2);
    let options = MockOptions { latency, faults, answer, seed: 5, ..MockOptions::default() };
    let mock = MockEndpoint::start(options).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = dialogues(folder.path(), &mock.base_url()).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let text = fs::read_to_string(folder.path().join("d.jsonl")).unwrap();
    let rows: Vec<Dialogue> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 30, "{said}");
    for row in &rows {
        let [question, answer] = &row.messages[..] else { panic!("{row:?}") };
        let number: String = question.content.chars().filter(char::is_ascii_digit).collect();
        assert!(answer.content.starts_with(&format!("It burns for ship {number},")), "{row:?}");
        assert_eq!(row.provenance.as_ref().unwrap().teacher, "openai:big");
    }
    assert_eq!(mock.answered(), (30, 30), "a question was answered twice");
    assert_eq!(mock.keys(), [format!("Bearer {KEY}")]);
    assert!(!holds(folder.path(), KEY) && !said.contains(KEY));
    // Nothing is asked again, although the endpoint has moved.
    let moved = MockEndpoint::start(MockOptions::default()).await.unwrap();
    assert!(dialogues(folder.path(), &moved.base_url()).await.status.success());
    assert_eq!(moved.requests(), 0);
    assert_eq!(fs::read_to_string(folder.path().join("d.jsonl")).unwrap(), text);
}

#[tokio::test]
async fn a_wrong_key_stops_the_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    // A server that knows no such path says 404 to everything.
    let mock = MockEndpoint::start(MockOptions { unknown_model: true, ..MockOptions::default() }).await.unwrap();
    let output = dialogues(folder.path(), &mock.base_url()).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("404") && said.contains("big") && !said.contains(KEY), "{said}");
    assert!(!folder.path().join("d.jsonl").exists());
}
