//! Synthesis from the command line: what is asked for, what is there already, what comes out.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use opencharacter_core::Dialogue;
use opencharacter_remote::mock::{MockEndpoint, MockOptions};
use serde_json::{Value, json};

use crate::common::{run, said};

/// Forty questions, two characters, an endpoint whose answer to every fourth question is rejected.
async fn prepare(folder: &Path) -> MockEndpoint {
    let answer = Arc::new(|body: &Value| {
        let asked = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
        let number: usize = asked.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap();
        if number % 4 == 3 {
            "As an AI language model, I have no lamp.".into()
        } else {
            format!("It burns for ship {number}, and I do not care which flag she flies.")
        }
    });
    let mock = MockEndpoint::start(MockOptions { answer, ..MockOptions::default() }).await.unwrap();
    let models = format!(
        "[models.teacher]\nprovider = \"openai\"\nmodel = \"big\"\nbase_url = \"{}\"\nprice_in = 1.0\nprice_out = 100.0\n",
        mock.base_url()
    );
    fs::write(folder.join("models.toml"), models).unwrap();
    let character =
        |name: &str| json!({"persona": format!("{name}, a keeper"), "name": name, "source": "mine", "license": "MIT"});
    let lines = [character("Ada Holm"), character("Bo Lund")].map(|row| row.to_string());
    fs::write(folder.join("characters.jsonl"), lines.join("\n")).unwrap();
    let question = |number: usize| json!({"question": format!("What is lamp number {number} for?"), "source": "lamps", "license": "CC-BY-NC-4.0"});
    let lines: Vec<String> = (0..40).map(|number| question(number).to_string()).collect();
    fs::write(folder.join("instructions.jsonl"), lines.join("\n")).unwrap();
    mock
}

