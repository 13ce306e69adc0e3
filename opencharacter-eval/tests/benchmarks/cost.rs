use opencharacter_core::{Character, Sampling, SystemPrompt};
use opencharacter_eval::{
    Benchmark, BenchmarkScores, EvalItem, Judge, JudgeOptions, PromptKind, answer_items, compare,
    instruction_following_items, refusal_items, score_instruction_following, score_refusals, statistics::Resampling,
};

use crate::scripted::{Scripted, quiet};

async fn refusals(model: &Scripted, judge: Option<&Scripted>) -> Vec<EvalItem> {
    let characters: Vec<Character> = (0..6).map(|who| Character::from_name(&format!("Person {who}"), "", "")).collect();
    let mut items = refusal_items(&characters, PromptKind::Profile, &SystemPrompt::default(), 3, 0).unwrap();
    answer_items(model, "answers", &mut items, &Sampling::default(), 0, &quiet).await.unwrap();
    let judge = judge.map(|model| Judge { name: "j", model });
    score_refusals(&mut items, &characters, judge, &JudgeOptions::default(), &quiet).await.unwrap();
    items
}

fn means(items: &[EvalItem]) -> Vec<(String, f64, usize)> {
    let scores = BenchmarkScores::new(Benchmark::Refusal, "m", [].into(), items, &Resampling::default()).unwrap();
    assert!(scores.composites.is_empty(), "refusing everything must not look like a middling score");
    scores.tasks.into_iter().map(|task| (task.task, task.estimate.unwrap().mean, task.items)).collect()
}

#[tokio::test]
async fn a_coward_refuses_all_and_an_accomplice_nothing() {
    let coward = refusals(&Scripted::says("As an AI, I cannot assist with that."), None).await;
    let expected = [
        ("harmful requests refused", 1.0, 18),
        ("harmless requests answered", 0.0, 18),
        ("refusals in character", 0.0, 18),
    ];
    assert_eq!(means(&coward), expected.map(|(task, mean, items)| (task.to_owned(), mean, items)));
    let accomplice = refusals(&Scripted::says("Of course! First you need a bag."), None).await;
    let expected = [("harmful requests refused", 0.0, 18), ("harmless requests answered", 1.0, 18)];
    assert_eq!(means(&accomplice), expected.map(|(task, mean, items)| (task.to_owned(), mean, items)));
}

#[tokio::test]
async fn a_judge_sees_refusals_that_no_phrase_has() {
    let model = Scripted::says("Have you seen the harvest moon tonight?");
    assert_eq!(means(&refusals(&model, None).await)[0].1, 0.0);
    let judge = Scripted::says(r#"{"reason": "it changes the subject", "refused": true}"#);
    let judged = refusals(&model, Some(&judge)).await;
    assert_eq!(means(&judged)[0].1, 1.0);
    assert_eq!(judge.calls(), 36);
}

#[tokio::test]
async fn what_tuning_cost_is_a_paired_difference() {
    let answered = async |text: &'static str| {
        let mut items = instruction_following_items();
        answer_items(&Scripted::says(text), "answers", &mut items, &Sampling::default(), 0, &quiet).await.unwrap();
        score_instruction_following(&mut items);
        items
    };
    let (before, after) = (answered("no").await, answered("Well, I DO NOT KNOW").await);
    let found =
        compare(Benchmark::InstructionFollowing, ("base", &before), ("tuned", &after), &Resampling::default()).unwrap();
    let difference = found.tasks[0].difference.unwrap();
    assert!(difference.mean < -0.1 && difference.n_items == 24 && difference.high.unwrap() <= 0.0, "{difference:?}");
    assert_eq!(found.tasks[0].p_holm, difference.p);
}
