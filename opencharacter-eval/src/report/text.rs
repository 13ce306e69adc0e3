//! Numbers and sentences for readers.

use crate::{
    Measure, MeasureKind, Scores, Unit,
    statistics::{Difference, Estimate},
};

/// A value in its unit: `41.7%`, `2.310`.
pub(crate) fn value(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Share => format!("{:.1}%", value * 100.0),
        Unit::NatsPerToken | Unit::UniquePerTotal | Unit::FMeasure => format!("{value:.3}"),
        Unit::Grade => format!("{value:.2}"),
        Unit::Words => format!("{value:.1}"),
    }
}

/// A difference in its unit, with its sign; a true minus sign is read out by screen readers.
pub(crate) fn signed(unit: Unit, value: f64) -> String {
    let text = match unit {
        Unit::Share => format!("{:+.1}", value * 100.0),
        Unit::NatsPerToken | Unit::UniquePerTotal | Unit::FMeasure => format!("{value:+.3}"),
        Unit::Grade => format!("{value:+.2}"),
        Unit::Words => format!("{value:+.1}"),
    };
    let is_zero = text.chars().all(|c| matches!(c, '+' | '-' | '0' | '.'));
    if is_zero { text.replace(['+', '-'], "") } else { text.replace('-', "\u{2212}") }
}

/// What differences are counted in.
pub(super) fn difference_unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Share => "points",
        Unit::NatsPerToken => "nats per token",
        Unit::UniquePerTotal => "different / all",
        Unit::Words => "words",
        Unit::Grade => "points of 1 to 5",
        Unit::FMeasure => "Rouge-L",
    }
}

pub(crate) fn interval(unit: Unit, estimate: &Estimate) -> String {
    match (estimate.low, estimate.high) {
        (Some(low), Some(high)) => format!("{} to {}", value(unit, low), value(unit, high)),
        _ => "no interval".to_owned(),
    }
}

pub(crate) fn difference_interval(unit: Unit, difference: &Difference) -> String {
    match (difference.low, difference.high) {
        (Some(low), Some(high)) => format!("{} to {}", signed(unit, low), signed(unit, high)),
        _ => "no interval".to_owned(),
    }
}

pub(crate) fn p_value(p: Option<f64>) -> String {
    match p {
        None => "\u{2013}".to_owned(),
        Some(p) if p < 0.001 => "< 0.001".to_owned(),
        Some(p) => format!("{p:.3}"),
    }
}

/// What a difference means for the measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Better,
    Worse,
    Changed,
    Unclear,
}

impl Verdict {
    pub(super) fn of(measure: &Measure, difference: &Difference) -> Self {
        match (difference.excludes_zero(), measure.higher_is_better) {
            (false, _) => Self::Unclear,
            (true, None) => Self::Changed,
            (true, Some(higher)) if (difference.mean > 0.0) == higher => Self::Better,
            (true, Some(_)) => Self::Worse,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Changed => "changed",
            Self::Unclear => "not clear",
        }
    }

    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Changed | Self::Unclear => "unclear",
        }
    }
}

/// What stands at the top, in plain words.
pub(super) struct Summary {
    pub(super) opening: String,
    pub(super) findings: Vec<String>,
    pub(super) closing: String,
}

/// The measures of the summary, and how they are named in it.
const HEADLINES: [(MeasureKind, &str); 4] = [
    (MeasureKind::ReferenceNll, "Loss on the reference answers"),
    (MeasureKind::Identification, "Answers traced to the right profile"),
    (MeasureKind::IdentificationWithoutNames, "The same with all names masked"),
    (MeasureKind::BreakCharacter, "Answers that openly break character"),
];

pub(super) fn summary(scores: &Scores) -> Summary {
    let opening = format!(
        "The base and the tuned model played the same {} that training never saw. Each was asked {}, with the same \
         prompts.",
        counted(scores.characters as u64, "character", "characters"),
        counted(scores.answers.len() as u64, "question", "questions in all"),
    );
    let finding = |(kind, what)| scores.measure(kind).and_then(|measure| sentence(what, measure));
    let mut closing = "Intervals are 95%, by resampling whole characters. They speak for characters like these, asked \
        questions like these, and for this one training run: another seed was not tried."
        .to_owned();
    if !scores.missing.is_empty() {
        let values = counted(scores.missing.len() as u64, "value", "values");
        closing = format!("{closing} Missing: {values}, listed below and part of no score.");
    }
    Summary { opening, findings: HEADLINES.into_iter().filter_map(finding).collect(), closing }
}

fn sentence(what: &str, measure: &Measure) -> Option<String> {
    let (base, tuned, difference) = (measure.base?, measure.tuned?, measure.difference?);
    let unit = measure.unit;
    let verdict = match Verdict::of(measure, &difference) {
        Verdict::Better => "An improvement.",
        Verdict::Worse => "A loss.",
        Verdict::Changed => "A change.",
        Verdict::Unclear if difference.low.is_none() => "Too few characters to tell it from chance.",
        Verdict::Unclear => "The interval includes zero: this run does not show a difference.",
    };
    let guessing = measure.chance.map_or(String::new(), |chance| format!(" (guessing: {})", value(unit, chance)));
    Some(format!(
        "{what}: {} base, {} tuned{guessing}; difference {} {}, interval {}. {verdict}",
        value(unit, base.mean),
        value(unit, tuned.mean),
        signed(unit, difference.mean),
        difference_unit(unit),
        difference_interval(unit, &difference),
    ))
}

pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `4.2 s`, `3 min 20 s`, `2 h 05 min`.
pub(super) fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
        assert_eq!(signed(Unit::Share, -0.051), "\u{2212}5.1");
        assert_eq!(signed(Unit::Share, -0.000_01), "0.0");
        assert_eq!(seconds(200.4), "3 min 20 s");
        assert_eq!(p_value(Some(0.0002)), "< 0.001");
    }
}
