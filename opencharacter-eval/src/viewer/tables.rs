use crate::{
    ArenaScores, BenchmarkScores, Comparison, ComparisonRow, Fitness, JudgeReport, OverlapReport, OverlapWay,
    StyleDistance, TextKind, Unit,
    report::{html::Html, text},
    statistics::Estimate,
};

/// Overlaps and rankings longer than this are cut.
const MOST_ROWS: usize = 100;

pub(super) fn scores(html: &mut Html, scores: &BenchmarkScores) {
    let unit = scores.benchmark.unit();
    html.raw("<table class=\"scores\"><caption>Means over items with 95% intervals");
    if unit == Unit::Grade {
        html.raw(", on the scale from 1 to 5");
    }
    html.raw(
        ". What is missing enters no mean.</caption><thead><tr><th scope=\"col\">Task</th><th scope=\"col\">Score</th>\
         <th scope=\"col\">Items</th><th scope=\"col\">No answer</th><th scope=\"col\">No verdict</th>\
         <th scope=\"col\">Cut off</th></tr></thead><tbody>",
    );
    let is_doubtful = !scores.warnings().is_empty();
    for composite in &scores.composites {
        html.raw("<tr class=\"composite\">").element("<th scope=\"row\">", &composite.name, "</th>");
        estimate(html, "<td data-label=\"Score\">", unit, composite.estimate.as_ref(), is_doubtful);
        let items = composite.estimate.map_or(0, |estimate| estimate.n_items);
        html.element("<td data-label=\"Items with a value\">", &text::grouped(items as u64), "</td>");
        html.raw("<td class=\"blank\"></td><td class=\"blank\"></td><td class=\"blank\"></td></tr>");
    }
    for task in &scores.tasks {
        html.raw("<tr>").element("<th scope=\"row\">", &task.task, "</th>");
        estimate(html, "<td data-label=\"Score\">", unit, task.estimate.as_ref(), is_doubtful);
        let counts = [
            ("<td data-label=\"Items\">", task.items, false),
            ("<td data-label=\"No answer\">", task.without_answer, true),
            ("<td data-label=\"No verdict\">", task.without_value, true),
            ("<td data-label=\"Cut off\">", task.cut_off, true),
        ];
        for (cell, count, is_bad) in counts {
            html.raw(cell).raw(if is_bad && count > 0 { "<span class=\"warn\">" } else { "<span>" });
            html.element("", &text::grouped(count as u64), "</span></td>");
        }
        html.raw("</tr>");
    }
    html.raw("</tbody></table>");
}

fn estimate(html: &mut Html, cell: &'static str, unit: Unit, estimate: Option<&Estimate>, is_doubtful: bool) {
    html.raw(cell);
    match estimate {
        Some(estimate) => {
            html.element("<b class=\"score\">", &text::value(unit, estimate.mean), "</b>");
            html.raw(if is_doubtful { " <span class=\"tag worse\">doubtful</span>" } else { "" });
            html.element("<span class=\"note\">", &text::interval(unit, estimate), "</span>");
        }
        None => {
            html.raw("no value");
        }
    }
    html.raw("</td>");
}

pub(super) fn comparison(html: &mut Html, comparison: &Comparison) {
    html.element("<h3>", &format!("{} \u{2192} {}", comparison.first, comparison.second), "</h3>");
    html.raw(
        "<table class=\"scores\"><caption>On the items that both have. p by exchanging both sides of whole characters; \
         over tasks corrected by Holm. Detectable: the difference that a run like this finds four times in five.</caption>\
         <thead><tr><th scope=\"col\">Task</th><th scope=\"col\">",
    );
    html.text(&comparison.first).raw("</th><th scope=\"col\">").text(&comparison.second);
    html.raw("</th><th scope=\"col\">Difference</th><th scope=\"col\">p</th><th scope=\"col\">Detectable</th></tr></thead><tbody>");
    for row in comparison.composites.iter().chain(&comparison.tasks) {
        comparison_row(html, row);
    }
    html.raw("</tbody></table>");
    let left_out = comparison.only_first + comparison.only_second;
    if left_out > 0 {
        let note = format!("Items that only one side has, and that are left out: {}.", text::grouped(left_out as u64));
        html.element("<p class=\"note\">", &note, "</p>");
    }
}

