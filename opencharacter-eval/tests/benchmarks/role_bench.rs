use opencharacter_core::SystemPrompt;
use opencharacter_eval::{
    Benchmark, BenchmarkScores, RoleBenchKind, RoleBenchRow, RoleBenchSplit, answer_items, role_bench_items,
    role_bench_sampling, score_role_bench, statistics::Resampling,
};

use crate::scripted::{Scripted, quiet};

fn row(line: &str) -> Result<RoleBenchRow, String> {
    RoleBenchRow::from_line("dev.jsonl:3", line).map_err(|error| error.to_string())
}

#[test]
fn rows_of_every_form_are_read() {
    let kind = |kind: &str| {
        let line = format!(r#"{{"role": "A", "question": "Q", "generated": ["x"]{kind}}}"#);
        row(&line).map(|row| row.kind)
    };
    assert_eq!(kind(""), Ok(RoleBenchKind::General));
    assert_eq!(kind(r#", "type": "script_based""#), Ok(RoleBenchKind::ScriptBased));
    assert_eq!(kind(r#", "type": ["script_agnostic"]"#), Ok(RoleBenchKind::ScriptAgnostic));
    assert_eq!(kind(r#", "type": ["script_agnostic", "script_based"]"#), Ok(RoleBenchKind::ScriptBased));
    assert!(kind(r#", "type": "other""#).unwrap_err().contains("dev.jsonl:3: has the type `other`"));
    assert!(row(r#"{"role": "A", "question": "Q", "generated": []}"#).unwrap_err().contains("at least one reference"));
    assert!(row(r#"{"role": " ", "question": "Q", "generated": ["x"]}"#).unwrap_err().contains("`role` is blank"));
    assert!(row(r#"{"role": "A", "question": "Q"}"#).unwrap_err().contains("`generated`"));
    assert!(row("[]").is_err());
}

#[tokio::test]
async fn answers_are_scored_against_the_best_reference() {
    let rows: Vec<RoleBenchRow> = [
        r#"{"role": "A", "question": "Where?", "generated": ["Nobody knows.", "At sea, my friend"], "type": "script_based"}"#,
        r#"{"role": "A", "question": "Where?", "generated": ["Nobody knows.", "In the galley"], "type": "script_based"}"#,
        r#"{"role": "B", "question": "Where?", "generated": ["In the harbour"]}"#,
    ]
    .map(|line| row(line).unwrap())
    .into();
    let split = RoleBenchSplit::RoleGeneralization;
    let mut items = role_bench_items(&rows, split, &[], &SystemPrompt::default()).unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0].references, ["Nobody knows.", "At sea, my friend", "In the galley"]);
    assert!(items[0].messages[0].content.contains("You are A"));
    let model = Scripted::says("At sea, my friends");
    answer_items(&model, "answers", &mut items, &role_bench_sampling(), 0, &quiet).await.unwrap();
    score_role_bench(&mut items);
    assert_eq!(items.iter().map(|item| item.value).collect::<Vec<_>>(), [Some(1.0), Some(0.0)]);
    let scores = BenchmarkScores::new(Benchmark::RoleBench, "m", [].into(), &items, &Resampling::default()).unwrap();
    assert_eq!(scores.tasks[0].task, "role generalization, role-specific, script-based");
    assert_eq!(scores.composites[0].estimate.unwrap().mean, 0.5);
    let json = serde_json::to_string(&scores).unwrap();
    assert_eq!(serde_json::from_str::<BenchmarkScores>(&json).unwrap(), scores);
}
