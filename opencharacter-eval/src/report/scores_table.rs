//! The table of measures.

use super::{
    chart,
    html::Html,
    text::{self, Verdict},
};
use crate::{Measure, Scores, statistics::Estimate};

pub(super) fn render(html: &mut Html, scores: &Scores) {
    html.raw(
        "<div class=\"scroll\"><table class=\"scores\"><caption>Each value with its 95% interval. The plot shows the \
         difference, tuned minus base, on a scale of its own with zero in the middle.</caption><thead><tr>\
         <th scope=\"col\">Measure</th><th scope=\"col\">Base</th><th scope=\"col\">Tuned</th>\
         <th scope=\"col\">Difference</th><th scope=\"col\">Plot</th><th scope=\"col\">p</th></tr></thead><tbody>",
    );
    for measure in &scores.measures {
        row(html, measure);
    }
    html.raw("</tbody></table></div>");
    explanations(html, scores);
}

fn row(html: &mut Html, measure: &Measure) {
    html.raw("<tr><th scope=\"row\">").text(measure.name.title());
    html.element("<span class=\"note\">", &direction(measure), "</span></th>");
    estimate(html, "<td data-label=\"Base\">", measure, measure.base.as_ref(), measure.missing_base);
    estimate(html, "<td data-label=\"Tuned\">", measure, measure.tuned.as_ref(), measure.missing_tuned);
    match &measure.difference {
        Some(difference) => {
            let verdict = Verdict::of(measure, difference);
            let interval = text::difference_interval(measure.unit, difference);
            html.raw("<td data-label=\"Difference\"><b>")
                .text(&text::signed(measure.unit, difference.mean))
                .raw("</b> ");
            html.element("<span class=\"tag ", verdict.class(), "\">").text(verdict.word()).raw("</span>");
            html.element("<span class=\"note\">", &interval, "</span></td><td data-label=\"Plot\">");
            let label = format!(
                "{}: difference {} {}, {interval}, {}",
                measure.name.title(),
                text::signed(measure.unit, difference.mean),
                text::difference_unit(measure.unit),
                verdict.word()
            );
            let ends = difference.low.zip(difference.high);
            chart::forest(html, &label, verdict.class(), difference.mean, ends);
            html.element("</td><td data-label=\"p\">", &text::p_value(difference.p), "</td></tr>");
        }
        None => {
            html.raw(
                "<td data-label=\"Difference\">none</td><td data-label=\"Plot\"></td><td data-label=\"p\"></td></tr>",
            );
        }
    }
}

fn direction(measure: &Measure) -> String {
    let better = match measure.higher_is_better {
        Some(true) => "higher is better",
        Some(false) => "lower is better",
        None => "neither direction is better",
    };
    let unit = text::difference_unit(measure.unit);
    match measure.chance {
        Some(chance) => format!("{better}, chance {}, difference in {unit}", text::value(measure.unit, chance)),
        None => format!("{better}, {unit}"),
    }
}

fn estimate(html: &mut Html, cell: &'static str, measure: &Measure, estimate: Option<&Estimate>, missing: usize) {
    html.raw(cell);
    match estimate {
        Some(estimate) => {
            html.element("<b>", &text::value(measure.unit, estimate.mean), "</b>");
            html.element("<span class=\"note\">", &text::interval(measure.unit, estimate), "</span>");
        }
        None => {
            html.raw("no value");
        }
    }
    if missing > 0 {
        html.element("<span class=\"note warn\">", &format!("{missing} missing"), "</span>");
    }
    html.raw("</td>");
}

fn explanations(html: &mut Html, scores: &Scores) {
    html.raw("<details><summary>What each measure can and cannot show</summary><dl>");
    let mut last = "";
    for measure in &scores.measures {
        let explanation = measure.name.explanation();
        html.element("<dt>", measure.name.title(), "</dt>");
        let shown = if explanation == last { "As above, for pairs of neighbouring words." } else { explanation };
        html.element("<dd>", shown, "</dd>");
        last = explanation;
    }
    html.raw(
        "</dl><p>The unit of every interval is the character: whole characters are drawn with replacement (95%, \
         bootstrap, widened for few characters as Student's t is). p is two-sided, by exchanging base and tuned \
         character by character; it is not corrected for the number of measures. One character has no interval.</p></details>",
    );
}
