//! Writes a benchmark report with made-up figures to the file that is named, to look at.

use std::collections::BTreeMap;

use opencharacter_core::{Character, KeyedRandom, Message, Persona, Profile};
use opencharacter_eval::{
    Benchmark, BenchmarkReport, BenchmarkScores, EvalItem, JudgeTrial, PlantedCase, PlantedKind, Reply, Retest,
    Verdict, VerdictOutcome, compare, judge_reports, render_benchmark_report, statistics::Resampling, style_distance,
};

const TASKS: [&str; 5] =
    ["Expected Action", "Toxicity", "Linguistic Habits", "Persona Consistency", "Action Justification"];

fn character(index: usize) -> Character {
    let trades = [
        "lighthouse keeper who hates the sea",
        "tram driver who writes crosswords",
        "beekeeper",
        "<b>goatherd</b> & lawyer",
    ];
    let text = format!("A {}-year-old {}", 20 + index, trades[index % trades.len()]);
    let Persona { character_id, persona, source, license } = Persona::new(&text, "made up", "CC0");
    let profile = Profile { name: format!("Person {index}"), ..Profile::default() };
    Character { character_id, persona, profile, source, license, provenance: None }
}

fn verdict(judge: &str, draw: &mut KeyedRandom, middle: u8) -> Verdict {
    let outcome = if draw.below(25) == 0 {
        VerdictOutcome::Unreadable { reason: "expected a JSON object and nothing else".into() }
    } else {
        let score = (middle + draw.below(3) as u8).saturating_sub(1).clamp(1, 5);
        VerdictOutcome::Scored { score, reason: "Sounds like the sea, and answers the question.".into() }
    };
    Verdict { judge: judge.to_owned(), outcome, reply: "{\"reason\": \"...\"}".into(), attempts: 1 }
}

fn items(seed: u64, lift: u8) -> Vec<EvalItem> {
    let mut items = Vec::new();
    for index in 0..20 {
        let who = character(index);
        for task in TASKS {
            let mut draw = KeyedRandom::new(seed, &[task, &who.character_id]);
            let prompt = Some(format!("You are {}.\n\n# Persona\n{}", who.profile.name, who.persona));
            let question = format!("{task}: the foghorn fails at night & the <boat> comes nearer. What do you do?");
            let id = format!("item-{index}-{task}").replace(' ', "-");
            let mut item = EvalItem::new(id, task, &who, who.persona.clone(), prompt, &question);
            let text = format!(
                "I would go down to the rocks with a lamp, {} though I am. {}",
                who.persona,
                "Aye. ".repeat(index)
            );
            item.answer = if draw.below(30) == 0 {
                Reply::Missing { reason: "the request was refused".into() }
            } else {
                Reply::Answered { text, cut_off: draw.below(12) == 0 }
            };
            if item.answer_text().is_some() {
                let middle = 2 + lift + draw.below(3) as u8;
                item.exemplars = (1..=5).map(|score| format!("A sample of {score}.")).collect();
                item.verdicts = vec![verdict("judge-a", &mut draw, middle), verdict("judge-b", &mut draw, middle)];
                item.average_verdicts();
            }
            items.push(item);
        }
    }
    items
}

fn trial(items: &[EvalItem]) -> JudgeTrial {
    let fixed = |judge: &str, score: u8| {
        let outcome = VerdictOutcome::Scored { score, reason: "because".into() };
        Verdict { judge: judge.into(), outcome, reply: String::new(), attempts: 1 }
    };
    let mut trial = JudgeTrial::default();
    for item in items.iter().take(24) {
        let (item_id, cluster) = (item.item_id.clone(), item.cluster.clone());
        let real = vec![fixed("judge-a", 4), fixed("judge-b", 5)];
        let second = item.verdicts.clone();
        trial.retests.push(Retest {
            item_id: item_id.clone(),
            cluster: cluster.clone(),
            first: item.verdicts.clone(),
            second,
        });
        for kind in PlantedKind::ALL {
            // The second judge always says 5.
            let planted = vec![fixed("judge-a", 1), fixed("judge-b", 5)];
            let (item_id, cluster, real) = (item_id.clone(), cluster.clone(), real.clone());
            trial.planted.push(PlantedCase { item_id, cluster, kind, text: String::new(), real, planted });
        }
    }
    trial
}

/// Facts asked after so many turns; forgotten more and more.
fn conversation() -> Vec<EvalItem> {
    let mut items = Vec::new();
    for (index, task, turn) in (0..20).flat_map(|index| {
        ["retest", "contradiction"].into_iter().flat_map(move |task| [0, 2, 4, 8].map(|turn| (index, task, turn)))
    }) {
        let who = character(index);
        let mut item =
            EvalItem::new(format!("{task}-{index}-{turn}"), task, &who, String::new(), None, "How old are you?");
        item.messages.insert(0, Message::system("You are somebody."));
        let holds = KeyedRandom::new(3, &[&item.item_id]).uniform() > f64::from(turn) / 12.0;
        item.answer = Reply::Answered { text: if holds { "Fifty-two." } else { "Thirty." }.into(), cut_off: false };
        (item.turn, item.value) = (Some(turn), Some(if holds { 1.0 } else { 0.0 }));
        items.push(item);
    }
    items
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths = std::env::args().skip(1);
    let (first, second) = (paths.next().ok_or("usage: benchmark_report FILE FILE")?, paths.next().ok_or("two files")?);
    let resampling = Resampling::default();
    let (base, tuned) = (items(1, 0), items(2, 1));
    let settings: BTreeMap<String, String> = [("mode", "checked"), ("prompt", "persona"), ("seed", "0")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    let mut scores =
        BenchmarkScores::new(Benchmark::PersonaGym, "smollm2+adapter-12ab", settings.clone(), &tuned, &resampling)?;
    (scores.judges, scores.agreement) = judge_reports(&tuned, Some(&trial(&tuned)), &resampling);
    let comparison = compare(Benchmark::PersonaGym, ("base", &base), ("tuned", &tuned), &resampling)?;
    let style = style_distance(&tuned, &resampling);
    let title = "PersonaGym, tuned model";
    let comparisons = [comparison];
    let style = style.as_ref();
    let report =
        BenchmarkReport { title, scores: &scores, items: &tuned, comparisons: &comparisons, style, arena: None };
    std::fs::write(first, render_benchmark_report(&report))?;
    let asked = conversation();
    let scores = BenchmarkScores::new(Benchmark::Conversation, "smollm2", settings, &asked, &resampling)?;
    let title = "Many turns, tuned model";
    let report = BenchmarkReport { title, scores: &scores, items: &asked, comparisons: &[], style: None, arena: None };
    std::fs::write(second, render_benchmark_report(&report))?;
    Ok(())
}
