//! What benchmarks print.

use std::fmt::Write as _;

use opencharacter_eval::{
    ArenaScores, BenchmarkScores, Comparison, ComparisonRow, Fitness, Unit, statistics::Estimate,
};

/// Scores with their intervals, and what the judges are worth, for a terminal.
pub fn table(scores: &BenchmarkScores) -> String {
    let mut text = format!("{:<44} {:>8}  {:<20} {:>6} {:>8}\n", "task", "score", "95% interval", "items", "missing");
    for task in &scores.tasks {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<44} {} {:>6} {:>8}",
            task.task,
            shown(task.estimate.as_ref(), task.unit),
            task.items,
            task.without_answer + task.without_value
        );
    }
    for composite in &scores.composites {
        let _ =
            writeln!(text, "{:<44} {}", composite.name, shown(composite.estimate.as_ref(), scores.benchmark.unit()));
    }
    for judge in &scores.judges {
        let fitness = match judge.fitness {
            Fitness::Fit => "fit",
            Fitness::Unfit { .. } => "UNFIT",
            Fitness::Untested => "not tested",
        };
        let _ = writeln!(
            text,
            "judge `{}`: {fitness}; {:.1}% of verdicts missing",
            judge.judge,
            judge.missing_rate() * 100.0
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// Two runs beside each other, for a terminal.
pub fn comparison_table(comparison: &Comparison) -> String {
    let mut text = format!("first:  {}\nsecond: {}\n", comparison.first, comparison.second);
    let _ = writeln!(
        text,
        "{:<44} {:>8} {:>8} {:>8}  {:<20} {:>7} {:>7} {:>10}",
        "task", "first", "second", "change", "95% interval", "p", "p Holm", "detectable"
    );
    for row in comparison.tasks.iter().chain(&comparison.composites) {
        let _ = writeln!(text, "{}", comparison_row(row));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Who won how often, for a terminal.
pub fn arena_table(scores: &ArenaScores) -> String {
    let mut text = format!("{:<44} {:>8}  {:<20} {:>6} {:>6}\n", "system", "strength", "95% interval", "won", "games");
    for ranked in &scores.ranking {
        let strength = &ranked.strength;
        let interval = strength.low.zip(strength.high);
        let interval = interval.map_or_else(|| "-".to_owned(), |(low, high)| format!("[{low:.3}, {high:.3}]"));
        let won = number(Some(strength.share), Unit::Share);
        let _ =
            writeln!(text, "{:<44} {:>8.3}  {interval:<20} {won:>6} {:>6}", ranked.name, strength.mean, strength.games);
    }
    let _ = writeln!(text, "{} matches, {} of them without a verdict in one order", scores.matches, scores.missing);
    for judge in &scores.judges {
        let share = |estimate: Option<&Estimate>| number(estimate.map(|estimate| estimate.mean), Unit::Share);
        let _ = writeln!(
            text,
            "judge `{}`: the same verdict in both orders in {}, the first place wins {}",
            judge.judge,
            share(judge.consistent.as_ref()),
            share(judge.first_place.as_ref())
        );
    }
    text.truncate(text.trim_end().len());
    text
}

fn comparison_row(row: &ComparisonRow) -> String {
    let mean = |estimate: &Option<Estimate>| number(estimate.as_ref().map(|estimate| estimate.mean), row.unit);
    let difference = row.difference.as_ref();
    let interval = difference.and_then(|found| Some((found.low?, found.high?)));
    let p = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    format!(
        "{:<44} {:>8} {:>8} {:>8}  {:<20} {:>7} {:>7} {:>10}",
        row.name,
        mean(&row.first),
        mean(&row.second),
        number(difference.map(|found| found.mean), row.unit),
        interval.map_or_else(|| "-".to_owned(), |ends| between(ends, row.unit)),
        p(difference.and_then(|found| found.p)),
        p(row.p_holm),
        number(difference.and_then(|found| found.detectable), row.unit),
    )
}

fn shown(estimate: Option<&Estimate>, unit: Unit) -> String {
    let interval = estimate.and_then(|estimate| Some((estimate.low?, estimate.high?)));
    let interval = interval.map_or_else(|| "-".to_owned(), |ends| between(ends, unit));
    format!("{:>8}  {interval:<20}", number(estimate.map(|estimate| estimate.mean), unit))
}

fn between((low, high): (f64, f64), unit: Unit) -> String {
    format!("[{}, {}]", number(Some(low), unit), number(Some(high), unit))
}

fn number(value: Option<f64>, unit: Unit) -> String {
    match (value, unit) {
        (None, _) => "-".to_owned(),
        (Some(value), Unit::Share) => format!("{:.1}%", value * 100.0),
        (Some(value), _) => format!("{value:.3}"),
    }
}
