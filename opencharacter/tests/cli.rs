//! The program as a user meets it.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use opencharacter_core::KeyedRandom;
use opencharacter_nn::{GgufFile, LoraAdapter, LoraConfig, Parameter};
use serde::Deserialize;
use serde_json::Value;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencharacter"));
    command.stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[derive(Deserialize)]
struct Cases {
    case: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    command: String,
    code: i32,
    says: Vec<String>,
}

/// Inputs that are too large for the repository, or that must not lie about.
fn prepare(folder: &Path) {
    let huge = format!("{{\"persona\": \"{}\"}}\n", "x".repeat(100_000));
    fs::write(folder.join("huge.jsonl"), huge).unwrap();
    let messages = r#"[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]"#;
    fs::write(folder.join("messages.json"), messages).unwrap();
    fs::write(folder.join("good_dialogue.jsonl"), format!("{{\"messages\": {messages}}}\n")).unwrap();
    let orphan = format!("{{\"dialogue_id\": \"d\", \"character_id\": \"character-x\", \"messages\": {messages}}}\n");
    fs::write(folder.join("orphan_dialogue.jsonl"), orphan).unwrap();
    let assets = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let recipe = format!(
        "personas.path = '{}'\ninstructions.path = '{}'\n",
        assets.join("personas.jsonl").display(),
        assets.join("instructions.jsonl").display()
    );
    fs::write(folder.join("good.toml"), recipe).unwrap();
    fs::create_dir(folder.join("locked")).unwrap();
}

#[test]
fn bad_input_gets_one_clear_message_and_the_right_exit_code() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input");
    let out = tempfile::tempdir().unwrap();
    prepare(out.path());
    let lock = File::create(out.path().join("locked/run.lock")).unwrap();
    lock.lock().unwrap();
    let before = listing(out.path());
    let cases: Cases = toml::from_str(&fs::read_to_string(data.join("cases.toml")).unwrap()).unwrap();
    let mut failures = Vec::new();
    for case in &cases.case {
        let command = case.command.replace("OUT", &out.path().display().to_string());
        let output = program().current_dir(&data).args(command.split_whitespace()).output().unwrap();
        let text = stderr(&output);
        let missing: Vec<&String> = case.says.iter().filter(|word| !text.contains(*word)).collect();
        if output.status.code() != Some(case.code) || !missing.is_empty() || text.contains("panicked") {
            let code = output.status.code();
            failures.push(format!("{}: exit {code:?}, expected {}; lacks {missing:?}:\n{text}", case.name, case.code));
        }
        if !output.stdout.is_empty() {
            failures.push(format!("{}: something on standard output", case.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Ledgers may have been opened; nothing that looks like a result may have appeared.
    let after: Vec<PathBuf> = listing(out.path()).difference(&before).cloned().collect();
    assert!(after.iter().all(|path| path.to_string_lossy().contains("ledger")), "{after:?}");
}

fn listing(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(listing(&path));
        }
        found.insert(path);
    }
    found
}

#[test]
fn good_rows_survive_bad_ones_with_on_error_skip() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input");
    let out = tempfile::tempdir().unwrap();
    let characters = out.path().join("c.jsonl");
    let output = program()
        .current_dir(&data)
        .args(["characters", "--personas", "malformed_line.jsonl", "--on-error", "skip", "--attempts", "8", "--out"])
        .arg(&characters)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("line 2: skipped"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&characters).unwrap().lines().count(), 2);
    // A second run makes no call: the ledger holds every answer.
    let again = program()
        .current_dir(&data)
        .args(["characters", "--personas", "malformed_line.jsonl", "--on-error", "skip", "--attempts", "8", "--out"])
        .arg(&characters)
        .output()
        .unwrap();
    assert!(again.status.success());
}

