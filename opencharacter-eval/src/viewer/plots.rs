use crate::{
    BenchmarkScores, CurvePoint, EvalItem, TaskScore, Unit,
    report::{html::Html, text},
};

const WIDTH: f64 = 320.0;
const LEFT: f64 = 12.0;
const PLOT: f64 = WIDTH - 2.0 * LEFT;
const FLOOR: f64 = 100.0;
const TALLEST: f64 = 78.0;

/// For each task, how its items' values are spread, and the mean with its interval.
pub(super) fn tasks(html: &mut Html, scores: &BenchmarkScores, items: &[EvalItem]) {
    html.raw(
        "<p class=\"note\">Bars count items by their value; dot and line are the mean with its interval.</p>\
         <div class=\"plots\">",
    );
    for task in &scores.tasks {
        let values: Vec<f64> =
            items.iter().filter(|item| item.task == task.task).filter_map(|item| item.value).collect();
        if !values.is_empty() {
            spread(html, task, &values);
        }
    }
    html.raw("</div>");
}

/// Where values lie: the lowest, the highest, and the number of bars.
fn range(unit: Unit) -> (f64, f64, usize) {
    match unit {
        Unit::Grade => (0.5, 5.5, 5),
        Unit::Share => (-0.5, 1.5, 2),
        Unit::NatsPerToken => (-1.0, 1.0, 10),
        Unit::FMeasure | Unit::UniquePerTotal | Unit::Words => (0.0, 1.0, 10),
    }
}

fn spread(html: &mut Html, task: &TaskScore, values: &[f64]) {
    let (low, high, bars) = range(task.unit);
    let mut counts = vec![0_usize; bars];
    for value in values {
        let bar = ((value - low) / (high - low) * bars as f64).floor().clamp(0.0, (bars - 1) as f64);
        counts[bar as usize] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let place = |value: f64| LEFT + PLOT * ((value - low) / (high - low)).clamp(0.0, 1.0);
    let mean = task.estimate.map_or_else(String::new, |estimate| text::value(task.unit, estimate.mean));
    html.raw("<figure class=\"plot\"><figcaption>").text(&task.task).raw("</figcaption>");
    html.raw("<svg viewBox=\"0 0 320 132\" role=\"img\" aria-label=\"");
    html.text(&format!("{}: mean {mean} over {} items", task.task, values.len())).raw("\">");
    let step = PLOT / bars as f64;
    for (count, bar) in counts.iter().zip(0..) {
        let height = TALLEST * *count as f64 / most;
        html.raw("<rect class=\"bar\" x=\"").number(LEFT + step * f64::from(bar) + 2.0).raw("\" width=\"");
        html.number(step - 4.0).raw("\" y=\"").number(FLOOR - height).raw("\" height=\"").number(height).raw("\"/>");
        if *count > 0 {
            html.raw("<text text-anchor=\"middle\" x=\"").number(LEFT + step * (f64::from(bar) + 0.5)).raw("\" y=\"");
            html.number(FLOOR - height - 4.0).raw("\">").text(&text::grouped(*count as u64)).raw("</text>");
        }
    }
    html.raw("<line class=\"grid\" x1=\"12\" x2=\"308\" y1=\"100\" y2=\"100\"/>");
    for &(label, at) in ticks(task.unit) {
        html.raw("<text text-anchor=\"middle\" y=\"113\" x=\"").number(place(at)).raw("\">").raw(label).raw("</text>");
    }
    if let Some(estimate) = &task.estimate {
        if let (Some(low), Some(high)) = (estimate.low, estimate.high) {
            html.raw("<line class=\"range\" y1=\"123\" y2=\"123\" x1=\"").number(place(low));
            html.raw("\" x2=\"").number(place(high)).raw("\"/>");
        }
        html.raw("<circle class=\"dot\" cy=\"123\" r=\"4.5\" cx=\"").number(place(estimate.mean)).raw("\"/>");
    }
    html.raw("</svg></figure>");
}

fn ticks(unit: Unit) -> &'static [(&'static str, f64)] {
    match unit {
        Unit::Grade => &[("1", 1.0), ("2", 2.0), ("3", 3.0), ("4", 4.0), ("5", 5.0)],
        Unit::Share => &[("no", 0.0), ("yes", 1.0)],
        Unit::NatsPerToken => &[("\u{2264} \u{2212}1", -1.0), ("0", 0.0), ("\u{2265} 1", 1.0)],
        Unit::FMeasure | Unit::UniquePerTotal | Unit::Words => &[("0", 0.0), ("0.5", 0.5), ("1", 1.0)],
    }
}

