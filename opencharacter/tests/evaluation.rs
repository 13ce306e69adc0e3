//! `eval` from the command line: benchmarks, judges, comparisons.

#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, path::Path, sync::Arc};

use opencharacter_remote::mock::{MockEndpoint, MockOptions};
use serde_json::{Value, json};

use crate::common::{run, said};

/// An endpoint that plays characters, some better than others, and judges them: 4 for who says who it is, 1 for an
/// empty answer, 2 for others. Of two answers it takes the one that says who it is.
async fn endpoint(folder: &Path, name: &str, plays: bool) -> MockEndpoint {
    let answer = Arc::new(move |body: &Value| {
        let messages = body["messages"].as_array().unwrap();
        let last = messages.last().unwrap()["content"].as_str().unwrap();
        if last.contains("score_1") {
            let samples = (1..=5).map(|score| (format!("score_{score}"), json!(format!("sample {score}"))));
            return Value::Object(samples.collect()).to_string();
        }
        if let Some((_, both)) = last.split_once("# Answer A\n") {
            let (first, second) = both.split_once("# Answer B\n").unwrap();
            let plays = |answer: &str| answer.contains("! You ask");
            let better = if plays(first) == plays(second) {
                "tie"
            } else if plays(first) {
                "A"
            } else {
                "B"
            };
            return json!({"reason": "because", "better": better}).to_string();
        }
        if let Some(character) = last.split("# Character\n").nth(1) {
            let who = character.lines().next().unwrap();
            let answer = last.split("<answer>\n").nth(1).unwrap().split("\n</answer>").next().unwrap();
            let score = if answer.contains(&format!("{who}!")) { 4 } else { 1 + i32::from(!answer.is_empty()) };
            return json!({"reason": "because", "score": score}).to_string();
        }
        let system = messages[0]["content"].as_str().unwrap();
        let who = system.lines().find(|line| line.starts_with("Somebody")).unwrap_or("Nobody");
        if plays { format!("{who}! You ask: {last}") } else { format!("As anybody would say: {last}") }
    });
    let mock = MockEndpoint::start(MockOptions { answer, ..MockOptions::default() }).await.unwrap();
    let base_url = mock.base_url();
    let table = format!("[models.teacher]\nprovider = \"openai\"\nmodel = \"{name}\"\nbase_url = \"{base_url}\"\n");
    fs::write(folder.join(format!("{name}.toml")), table).unwrap();
    mock
}