#[test]
fn complete_and_score_agree_with_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let messages = folder.path().join("messages.json");
    fs::write(&messages, r#"[{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]"#)
        .unwrap();
    let output =
        program().args(["complete", "--json", "--max-tokens", "40", "--messages"]).arg(&messages).output().unwrap();
    let completion: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let text = completion["text"].as_str().unwrap();
    assert!(text.contains("Paris"), "{text}");
    // The likeliest answer is likelier than a wrong one.
    let dialogue = |answer: &str| {
        serde_json::json!({"messages": [
            {"role": "user", "content": "What is the capital of France? Answer in one sentence."},
            {"role": "assistant", "content": answer},
        ]})
    };
    let dialogues = folder.path().join("dialogues.jsonl");
    fs::write(&dialogues, format!("{}\n{}\n", dialogue(text), dialogue("Purple elephants sing at noon."))).unwrap();
    let output = program().args(["score", "--json", "--dialogues"]).arg(&dialogues).output().unwrap();
    let lines: Vec<Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{}", stderr(&output));
    let nll = |line: &Value| line["nll"].as_f64().unwrap();
    assert!(nll(&lines[0]) < 0.7 && nll(&lines[1]) > 3.0, "{lines:?}");
    assert!(lines[0]["tokens"].as_u64().unwrap() > 5 && lines[0]["id"].is_string());
}

#[test]
fn expected_memory_is_what_training_takes() {
    // The last sequence is longer than the parts in which a batch passes where every weight is trained.
    let cases = [
        "--method lora --sequences 2 --tokens 256",
        "--method lora --sequences 1 --tokens 600 --recompute",
        "--method full --sequences 1 --tokens 600",
    ];
    for case in cases {
        let output =
            program().args(["bench", "train", "--steps", "1", "--json"]).args(case.split(' ')).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        let bytes = |name: &str| report[name].as_f64().unwrap();
        let ratio = bytes("expected_resident_bytes") / bytes("peak_resident_bytes");
        assert!((0.75..1.25).contains(&ratio), "{case}: {ratio} of {report}");
    }
}

const SMALL_RECIPE: &str = r#"
seed = 4
personas = { path = "PERSONAS", limit = 7 }
instructions = { path = "INSTRUCTIONS", limit = 6 }
held_out = { characters = 3, instructions = 1 }
[dialogues]
strategies = ["generate", "rewrite"]
characters_per_instruction = 2
candidates = 2
comparisons = 1
sampling = { temperature = 0.8, max_tokens = 24 }
[train]
epochs = 1
checkpoint_every = 1
pack_tokens = 512
lora = { rank = 4, alpha = 8.0, targets = ["q_proj", "v_proj"] }
[eval]
questions_per_character = 1
distractors = 1
sampling = { temperature = 0.7, max_tokens = 16 }
"#;

/// The rows that a run makes, without which of two equal calls was made first.
fn results(folder: &Path) -> BTreeMap<&'static str, String> {
    ["characters.jsonl", "dialogues.jsonl", "held_out_dialogues.jsonl", "scores.json"]
        .into_iter()
        .map(|name| (name, fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))))
        .collect()
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_killed_again_and_again_ends_as_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let assets = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let recipe = folder.path().join("small.toml");
    let text = SMALL_RECIPE
        .replace("PERSONAS", &assets.join("personas.jsonl").display().to_string())
        .replace("INSTRUCTIONS", &assets.join("instructions.jsonl").display().to_string());
    fs::write(&recipe, text).unwrap();
    let whole = folder.path().join("whole");
    let output = program().arg("run").arg(&recipe).arg("--out").arg(&whole).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("expected memory: "), "{}", stderr(&output));

    let broken = folder.path().join("broken");
    for seconds in [2, 4, 6, 8, 10] {
        let mut child = program()
            .arg("run")
            .arg(&recipe)
            .arg("--out")
            .arg(&broken)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_secs(seconds));
        // On Unix this is SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = program().arg("run").arg(&recipe).arg("--out").arg(&broken).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(results(&broken), results(&whole));
    let adapter = |folder: &Path| fs::read(folder.join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&broken), adapter(&whole));

    // Nothing held out was trained on.
    let manifest: Value = serde_json::from_str(&fs::read_to_string(whole.join("manifest.json")).unwrap()).unwrap();
    let held_out: BTreeSet<&str> =
        manifest["held_out_characters"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert!(held_out.len() >= 2);
    let results = results(&whole);
    let (trained, references) = (rows(&results["dialogues.jsonl"]), rows(&results["held_out_dialogues.jsonl"]));
    assert!(!trained.is_empty() && !references.is_empty());
    assert!(trained.iter().all(|row| !held_out.contains(row["character_id"].as_str().unwrap())));
    assert!(references.iter().all(|row| held_out.contains(row["character_id"].as_str().unwrap())));
    let questions = |rows: &[Value]| -> BTreeSet<String> {
        rows.iter().map(|row| row["provenance"]["instruction_id"].as_str().unwrap().to_owned()).collect()
    };
    assert!(questions(&trained).is_disjoint(&questions(&references)));

    // A third run has nothing to do: no call is made.
    let ledger_size = |folder: &Path| -> u64 {
        listing(&folder.join("ledger")).iter().filter(|path| path.is_file()).map(|p| p.metadata().unwrap().len()).sum()
    };
    let before = ledger_size(&whole);
    let output = program().arg("run").arg(&recipe).arg("--out").arg(&whole).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(ledger_size(&whole), before, "a finished run asks nothing again");
    let report = fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(!report.contains("http://") && !report.contains("https://"), "the report loads nothing from outside");
}

