//! Ten thousand stored judgements are scored in seconds.

use std::time::Instant;

use opencharacter_core::Character;
use opencharacter_eval::{
    Benchmark, BenchmarkScores, EvalItem, PersonaGymTask, Reply, Verdict, VerdictOutcome, compare, judge_reports,
    statistics::Resampling,
};

fn items(shift: u8) -> Vec<EvalItem> {
    let mut items = Vec::new();
    for who in 0..200_usize {
        let character = Character::from_name(&format!("Person {who}"), "", "");
        for (number, task) in (0..50_usize).zip(PersonaGymTask::ALL.into_iter().cycle()) {
            let id = format!("{who}-{number}");
            let mut item = EvalItem::new(id, task.name(), &character, String::new(), None, "Why?");
            item.answer = Reply::Answered { text: "So.".into(), cut_off: false };
            let verdict = |(judge, score): (&str, usize)| Verdict {
                judge: judge.to_owned(),
                outcome: VerdictOutcome::Scored { score: score as u8 % 4 + 1 + shift, reason: String::new() },
                reply: String::new(),
                attempts: 1,
            };
            item.verdicts = [("a", who * number), ("b", who * number + number % 2)].map(verdict).into();
            item.average_verdicts();
            items.push(item);
        }
    }
    items
}

#[test]
fn ten_thousand_items_are_scored_compared_and_their_judges_reported() {
    let (first, second) = (items(0), items(1));
    assert_eq!(first.len(), 10_000);
    let started = Instant::now();
    let resampling = Resampling::default();
    let scores = BenchmarkScores::new(Benchmark::PersonaGym, "m", [].into(), &first, &resampling).unwrap();
    let (reports, agreement) = judge_reports(&first, None, &resampling);
    let found = compare(Benchmark::PersonaGym, ("a", &first), ("b", &second), &resampling).unwrap();
    eprintln!("scored, compared and reported in {:.2} s", started.elapsed().as_secs_f64());
    assert_eq!((scores.tasks.len(), reports.len()), (5, 2));
    assert!(agreement.unwrap().mean > 0.0);
    assert!((found.composites[0].difference.unwrap().mean - 1.0).abs() < 1e-9);
}