/// One curve per task over turns, each point with its interval.
pub(super) fn drift(html: &mut Html, scores: &BenchmarkScores) {
    html.raw(
        "<p>The share of facts that hold, by turns of conversation before the question. Points with 95% intervals.</p>\
         <div class=\"plots\">",
    );
    let mut tasks: Vec<&str> = scores.drift.iter().map(|point| point.task.as_str()).collect();
    tasks.dedup();
    for task in tasks {
        let points: Vec<&CurvePoint> = scores.drift.iter().filter(|point| point.task == task).collect();
        curve(html, task, &points, scores.benchmark.unit());
    }
    html.raw("</div>");
}

fn curve(html: &mut Html, task: &str, points: &[&CurvePoint], unit: Unit) {
    const TOP: f64 = 12.0;
    const BOTTOM: f64 = 150.0;
    const BEGIN: f64 = 40.0;
    const END: f64 = 305.0;
    let last = f64::from(points.iter().map(|point| point.turn).max().unwrap_or(0).max(1));
    let across = |turn: u32| BEGIN + (END - BEGIN) * f64::from(turn) / last;
    let down = |value: f64| BOTTOM - (BOTTOM - TOP) * value.clamp(0.0, 1.0);
    let said: Vec<String> =
        points.iter().map(|point| format!("{} after {}", text::value(unit, point.estimate.mean), point.turn)).collect();
    html.raw("<figure class=\"plot\"><figcaption>").text(task).raw("</figcaption>");
    html.raw("<svg viewBox=\"0 0 320 180\" role=\"img\" aria-label=\"");
    html.text(&format!("{task} by turn: {}", said.join(", "))).raw("\">");
    for (label, value) in [("0%", 0.0), ("50%", 0.5), ("100%", 1.0)] {
        html.raw("<line class=\"grid\" x1=\"40\" x2=\"305\" y1=\"")
            .number(down(value))
            .raw("\" y2=\"")
            .number(down(value));
        html.raw("\"/><text text-anchor=\"end\" dy=\"0.35em\" x=\"34\" y=\"").number(down(value)).raw("\">");
        html.raw(label).raw("</text>");
    }
    html.raw("<polyline class=\"smooth\" points=\"");
    for point in points {
        html.number(across(point.turn)).raw(",").number(down(point.estimate.mean)).raw(" ");
    }
    html.raw("\"/>");
    for point in points {
        let x = across(point.turn);
        if let (Some(low), Some(high)) = (point.estimate.low, point.estimate.high) {
            html.raw("<line class=\"range\" x1=\"")
                .number(x)
                .raw("\" x2=\"")
                .number(x)
                .raw("\" y1=\"")
                .number(down(low));
            html.raw("\" y2=\"").number(down(high)).raw("\"/>");
        }
        html.raw("<circle class=\"dot\" r=\"4.5\" cx=\"").number(x).raw("\" cy=\"").number(down(point.estimate.mean));
        html.raw("\"/><text text-anchor=\"middle\" y=\"168\" x=\"").number(x).raw("\">");
        html.text(&point.turn.to_string()).raw("</text>");
    }
    html.raw("</svg></figure>");
}