fn rows(path: &Path) -> Vec<Dialogue> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const DIALOGUES: &str = "dialogues --models models.toml --characters characters.jsonl --instructions instructions.jsonl \
                         --characters-per-instruction 1 --attempts 1 --out d.jsonl";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_so_many_rows_come_and_a_file_of_another_recipe_stays() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mock = prepare(folder).await;
    let output = run(folder, &format!("{DIALOGUES} --count 12")).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("breaks character"), "{}", said(&output));
    let path = folder.join("d.jsonl");
    assert_eq!(rows(&path).len(), 12);
    // The first twelve that are accepted, of sixteen questions: every fourth is rejected.
    let rejected = fs::read_to_string(folder.join("d.jsonl.rejected.jsonl")).unwrap();
    assert_eq!((rejected.lines().count(), mock.requests()), (3, 15));
    let manifest: Value = serde_json::from_slice(&fs::read(folder.join("d.jsonl.manifest.json")).unwrap()).unwrap();
    assert_eq!((manifest["rows"].as_u64(), manifest["complete"].as_bool()), (Some(12), Some(true)));
    let card = fs::read_to_string(folder.join("d.jsonl.card.md")).unwrap();
    assert!(card.contains("| lamps | CC-BY-NC-4.0 | 12 |") && card.contains("research only"), "{card}");

    // Again: nothing to do. With another seed: refused, with both hashes.
    let again = run(folder, &format!("{DIALOGUES} --count 12")).await;
    assert!(again.status.success() && said(&again).contains("there already"), "{}", said(&again));
    let before = fs::read(&path).unwrap();
    let other = run(folder, &format!("{DIALOGUES} --count 12 --seed 7")).await;
    assert_eq!(other.status.code(), Some(2), "{}", said(&other));
    assert!(said(&other).contains("`seed` was 0, is 7"), "{}", said(&other));
    assert_eq!(fs::read(&path).unwrap(), before);

    // More rows: only the rest is asked for. More than there are: an error, and what there is stays.
    let more = run(folder, &format!("{DIALOGUES} --count 100")).await;
    assert_eq!(more.status.code(), Some(1), "{}", said(&more));
    assert!(said(&more).contains("100 dialogues were asked for and 30 are there"), "{}", said(&more));
    assert_eq!((rows(&path).len(), mock.requests()), (30, 40));
    assert_eq!(mock.answered(), (40, 40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_ends_a_run_and_an_estimate_costs_a_sample() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mock = prepare(folder).await;
    let output = run(folder, &format!("{DIALOGUES} --dry-run --json")).await;
    assert!(output.status.success(), "{}", said(&output));
    let estimate: Value = serde_json::from_slice(&output.stdout).unwrap();
    // 24 questions, 18 rows; 40 rows are thought to take 40 / (18 / 24) calls.
    assert_eq!((estimate["sampled_items"].as_u64(), estimate["sampled_rows"].as_u64()), (Some(24), Some(18)));
    assert_eq!(estimate["calls"].as_u64(), Some(53));
    assert!(estimate["cost"].as_f64().unwrap() > 0.0);
    assert!(!folder.join("d.jsonl").exists());
    assert_eq!(mock.requests(), 24);

    // Ten tokens in and fifteen out are a call; the sample has cost 600 or less.
    let output = run(folder, &format!("{DIALOGUES} --max-tokens 700")).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("limit of 700 tokens"), "{}", said(&output));
    let half = rows(&folder.join("d.jsonl")).len();
    assert!((18..30).contains(&half), "{half} rows");
    let output = run(folder, &format!("{DIALOGUES} --max-tokens 70000")).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(rows(&folder.join("d.jsonl")).len(), 30);
    assert_eq!(mock.answered(), (40, 40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_format_in_and_out_with_sql_and_every_row_explained() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let _mock = prepare(folder).await;
    let command = DIALOGUES.replace("d.jsonl", "d.parquet");
    let mut words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    words.extend(["--where", "question LIKE '%2 for?'", "--characters-where", "name = 'Bo Lund'"].map(str::to_owned));
    let mut process = Command::new(env!("CARGO_BIN_EXE_opencharacter"));
    process.current_dir(folder).args(&words).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || process.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", said(&output));

    // 2, 12, 22, 32 end so; their answers stand.
    let paper = run(folder, "export --to paper --dialogues d.parquet --characters characters.jsonl --out paper").await;
    assert!(paper.status.success(), "{}", said(&paper));
    assert!(said(&paper).contains("research only"), "{}", said(&paper));
    let text = fs::read_to_string(folder.join("paper/synthetic_dialogue.jsonl")).unwrap();
    let released: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(released.len(), 4);
    assert!(released.iter().all(|row| row["character"].as_str().unwrap().starts_with("Name: Bo Lund")), "{text}");

    let factory =
        run(folder, "export --to llama-factory --dialogues d.parquet --characters characters.jsonl --out lf").await;
    assert!(factory.status.success(), "{}", said(&factory));
    let info: Value = serde_json::from_slice(&fs::read(folder.join("lf/dataset_info.json")).unwrap()).unwrap();
    assert_eq!(info["opencharacter"]["file_name"], "dialogues.jsonl");
    let row: Value =
        serde_json::from_str(fs::read_to_string(folder.join("lf/dialogues.jsonl")).unwrap().lines().next().unwrap())
            .unwrap();
    assert_eq!(row["messages"][0]["role"], "system");

    let explained = run(folder, &format!("explain {} --in d.parquet --json", row["id"].as_str().unwrap())).await;
    assert!(explained.status.success(), "{}", said(&explained));
    let chain: Value = serde_json::from_slice(&explained.stdout).unwrap();
    let answer = chain["calls"][0]["outcome"]["accepted"]["completion"]["text"].as_str().unwrap();
    assert_eq!(answer, row["messages"][2]["content"].as_str().unwrap());
    assert_eq!(chain["recipe"]["teacher"], "openai:big");

    let verified = run(folder, "ledger verify d.parquet.ledger --json").await;
    assert!(verified.status.success(), "{}", said(&verified));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_and_borrowed_rows_are_found_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let personas = [
        "A lighthouse keeper in Norway who counts the ships that pass her island every night",
        "A lighthouse keeper in Norway who counts the ships that pass her island every single night",
        "A baker who fears yeast",
        "A diver who collects the names of wrecks",
    ];
    let lines = personas.map(|persona| json!({ "persona": persona }).to_string());
    fs::write(folder.join("p.jsonl"), lines.join("\n")).unwrap();
    fs::write(folder.join("bench.jsonl"), json!({"text": "a DIVER who collects the names of wrecks"}).to_string())
        .unwrap();
    let output = run(folder, "deduplicate --in p.jsonl --by persona --threshold 0.7 --out once.jsonl").await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("near-duplicate of row 1"), "{output:?}");
    assert_eq!(fs::read_to_string(folder.join("once.jsonl")).unwrap().lines().count(), 3);
    let output = run(folder, "decontaminate --in once.jsonl --against bench.jsonl --out clean.jsonl").await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("the same words as row 1"), "{output:?}");
    assert_eq!(fs::read_to_string(folder.join("clean.jsonl")).unwrap().lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_ends_the_run_with_nothing_invented() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mock = prepare(folder).await;
    drop(mock);
    let models = fs::read_to_string(folder.join("models.toml")).unwrap();
    fs::write(folder.join("models.toml"), format!("{models}down_after = 2.0\n")).unwrap();
    let output = tokio::time::timeout(Duration::from_mins(1), run(folder, DIALOGUES)).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("run the same command again to resume"), "{}", said(&output));
    assert!(!folder.join("d.jsonl").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialogues_pass_rules_and_a_judge_and_the_rest_has_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Answers of characters, and a judge's marks: 4 for ships of an even number, 2 for the others.
    let answer = Arc::new(|body: &Value| {
        let asked = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
        if !asked.starts_with("You judge") {
            return format!(
                "It burns for {}",
                asked.replace("What is lamp", "ship").replace(" for?", ", whoever sails her.")
            );
        }
        let number: usize = asked.split("ship number ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        let (reason, mark) = if number.is_multiple_of(2) { ("It is hers.", 4) } else { ("Anybody could say so.", 2) };
        json!({"reason": reason, "mark": mark}).to_string()
    });
    let mock = MockEndpoint::start(MockOptions { answer, ..MockOptions::default() }).await.unwrap();
    let written = prepare(folder).await;
    let models = fs::read_to_string(folder.join("models.toml")).unwrap();
    fs::write(folder.join("models.toml"), models.replace(&written.base_url(), &mock.base_url())).unwrap();
    let output = run(folder, DIALOGUES).await;
    assert!(output.status.success(), "{}", said(&output));
    let before = rows(&folder.join("d.jsonl"));
    assert_eq!((before.len(), mock.requests()), (40, 40));

    // Without a judge nobody is asked.
    let plain = "filter --dialogues d.jsonl --characters characters.jsonl";
    let output = run(folder, &format!("{plain} --most-words 8 --out none.jsonl")).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("    40  too long"), "{}", said(&output));
    assert_eq!((rows(&folder.join("none.jsonl")).len(), mock.requests()), (0, 40));

    let judged = format!("{plain} --models models.toml --least-mark 3 --attempts 2 --out good.jsonl");
    let output = run(folder, &judged).await;
    assert!(output.status.success(), "{}", said(&output));
    let kept = rows(&folder.join("good.jsonl"));
    let expected: Vec<&Dialogue> = before
        .iter()
        .filter(|row| {
            let number: usize = row.messages[0].content.split(' ').nth(4).unwrap().parse().unwrap();
            number.is_multiple_of(2)
        })
        .collect();
    assert_eq!(kept.iter().collect::<Vec<_>>(), expected, "rows as they were, in their order");
    let rejected = fs::read_to_string(folder.join("good.jsonl.rejected.jsonl")).unwrap();
    assert_eq!(rejected.matches("judged 2, expected 3 or more: Anybody could say so.").count(), 20, "{rejected}");
    assert_eq!(mock.requests(), 40 + 40);
    let again = run(folder, &judged).await;
    assert!(again.status.success() && said(&again).contains("there already"), "{}", said(&again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_queried_and_personas_split_by_cluster() {
    const WORDS: [&str; 12] =
        ["baker", "diver", "clerk", "miner", "pilot", "nurse", "farmer", "tailor", "poet", "judge", "monk", "spy"];
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Two of each kind: the same sentence with another town.
    let lines: Vec<String> = WORDS
        .iter()
        .flat_map(|word| {
            let text = |town: &str| format!("The {word} whose {word} paints {word} maps near {town}");
            ["Riga", "Lima"].map(|town| json!({"persona": text(town), "town": town}).to_string())
        })
        .collect();
    fs::write(folder.join("p.jsonl"), lines.join("\n")).unwrap();
    let split = "split --in p.jsonl --held-out 6 --train-out train.parquet --held-out-out held.csv --seed 3";
    let output = run(folder, split).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("6 rows set apart in 3 clusters, 18 left"), "{}", said(&output));

    let ask = |sql: &'static str| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_opencharacter"));
        process.current_dir(folder).args(["query", sql, "--table", "t=train.parquet", "--table", "h=held.csv"]);
        tokio::task::spawn_blocking(move || process.output().unwrap())
    };
    let counted = ask("SELECT (SELECT count(*) FROM t) AS t, (SELECT count(*) FROM h) AS h").await.unwrap();
    assert!(counted.status.success(), "{}", said(&counted));
    assert_eq!(serde_json::from_slice::<Value>(&counted.stdout).unwrap(), json!({"t": 18, "h": 6}));
    let both =
        "SELECT count(*) AS n FROM t JOIN h ON split_part(t.persona, ' near', 1) = split_part(h.persona, ' near', 1)";
    let shared = ask(both).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&shared.stdout).unwrap(), json!({"n": 0}), "{}", said(&shared));
    let wrong = ask("SELECT nobody FROM t").await.unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).contains("nobody"), "{}", said(&wrong));
    let all = run(folder, &split.replace("--held-out 6", "--held-out 24")).await;
    assert_eq!(all.status.code(), Some(1));
    assert!(said(&all).contains("ask for fewer"), "{}", said(&all));
}

