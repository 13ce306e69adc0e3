//! Charts as inline SVG.

use super::{LossPoint, html::Html, text};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 58.0;
/// More points than pixels only make the page heavy.
const MOST_POINTS: usize = 400;

/// The loss curve, or nothing when there is no finite loss.
pub(super) fn loss_curve(html: &mut Html, points: &[LossPoint]) {
    let train = finite(points, |point| point.train_loss);
    let held_out = finite(points, |point| point.held_out_loss);
    let all = || train.iter().chain(&held_out);
    let Some(scale) = Scale::of(all().copied()) else { return };
    html.raw("<figure class=\"chart\"><svg viewBox=\"0 0 720 320\" role=\"img\" aria-label=\"");
    html.text(&description(&train, &held_out)).raw("\">");
    axes(html, &scale);
    let train = thinned(&train);
    line(html, &scale, "train", &train);
    line(html, &scale, "smooth", &smoothed(&train));
    line(html, &scale, "held", &held_out);
    for &point in &held_out {
        let (x, y) = scale.place(point);
        html.raw("<circle class=\"held-dot\" r=\"4.5\" cx=\"").number(x).raw("\" cy=\"").number(y).raw("\"/>");
    }
    html.raw("</svg><figcaption><ul class=\"legend\">");
    if !train.is_empty() {
        html.raw("<li><span class=\"key key-train\"></span>training loss, step by step</li>");
        html.raw("<li><span class=\"key key-smooth\"></span>the same, smoothed</li>");
    }
    if !held_out.is_empty() {
        html.raw("<li><span class=\"key key-held\"></span>loss on held-out dialogues</li>");
    }
    html.raw("</ul>").element("<p>", &description(&finite(points, |point| point.train_loss), &held_out), "</p>");
    if let Some(last) = points.last().filter(|last| last.tokens > 0) {
        html.raw("<p>Tokens trained on: ").text(&text::grouped(last.tokens)).raw(".</p>");
    }
    html.raw("</figcaption></figure>");
}

type Point = (f64, f64);

fn finite(points: &[LossPoint], value: impl Fn(&LossPoint) -> Option<f64>) -> Vec<Point> {
    let point = |point: &LossPoint| Some((point.step as f64, value(point).filter(|loss| loss.is_finite())?));
    points.iter().filter_map(point).collect()
}

fn description(train: &[Point], held_out: &[Point]) -> String {
    let ends = |name: &str, points: &[Point]| match (points.first(), points.last()) {
        (Some(first), Some(last)) if first.0 < last.0 => {
            Some(format!("{name} from {:.3} at step {} to {:.3} at step {}", first.1, first.0, last.1, last.0))
        }
        (Some(only), _) => Some(format!("{name} {:.3} at step {}", only.1, only.0)),
        _ => None,
    };
    let parts: Vec<String> =
        [ends("training loss", train), ends("held-out loss", held_out)].into_iter().flatten().collect();
    format!("Loss in nats per token: {}.", parts.join("; "))
}

/// Means over equal runs of points, at most [`MOST_POINTS`].
fn thinned(points: &[Point]) -> Vec<Point> {
    let size = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |run: &[Point]| {
        let count = run.len() as f64;
        (run.iter().map(|point| point.0).sum::<f64>() / count, run.iter().map(|point| point.1).sum::<f64>() / count)
    };
    points.chunks(size).map(mean).collect()
}

/// A moving mean over a tenth of the curve, centred, so that it does not lag; one-sided at the ends.
fn smoothed(points: &[Point]) -> Vec<Point> {
    let reach = (points.len() / 20).max(1);
    (0..points.len())
        .map(|index| {
            let window = &points[index.saturating_sub(reach)..points.len().min(index + reach + 1)];
            (points[index].0, window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64)
        })
        .collect()
}

struct Scale {
    x: Axis,
    y: Axis,
}

impl Scale {
    fn of(points: impl Iterator<Item = Point>) -> Option<Self> {
        let mut bounds: Option<[f64; 4]> = None;
        for (x, y) in points {
            let [left, right, low, high] = bounds.unwrap_or([x, x, y, y]);
            bounds = Some([left.min(x), right.max(x), low.min(y), high.max(y)]);
        }
        let [left, right, low, high] = bounds?;
        Some(Self { x: Axis::exact(left, right), y: Axis::rounded(low, high) })
    }

    fn place(&self, (x, y): Point) -> Point {
        let across = LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT);
        let down = HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM);
        (across, down)
    }
}

struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Ends at the data, ticks at round numbers (whole steps).
    fn exact(low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, step: round_step(high - low).max(1.0) }
    }

    /// Ends at round numbers.
    fn rounded(low: f64, high: f64) -> Self {
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
        let step = round_step(high - low);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        (first..=last).map(|tick| tick as f64 * self.step).collect()
    }

    fn decimals(&self) -> usize {
        (-self.step.log10().floor()).clamp(0.0, 6.0) as usize
    }
}

/// 1, 2 or 5 times a power of ten: about five ticks over `span`.
fn round_step(span: f64) -> f64 {
    let raw = span / 5.0;
    let power = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw * 0.999).unwrap_or(10.0);
    factor * power
}

fn axes(html: &mut Html, scale: &Scale) {
    for tick in scale.y.ticks() {
        let (_, y) = scale.place((scale.x.low, tick));
        html.raw("<line class=\"grid\" x1=\"74\" x2=\"706\" y1=\"").number(y).raw("\" y2=\"").number(y).raw("\"/>");
        html.raw("<text class=\"tick\" text-anchor=\"end\" dy=\"0.35em\" x=\"66\" y=\"").number(y).raw("\">");
        html.text(&format!("{tick:.*}", scale.y.decimals())).raw("</text>");
    }
    for tick in scale.x.ticks() {
        let (x, _) = scale.place((tick, scale.y.low));
        html.raw("<text class=\"tick\" text-anchor=\"middle\" y=\"283\" x=\"").number(x).raw("\">");
        html.text(&text::grouped(tick.max(0.0) as u64)).raw("</text>");
    }
    html.raw("<text class=\"axis\" text-anchor=\"middle\" x=\"390\" y=\"312\">optimiser step</text>");
    html.raw(
        "<text class=\"axis\" text-anchor=\"middle\" transform=\"translate(18 138) rotate(-90)\">nats per token</text>",
    );
}

fn line(html: &mut Html, scale: &Scale, class: &'static str, points: &[Point]) {
    if points.len() < 2 {
        return;
    }
    html.raw("<polyline class=\"").raw(class).raw("\" points=\"");
    for &point in points {
        let (x, y) = scale.place(point);
        html.number(x).raw(",").number(y).raw(" ");
    }
    html.raw("\"/>");
}

/// A difference with its interval against a zero line; each on its own scale, zero in the middle.
pub(super) fn forest(html: &mut Html, label: &str, class: &'static str, mean: f64, interval: Option<(f64, f64)>) {
    let (low, high) = interval.unwrap_or((mean, mean));
    let widest = [mean, low, high].into_iter().map(f64::abs).fold(0.0, f64::max);
    let reach = if widest > 0.0 { widest * 1.12 } else { 1.0 };
    let place = |value: f64| 80.0 + 76.0 * value / reach;
    html.raw("<svg class=\"forest ").raw(class).raw("\" viewBox=\"0 0 160 24\" role=\"img\" aria-label=\"");
    html.text(label).raw("\"><line class=\"zero\" x1=\"80\" x2=\"80\" y1=\"1\" y2=\"23\"/>");
    if interval.is_some() {
        html.raw("<line class=\"range\" y1=\"12\" y2=\"12\" x1=\"").number(place(low));
        html.raw("\" x2=\"").number(place(high)).raw("\"/>");
    }
    html.raw("<circle class=\"dot\" cy=\"12\" r=\"4.5\" cx=\"").number(place(mean)).raw("\"/></svg>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis::rounded(1.83, 2.71);
        assert_eq!((axis.low, axis.step), (1.8, 0.2));
        assert_eq!(axis.ticks().len(), 6);
        assert_eq!(Axis::exact(1.0, 1.0).ticks().len(), 2);
    }

    #[test]
    fn odd_losses_make_no_broken_chart() {
        let point = |step, loss| LossPoint { step, tokens: 0, train_loss: Some(loss), held_out_loss: None };
        for points in
            [vec![], vec![point(1, f64::NAN)], vec![point(1, 2.0)], vec![point(1, 1e9), point(2, f64::INFINITY)]]
        {
            let mut html = Html::default();
            loss_curve(&mut html, &points);
            let html = html.into_string();
            assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        }
    }

    #[test]
    fn long_curves_are_thinned() {
        let points: Vec<Point> = (0..10_000).map(|step| (f64::from(step), 1.0)).collect();
        assert!(thinned(&points).len() <= MOST_POINTS);
        assert_eq!(smoothed(&thinned(&points)).len(), thinned(&points).len());
    }
}
