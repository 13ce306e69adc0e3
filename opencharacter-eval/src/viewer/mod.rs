//! The benchmark report: one HTML page with every item, readable without a network.

mod items;
mod plots;
mod tables;

use crate::{
    ArenaScores, BenchmarkScores, Comparison, EvalItem, StyleDistance,
    report::{html::Html, text},
};

/// What a benchmark report shows.
#[derive(Debug, Clone, Copy)]
pub struct BenchmarkReport<'a> {
    /// The page's title.
    pub title: &'a str,
    /// The scores.
    pub scores: &'a BenchmarkScores,
    /// The items behind them.
    pub items: &'a [EvalItem],
    /// Comparisons with other runs, or with other modes of judging the same answers.
    pub comparisons: &'a [Comparison],
    /// How different the characters sound.
    pub style: Option<&'a StyleDistance>,
    /// A ranking of systems.
    pub arena: Option<&'a ArenaScores>,
}

/// The report as one HTML page: no request, everything escaped, one script that shows, filters and sorts the items.
///
/// The script reads its filter from the address (`#q=sea&task=Toxicity&sort=value`) and writes it there, so that a view
/// can be linked to. Scores, plots and curves need no script.
pub fn render_benchmark_report(report: &BenchmarkReport<'_>) -> String {
    let mut html = Html::default();
    head(&mut html, report);
    section(&mut html, "<section aria-labelledby=\"h-scores\"><h2 id=\"h-scores\">Scores</h2>", |html| {
        tables::scores(html, report.scores);
        plots::tasks(html, report.scores, report.items);
    });
    if !report.scores.drift.is_empty() {
        section(&mut html, "<section aria-labelledby=\"h-drift\"><h2 id=\"h-drift\">By turn</h2>", |html| {
            plots::drift(html, report.scores);
        });
    }
    if !report.comparisons.is_empty() {
        section(&mut html, "<section aria-labelledby=\"h-pair\"><h2 id=\"h-pair\">Comparisons</h2>", |html| {
            report.comparisons.iter().for_each(|comparison| tables::comparison(html, comparison));
        });
    }
    if !report.scores.judges.is_empty() {
        section(&mut html, "<section aria-labelledby=\"h-judges\"><h2 id=\"h-judges\">Judges</h2>", |html| {
            tables::judges(html, report.scores);
        });
    }
    if let Some(arena) = report.arena {
        section(&mut html, "<section aria-labelledby=\"h-arena\"><h2 id=\"h-arena\">Arena</h2>", |html| {
            tables::arena(html, arena);
        });
    }
    if let Some(style) = report.style {
        section(&mut html, "<section aria-labelledby=\"h-style\"><h2 id=\"h-style\">Style</h2>", |html| {
            tables::style(html, style);
        });
    }
    if let Some(overlap) = &report.scores.overlap {
        section(&mut html, "<section aria-labelledby=\"h-seen\"><h2 id=\"h-seen\">Held out</h2>", |html| {
            tables::overlap(html, overlap);
        });
    }
    section(&mut html, "<section aria-labelledby=\"h-items\"><h2 id=\"h-items\">Items</h2>", |html| {
        items::render(html, report.items, report.scores.benchmark.unit());
    });
    section(&mut html, "<section aria-labelledby=\"h-run\"><h2 id=\"h-run\">The run</h2>", |html| {
        tables::settings(html, report.scores);
    });
    html.raw("</main><script>").raw(include_str!("viewer.js")).raw("</script></body></html>\n");
    html.into_string()
}

fn section(html: &mut Html, opening: &'static str, body: impl FnOnce(&mut Html)) {
    html.raw(opening);
    body(html);
    html.raw("</section>\n");
}

fn head(html: &mut Html, report: &BenchmarkReport<'_>) {
    html.raw(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">",
    );
    html.element("<title>", report.title, "</title><style>");
    html.raw(include_str!("../report/report.css")).raw(include_str!("viewer.css"));
    html.raw("</style></head>\n<body><main><header>");
    html.element("<h1>", report.title, "</h1>");
    let characters = report.items.iter().map(|item| &item.cluster).collect::<std::collections::HashSet<_>>().len();
    let summary = format!(
        "{}: {} of {}. The unit of every interval is the character, or a group of characters that differ only in age or \
         place: {} here.",
        report.scores.benchmark.title(),
        text::counted(report.items.len() as u64, "item", "items"),
        text::counted(report.scores.tasks.len() as u64, "task", "tasks"),
        text::counted(characters as u64, "unit", "units"),
    );
    html.element("<p class=\"summary\">", &summary, "</p>");
    for warning in report.scores.warnings() {
        html.element("<p class=\"alarm\" role=\"note\">", &warning, "</p>");
    }
    html.raw(
        "<nav aria-label=\"Sections\"><a href=\"#h-scores\">Scores</a> <a href=\"#h-items\">Items</a> \
         <a href=\"#h-run\">The run</a></nav></header>\n",
    );
}