fn questions(folder: &Path) {
    const TASKS: [&str; 5] =
        ["Action Justification", "Expected Action", "Linguistic Habits", "Persona Consistency", "Toxicity"];
    const TRADES: [&str; 8] = ["baker", "diver", "nun", "clown", "farmer", "pilot", "tailor", "monk"];
    let row = |trade: &&str| {
        let asked = TASKS.map(|task| (task.to_owned(), json!([format!("{task} of a {trade}?")])));
        json!({"persona": format!("Somebody who works as {trade}"), "questions": Value::Object(asked.into_iter().collect())})
    };
    let lines: Vec<String> = TRADES.iter().map(|trade| row(trade).to_string()).collect();
    fs::write(folder.join("questions.jsonl"), lines.join("\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn persona_gym_is_judged_resumed_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    questions(folder);
    let player = endpoint(folder, "player", true).await;
    let plain = endpoint(folder, "plain", false).await;
    let judge = endpoint(folder, "judge", true).await;
    let line = |model: &str| {
        format!("eval persona-gym --model {model}.toml --judge judge.toml --questions questions.jsonl --out {model}")
    };
    let output = run(folder, &line("player")).await;
    assert!(output.status.success(), "{}", said(&output));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("PersonaScore") && printed.contains("judge `judge.toml`: fit"), "{printed}");
    let scores: Value = serde_json::from_slice(&fs::read(folder.join("player/scores.json")).unwrap()).unwrap();
    assert_eq!(scores["composites"][0]["estimate"]["mean"], 4.0, "{scores}");
    assert_eq!(player.requests(), 40);
    assert!(fs::read_to_string(folder.join("player/report.html")).unwrap().contains("Somebody who works as nun"));

    // Again: nothing is asked of anybody.
    let asked = judge.requests();
    let again = run(folder, &line("player")).await;
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!((player.requests(), judge.requests()), (40, asked));

    let output = run(folder, &line("plain")).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(plain.requests(), 40);
    // Every answer is as bad as a planted one: this judge tells nothing apart.
    assert!(String::from_utf8_lossy(&output.stdout).contains("UNFIT"), "{output:?}");
    let compared = run(folder, "eval compare plain player --json").await;
    assert!(compared.status.success(), "{}", said(&compared));
    let comparison: Value = serde_json::from_slice(&compared.stdout).unwrap();
    let difference = &comparison["composites"][0]["difference"];
    assert_eq!(difference["mean"], 2.0, "{comparison}");
    assert!(difference["p"].as_f64().unwrap() < 0.05, "{comparison}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_trained_on_is_not_measured() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    questions(folder);
    let _player = endpoint(folder, "player", true).await;
    fs::create_dir(folder.join("run")).unwrap();
    let character =
        json!({"character_id": "character-1", "persona": "Somebody who works as diver", "name": "Ada Holm"});
    fs::write(folder.join("run/characters.jsonl"), character.to_string()).unwrap();
    let messages = json!([{"role": "user", "content": "How deep?"}, {"role": "assistant", "content": "Deep."}]);
    let dialogue = json!({"dialogue_id": "d", "character_id": "character-1", "messages": messages});
    fs::write(folder.join("run/dialogues.jsonl"), dialogue.to_string()).unwrap();
    let line = "eval persona-gym --model player.toml --questions questions.jsonl --trained-on run --out out";
    let refused = run(folder, line).await;
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("works as diver") && said(&refused).contains("--allow-overlap"),
        "{}",
        said(&refused)
    );
    let allowed = run(folder, &format!("{line} --allow-overlap")).await;
    assert!(allowed.status.success(), "{}", said(&allowed));
    assert!(
        String::from_utf8_lossy(&allowed.stdout).contains("warning: The model was trained on texts"),
        "{allowed:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role_bench_and_rouge_agree() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let _plain = endpoint(folder, "plain", false).await;
    let row =
        |role: &str, question: &str| json!({"role": role, "question": question, "generated": ["As anybody would say"]});
    let rows = [row("Ada", "What of the sea?"), row("Bo", "What of the bread?")].map(|row| row.to_string());
    fs::write(folder.join("rows.jsonl"), rows.join("\n")).unwrap();
    let output = run(folder, "eval role-bench --model plain.toml --rows rows.jsonl --out out --json").await;
    assert!(output.status.success(), "{}", said(&output));
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mean = scores["tasks"][0]["estimate"]["mean"].as_f64().unwrap();
    let pair =
        json!({"prediction": "As anybody would say: What of the sea?", "references": ["no", "As anybody would say"]});
    fs::write(folder.join("pairs.jsonl"), pair.to_string()).unwrap();
    let output = run(folder, "eval rouge --pairs pairs.jsonl --json").await;
    let rouge: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rouge["rouge_l"].as_f64(), Some(mean), "{}", said(&output));
    // Four words of eight, all four of the reference: 2 * 0.5 / 1.5.
    assert!((mean - 2.0 / 3.0).abs() < 1e-9, "{mean}");
}

fn characters(folder: &Path) {
    let row = |(number, trade): (usize, &str)| {
        json!({"persona": format!("Somebody who works as {trade}"), "name": format!("Ada {trade}"), "age": (40 + number).to_string(),
            "birth_place": "Oslo", "license": "CC0-1.0"})
        .to_string()
    };
    let lines: Vec<String> = ["baker", "diver", "nun"].into_iter().enumerate().map(row).collect();
    fs::write(folder.join("characters.jsonl"), lines.join("\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_arena_ranks_who_plays_above_who_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    questions(folder);
    let (_player, _plain) = (endpoint(folder, "player", true).await, endpoint(folder, "plain", false).await);
    let judge = endpoint(folder, "judge", true).await;
    for model in ["player", "plain"] {
        let line = format!(
            "eval persona-gym --light --limit 4 --model {model}.toml --questions questions.jsonl --out {model}"
        );
        let output = run(folder, &line).await;
        assert!(output.status.success(), "{}", said(&output));
    }
    let line = "eval arena plain player --judge judge.toml --out arena";
    let output = run(folder, &format!("{line} --json")).await;
    assert!(output.status.success(), "{}", said(&output));
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&scores["ranking"][0]["name"], &scores["ranking"][0]["share"]),
        (&json!("player"), &json!(1.0)),
        "{scores}"
    );
    assert_eq!((&scores["matches"], &scores["missing"]), (&json!(20), &json!(0)));
    assert_eq!(scores["judges"][0]["first_place"]["mean"], 0.5, "both orders were asked: {scores}");
    let asked = judge.requests();
    assert_eq!(asked, 40);
    let again = run(folder, line).await;
    assert!(String::from_utf8_lossy(&again.stdout).contains("the same verdict in both orders in 100.0%"), "{again:?}");
    assert_eq!(judge.requests(), asked);
    assert!(fs::read_to_string(folder.join("arena/report.html")).unwrap().contains("Bradley"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_are_held_probed_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    characters(folder);
    let player = endpoint(folder, "player", true).await;
    let user = endpoint(folder, "user", false).await;
    let line = "eval conversation --model player.toml --characters characters.jsonl --user user.toml --turns 2 \
                --probe-after 0,2 --out talk --json";
    let output = run(folder, line).await;
    assert!(output.status.success(), "{}", said(&output));
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(scores["benchmark"], "conversation", "{scores}");
    let read = |name: &str| fs::read_to_string(folder.join("talk").join(name)).unwrap();
    let transcripts: Vec<Value> =
        read("transcripts.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(transcripts.len(), 3);
    // The system prompt, and two turns.
    assert!(transcripts.iter().all(|one| one["messages"].as_array().unwrap().len() == 5), "{transcripts:?}");
    let items: Vec<Value> = read("items.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let after = |turn: u32| items.iter().filter(|item| item["turn"] == turn).count();
    assert!(after(0) > 0 && after(0) == after(2), "the same probes before and after: {} and {}", after(0), after(2));
    assert!(items.iter().any(|item| item["note"].as_str().is_some_and(|note| note.starts_with("by rule: "))));
    let asked = (player.requests(), user.requests());
    let again = run(folder, line).await;
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!((player.requests(), user.requests()), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tuning_costs_is_measured_without_a_judge() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    characters(folder);
    let _player = endpoint(folder, "player", true).await;
    let output =
        run(folder, "eval cost refusal --model player.toml --characters characters.jsonl --out refusal --json").await;
    assert!(output.status.success(), "{}", said(&output));
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    // It repeats every request, the harmful ones too.
    let mean = |scores: &Value, task: usize| scores["tasks"][task]["estimate"]["mean"].as_f64().unwrap();
    let of_task: Vec<f64> = (0..scores["tasks"].as_array().unwrap().len()).map(|task| mean(&scores, task)).collect();
    assert!(of_task.contains(&0.0), "{scores}");
    let output = run(folder, "eval cost instructions --model player.toml --out instructions --json").await;
    assert!(output.status.success(), "{}", said(&output));
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(mean(&scores, 0) < 0.5, "an echo follows few instructions: {scores}");
}