#[test]
fn ctrl_c_exits_130_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let personas = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets/personas.jsonl");
    let out = folder.path().join("c.jsonl");
    let command = || {
        let mut command = program();
        command.args(["characters", "--limit", "20", "--personas"]).arg(&personas).arg("--out").arg(&out);
        command
    };
    let child = command().stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_secs(4));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("goes on from here"), "{}", stderr(&output));
    assert!(!out.exists(), "nothing half-written is taken for whole");
}

#[test]
fn an_exported_model_scores_as_base_and_adapter_do() {
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name).display().to_string();
    let dialogue = r#"{"messages": [{"role": "user", "content": "Why do you keep the lamp?"},
        {"role": "assistant", "content": "Somebody must, and the sea won't. I've done it for 31 years."}]}"#;
    fs::write(path("d.jsonl"), dialogue.replace('\n', " ")).unwrap();
    let run = |arguments: &str| {
        let arguments = arguments.replace("OUT", &out.path().display().to_string());
        let output = program().args(arguments.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    random_adapter(Path::new(run("model fetch").trim_end()), &out.path().join("adapter"));
    // In f32: on quantised weights the engine rounds, and a sum of base and adapter is then not the merged model's.
    run("export --to safetensors --type f32 --out OUT/base");
    let nll = |arguments: &str| {
        let line: Value =
            serde_json::from_str(&run(&format!("score --dialogues OUT/d.jsonl --json {arguments}"))).unwrap();
        line["nll"].as_f64().unwrap()
    };
    let (base, tuned) = (nll("--model OUT/base"), nll("--model OUT/base --adapter OUT/adapter"));
    assert!((base - tuned).abs() > 0.05, "the adapter changes too little to test anything: {base} and {tuned}");
    run("export --to safetensors --type f32 --model OUT/base --adapter OUT/adapter --out OUT/folder");
    let exported = nll("--model OUT/folder");
    assert!((exported - tuned).abs() < 1e-4, "{exported} from the folder, {tuned} expected");
    // And on from there: what GGUF needs of a tokenizer is made from `tokenizer.json`.
    run("export --to gguf --type q8_0 --model OUT/folder --out OUT/model.gguf");
    run("export --to safetensors --type f32 --model OUT/model.gguf --out OUT/again");
    let exported = nll("--model OUT/again");
    assert!((exported - tuned).abs() < 0.02, "{exported} from q8_0's weights, {tuned} expected");
    // As it is served, with activations in 8 bits: these 21 tokens moved by 0.021 where 3,574 moved by 0.0002.
    let served = nll("--model OUT/model.gguf");
    assert!((served - exported).abs() < 0.05, "{served} from q8_0, {exported} expected");
}

/// An adapter of rank 1 for `model`, both of its factors random.
fn random_adapter(model: &Path, folder: &Path) {
    let config = LoraConfig { rank: 1, alpha: 4.0, ..LoraConfig::default() };
    let mut adapter = LoraAdapter::new(config, &GgufFile::open(model).unwrap().config().unwrap(), 5);
    let mut random = KeyedRandom::new(5, &["export"]);
    for (parameter, values) in adapter.parameters_mut() {
        if matches!(parameter, Parameter::LoraB(..)) {
            for value in values {
                *value = (random.uniform() as f32 - 0.5) * 0.2;
            }
        }
    }
    adapter.save(folder, "SmolLM2-135M-Instruct").unwrap();
}