fn comparison_row(html: &mut Html, row: &ComparisonRow) {
    html.raw("<tr>").element("<th scope=\"row\">", &row.name, "</th>");
    estimate(html, "<td data-label=\"First\">", row.unit, row.first.as_ref(), false);
    estimate(html, "<td data-label=\"Second\">", row.unit, row.second.as_ref(), false);
    html.raw("<td data-label=\"Difference\">");
    if let Some(difference) = &row.difference {
        html.element("<b>", &text::signed(row.unit, difference.mean), "</b>");
        html.element("<span class=\"note\">", &text::difference_interval(row.unit, difference), "</span>");
    }
    html.raw("</td>");
    let p = row.p_holm.or_else(|| row.difference?.p);
    html.element("<td data-label=\"p\">", &text::p_value(p), "</td>");
    let detectable = row.difference.and_then(|difference| difference.detectable);
    let detectable = detectable.map_or_else(|| "\u{2013}".to_owned(), |size| text::value(row.unit, size));
    html.element("<td data-label=\"Detectable\">", &detectable, "</td></tr>");
}

pub(super) fn judges(html: &mut Html, scores: &BenchmarkScores) {
    if let Some(agreement) = &scores.agreement {
        let line = format!("Agreement among the judges (Krippendorff's alpha, ordinal): {}.", alpha(agreement));
        html.element("<p>", &line, " 1 is perfect, 0 is chance.</p>");
    }
    html.raw(
        "<table class=\"scores\"><caption>Planted: the share of planted bad answers that the judge scored below the real \
         one; 50% is chance. Retest: alpha between two verdicts on the same answers, the sample answers in reverse order \
         the second time.</caption><thead><tr><th scope=\"col\">Judge</th><th scope=\"col\">Mean</th>\
         <th scope=\"col\">Missing</th><th scope=\"col\">Retest</th><th scope=\"col\">Planted</th></tr></thead><tbody>",
    );
    for judge in &scores.judges {
        judge_row(html, judge, scores.benchmark.unit());
    }
    html.raw("</tbody></table>");
}

fn judge_row(html: &mut Html, judge: &JudgeReport, unit: Unit) {
    html.raw("<tr>").element("<th scope=\"row\">", &judge.judge, " ");
    html.raw(match judge.fitness {
        Fitness::Fit => "<span class=\"tag better\">fit</span></th>",
        Fitness::Untested => "<span class=\"tag\">not tested</span></th>",
        Fitness::Unfit { .. } => "<span class=\"tag worse\">UNFIT</span></th>",
    });
    estimate(html, "<td data-label=\"Mean\">", unit, judge.mean.as_ref(), false);
    let missing = format!(
        "{} of {} ({} unreadable, {} failed)",
        text::grouped((judge.unreadable + judge.failed) as u64),
        text::grouped(judge.asked as u64),
        text::grouped(judge.unreadable as u64),
        text::grouped(judge.failed as u64)
    );
    html.element("<td data-label=\"Missing\" class=\"wrap\">", &missing, "</td>");
    let retest = judge.retest.as_ref().map_or_else(|| "\u{2013}".to_owned(), alpha);
    html.element("<td data-label=\"Retest\">", &retest, "</td><td data-label=\"Planted\" class=\"wrap\">");
    for score in &judge.planted {
        let share = score.below.as_ref().map_or_else(
            || "no verdict".to_owned(),
            |below| format!("{} ({})", text::value(Unit::Share, below.mean), text::interval(Unit::Share, below)),
        );
        html.element("<span class=\"line\">", &format!("{}: {share}", score.kind.title()), "</span>");
    }
    html.raw("</td></tr>");
}

fn alpha(estimate: &Estimate) -> String {
    match (estimate.low, estimate.high) {
        (Some(low), Some(high)) => format!("{:.2} ({low:.2} to {high:.2})", estimate.mean),
        _ => format!("{:.2}", estimate.mean),
    }
}