/// `cargo xtask stores` starts a store and names a bucket in `OPENCHARACTER_TEST_BUCKET`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an object store"]
async fn rows_and_ledger_in_a_bucket_outlive_the_machine() {
    let bucket = std::env::var("OPENCHARACTER_TEST_BUCKET").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mock = prepare(folder).await;
    let command = DIALOGUES.replace("--out d.jsonl", &format!("--out {bucket}/d.parquet --ledger {bucket}/calls"));
    // Each machine has a cache of its own.
    let on = |machine: &str, line: String| {
        let cache = folder.join(machine);
        let mut process = Command::new(env!("CARGO_BIN_EXE_opencharacter"));
        process.current_dir(folder).args(line.split_whitespace()).env("OPENCHARACTER_CACHE", cache);
        tokio::task::spawn_blocking(move || process.output().unwrap())
    };
    let first = on("first", format!("{command} --count 10")).await.unwrap();
    assert!(first.status.success(), "{}", said(&first));
    let second = on("second", format!("{command} --count 20")).await.unwrap();
    assert!(second.status.success(), "{}", said(&second));
    // 10 of 13 questions, and 20 of 26: what the first machine asked, the second does not.
    assert_eq!((mock.requests(), mock.answered()), (26, (26, 26)));
    let verified = on("third", format!("ledger verify {bucket}/calls --json")).await.unwrap();
    assert!(verified.status.success(), "{}", said(&verified));
    assert_eq!(serde_json::from_slice::<Value>(&verified.stdout).unwrap()["records"], 26);
    let sql = format!("query SELECT/**/count(*)/**/AS/**/n/**/FROM/**/d --table d={bucket}/d.parquet");
    let counted = on("third", sql).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&counted.stdout).trim(), r#"{"n":20}"#, "{}", said(&counted));
}
