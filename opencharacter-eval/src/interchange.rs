//! Scores as readers of other programs' results take them.
//!
//! lm-evaluation-harness keeps a mean and its standard error per task; ours are intervals over characters, so the error is
//! the half width of the 95% interval over 1.96. Inspect keeps samples with their scores beside the means. What neither
//! has a field for (judges and what they are worth, missing values by kind) goes along as metadata.

use std::time::Duration;

use opencharacter_core::Role;
use serde_json::{Map, Value, json};

use crate::{BenchmarkScores, EvalItem, Reply, statistics::Estimate};

/// A 95% interval of a normal distribution is so many standard errors to each side.
const HALF_WIDTH: f64 = 1.96;

fn standard_error(estimate: &Estimate) -> Option<f64> {
    Some((estimate.high? - estimate.low?) / (2.0 * HALF_WIDTH))
}

/// A task's name as both programs like them: lower case, without spaces.
fn task_name(scores: &BenchmarkScores, task: &str) -> String {
    format!("{}/{task}", scores.benchmark.title()).to_lowercase().replace(' ', "_")
}

/// `results.json` of lm-evaluation-harness (0.4).
pub fn to_lm_eval(scores: &BenchmarkScores) -> Value {
    let tasks: Vec<_> = scores.tasks.iter().map(|task| (task_name(scores, &task.task), task)).collect();
    let result = |estimate: &Option<Estimate>, name: &str, asked: usize| {
        let error = estimate.as_ref().and_then(standard_error).map_or_else(|| json!("N/A"), Value::from);
        json!({
            "alias": name,
            "score,none": estimate.as_ref().map(|estimate| estimate.mean),
            "score_stderr,none": error,
            "sample_len": asked,
        })
    };
    let object = |entries: Vec<(String, Value)>| Value::Object(entries.into_iter().collect::<Map<_, _>>());
    let of_tasks = |value: &dyn Fn(usize) -> Value| {
        object(tasks.iter().enumerate().map(|(at, (name, _))| (name.clone(), value(at))).collect())
    };
    json!({
        "results": of_tasks(&|at| result(&tasks[at].1.estimate, &tasks[at].0, tasks[at].1.items)),
        "group_subtasks": of_tasks(&|_| json!([])),
        "configs": of_tasks(&|at| json!({"task": tasks[at].0, "metadata": scores.settings})),
        "versions": of_tasks(&|_| json!(scores.format)),
        "n-shot": of_tasks(&|_| json!(0)),
        "higher_is_better": of_tasks(&|_| json!({"score": true})),
        "n-samples": of_tasks(&|at| {
            let task = tasks[at].1;
            json!({"original": task.items, "effective": task.items - task.without_answer - task.without_value})
        }),
        "config": {"model": "opencharacter", "model_args": scores.model},
        "model_name": scores.model,
        "metadata": {"judges": scores.judges, "overlap": scores.overlap},
    })
}

/// A log of Inspect (version 2), as its own readers and `inspect view` take it. `created` is the time of the run's end,
/// counted from 1970.
pub fn to_inspect(scores: &BenchmarkScores, items: &[EvalItem], created: Duration) -> Value {
    let found = scores.tasks.iter().map(|task| {
        let metric = |name: &str, value: Option<f64>| {
            value.map(|value| (name.to_owned(), json!({"name": name, "value": value})))
        };
        let estimate = task.estimate.as_ref();
        let metrics: Map<String, Value> = [
            metric("mean", estimate.map(|estimate| estimate.mean)),
            metric("stderr", estimate.and_then(standard_error)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let scored = task.items - task.without_answer - task.without_value;
        json!({
            "name": task.task,
            "scorer": scores.benchmark.title(),
            "scored_samples": scored,
            "unscored_samples": task.items - scored,
            "metrics": metrics,
        })
    });
    let answered = items.iter().filter(|item| item.answer_text().is_some()).count();
    json!({
        "version": 2,
        "status": "success",
        "eval": {
            "created": utc(created),
            "task": scores.benchmark.title(),
            "model": scores.model,
            "dataset": {"name": scores.benchmark.title(), "samples": items.len()},
            "config": {},
            "metadata": {"settings": scores.settings, "judges": scores.judges, "overlap": scores.overlap},
        },
        "results": {
            "total_samples": items.len(),
            "completed_samples": answered,
            "scores": found.collect::<Vec<_>>(),
        },
        "samples": items.iter().map(|item| sample(scores, item)).collect::<Vec<_>>(),
    })
}

fn sample(scores: &BenchmarkScores, item: &EvalItem) -> Value {
    let role = |role: Role| match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let input: Vec<Value> =
        item.messages.iter().map(|message| json!({"role": role(message.role), "content": message.content})).collect();
    let mut sample = json!({
        "id": item.item_id,
        // It counts from 1.
        "epoch": item.epoch + 1,
        "input": input,
        "target": item.references,
        "metadata": {"task": item.task, "character": item.character_name, "cluster": item.cluster, "note": item.note},
    });
    match &item.answer {
        Reply::Answered { text, cut_off } => {
            let stop = if *cut_off { "max_tokens" } else { "stop" };
            let choice = json!({"message": {"role": "assistant", "content": text}, "stop_reason": stop});
            sample["output"] = json!({"model": scores.model, "choices": [choice]});
        }
        Reply::Missing { reason } => {
            sample["error"] = json!({"message": reason, "traceback": "", "traceback_ansi": ""});
        }
        Reply::NotAsked => {}
    }
    if let Some(value) = item.value {
        let explanation: Vec<String> =
            item.verdicts.iter().map(|verdict| format!("{}: {}", verdict.judge, verdict.reply)).collect();
        let score = json!({"value": value, "answer": item.answer_text(), "explanation": explanation.join("\n\n")});
        sample["scores"] = Value::Object([(item.task.clone(), score)].into_iter().collect());
    }
    sample
}

/// A moment as RFC 3339 has it, to the second.
fn utc(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}+00:00", month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_their_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00+00:00"),
            (951_782_400, "2000-02-29T00:00:00+00:00"),
            (1_709_251_199, "2024-02-29T23:59:59+00:00"),
            (1_735_689_600, "2025-01-01T00:00:00+00:00"),
            (4_107_542_400, "2100-03-01T00:00:00+00:00"),
        ] {
            assert_eq!(utc(Duration::from_secs(seconds)), date);
        }
    }
}