pub(super) fn arena(html: &mut Html, arena: &ArenaScores) {
    html.raw(
        "<table class=\"scores\"><caption>Bradley\u{2013}Terry strength, log scale, mean 0: a lead of 1 wins 73% of the \
         games. Every pair was judged in both orders.</caption><thead><tr><th scope=\"col\">System</th>\
         <th scope=\"col\">Strength</th><th scope=\"col\">Share of points</th><th scope=\"col\">Games</th></tr></thead><tbody>",
    );
    for ranked in arena.ranking.iter().take(MOST_ROWS) {
        let strength = &ranked.strength;
        html.raw("<tr>").element("<th scope=\"row\">", &ranked.name, "</th>");
        html.element("<td data-label=\"Strength\"><b>", &format!("{:+.2}", strength.mean), "</b>");
        if let (Some(low), Some(high)) = (strength.low, strength.high) {
            html.element("<span class=\"note\">", &format!("{low:+.2} to {high:+.2}"), "</span>");
        }
        html.element("</td><td data-label=\"Share\">", &text::value(Unit::Share, strength.share), "</td>");
        html.element("<td data-label=\"Games\">", &text::grouped(strength.games as u64), "</td></tr>");
    }
    html.raw("</tbody></table>");
    for judge in &arena.judges {
        let share = |estimate: Option<&Estimate>| {
            estimate.map_or_else(|| "\u{2013}".to_owned(), |estimate| text::value(Unit::Share, estimate.mean))
        };
        let line = format!(
            "{}: the same verdict in both orders in {} of matches; {} of points went to the answer shown first (50% is no \
             bias).",
            judge.judge,
            share(judge.consistent.as_ref()),
            share(judge.first_place.as_ref())
        );
        html.element("<p>", &line, "</p>");
    }
}

pub(super) fn style(html: &mut Html, style: &StyleDistance) {
    let number = |estimate: Option<&Estimate>| {
        estimate.map_or_else(|| "\u{2013}".to_owned(), |estimate| format!("{:.3}", estimate.mean))
    };
    let traced = style.traced.as_ref().map_or_else(
        || "\u{2013}".to_owned(),
        |traced| format!("{} ({})", text::value(Unit::Share, traced.mean), text::interval(Unit::Share, traced)),
    );
    let line = format!(
        "By the frequencies of the most common words alone, half of a character's answers is traced to the other half in \
         {traced} of characters (guessing: {}). Burrows's Delta between characters is {}, within one character {}.",
        text::value(Unit::Share, style.chance),
        number(style.between.as_ref()),
        number(style.within.as_ref()),
    );
    html.element("<p>", &line, "</p>");
}

pub(super) fn overlap(html: &mut Html, overlap: &OverlapReport) {
    let line = format!(
        "Compared with the benchmark's {} characters and {} questions: {} characters and {} questions of training. Overlaps: \
         {}.",
        overlap.benchmark[0],
        overlap.benchmark[1],
        overlap.training[0],
        overlap.training[1],
        overlap.found.len()
    );
    html.element("<p>", &line, "</p>");
    if overlap.found.is_empty() {
        return;
    }
    html.raw(
        "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">What</th><th scope=\"col\">In the benchmark</th>\
         <th scope=\"col\">In training</th></tr></thead><tbody>",
    );
    for finding in overlap.found.iter().take(MOST_ROWS) {
        let what = match finding.what {
            TextKind::Character => "character",
            TextKind::Question => "question",
        };
        let how = match finding.how {
            OverlapWay::Exact => "the same words",
            OverlapWay::Near => "nearly the same",
            OverlapWay::Contains => "quoted",
            OverlapWay::Template => "differs in names and numbers",
        };
        html.element("<tr><td>", &format!("{what}, {how}"), "</td>");
        html.element("<td dir=\"auto\">", &finding.benchmark, "</td>");
        html.element("<td dir=\"auto\">", &finding.training, "</td></tr>");
    }
    html.raw("</tbody></table></div>");
}

pub(super) fn settings(html: &mut Html, scores: &BenchmarkScores) {
    html.raw("<dl class=\"provenance\">").element("<dt>Model</dt><dd><code>", &scores.model, "</code></dd>");
    for (name, value) in &scores.settings {
        html.element("<dt>", name, "</dt>").element("<dd><code>", value, "</code></dd>");
    }
    html.raw("</dl>");
}
