use serde::{Deserialize, Serialize};

use crate::statistics::Estimate;

/// What is measured. Each variant says what it shows and what it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasureKind {
    /// Mean negative log-likelihood of reference dialogues, over all their assistant tokens.
    ReferenceNll,
    /// Share of answers whose right profile the base model finds likeliest.
    Identification,
    /// The same with the characters' names masked in the answers.
    IdentificationWithoutNames,
    /// Mean lead of the right profile over the best wrong one.
    IdentificationMargin,
    /// Share of answers with a phrase that breaks character.
    BreakCharacter,
    /// Different words over all words, both models cut to the same number of words.
    #[serde(rename = "distinct_1")]
    Distinct1,
    /// The same for pairs of neighbouring words.
    #[serde(rename = "distinct_2")]
    Distinct2,
    /// Words per answer.
    AnswerWords,
    /// Share of answers ended by the token limit.
    CutOff,
}

/// What a measure's values count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Natural-log units per token.
    NatsPerToken,
    /// A share between 0 and 1; shown in per cent, differences in percentage points.
    Share,
    /// Different n-grams over all n-grams, between 0 and 1.
    UniquePerTotal,
    /// Words.
    Words,
    /// A judge's score from 1 to 5.
    Grade,
    /// Rouge-L, between 0 and 1.
    FMeasure,
}

impl Unit {
    /// The values that there are.
    fn range(self) -> (f64, f64) {
        match self {
            Self::NatsPerToken => (f64::NEG_INFINITY, f64::INFINITY),
            Self::Share | Self::UniquePerTotal | Self::FMeasure => (0.0, 1.0),
            Self::Words => (0.0, f64::INFINITY),
            Self::Grade => (1.0, 5.0),
        }
    }

    /// `estimate` with its interval where there are values: what reaches beyond them holds nothing.
    pub(crate) fn within_range(self, estimate: Estimate) -> Estimate {
        let (least, most) = self.range();
        let clip = |end: Option<f64>| end.map(|end| end.clamp(least, most));
        Estimate { low: clip(estimate.low), high: clip(estimate.high), ..estimate }
    }
}

impl MeasureKind {
    /// All measures in the report's order.
    pub const ALL: [Self; 9] = [
        Self::ReferenceNll,
        Self::Identification,
        Self::IdentificationWithoutNames,
        Self::IdentificationMargin,
        Self::BreakCharacter,
        Self::Distinct1,
        Self::Distinct2,
        Self::AnswerWords,
        Self::CutOff,
    ];

    /// A name for readers.
    pub fn title(self) -> &'static str {
        match self {
            Self::ReferenceNll => "Loss on reference answers",
            Self::Identification => "Profile identified",
            Self::IdentificationWithoutNames => "Profile identified, names masked",
            Self::IdentificationMargin => "Lead of the right profile",
            Self::BreakCharacter => "Answers that break character",
            Self::Distinct1 => "Distinct words (distinct-1)",
            Self::Distinct2 => "Distinct word pairs (distinct-2)",
            Self::AnswerWords => "Length of an answer",
            Self::CutOff => "Answers cut off by the token limit",
        }
    }

    /// What it shows and what it cannot, in one or two sentences.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::ReferenceNll => {
                "How unlikely the model finds the teacher's answers. Lower means nearer to the teacher, in style or in \
                 substance; it does not say that the model's own answers are good."
            }
            Self::Identification => {
                "The base model, as scorer, sees the answer under the right profile and wrong ones and picks the \
                 likeliest. An answer that recites its profile, or only its name, is found too."
            }
            Self::IdentificationWithoutNames => {
                "The same with every held-out character's name replaced by \"someone\" in the answers."
            }
            Self::IdentificationMargin => {
                "Log-probability under the right profile minus that under the best wrong one, per token of the answer; \
                 below zero where a wrong profile leads."
            }
            Self::BreakCharacter => {
                "A fixed list of phrases such as \"as an AI\". It finds open lapses only: an answer in nobody's voice \
                 passes."
            }
            Self::Distinct1 | Self::Distinct2 => {
                "Repetition within and across answers, both models cut to the same number of words per character. Noise \
                 scores high; the interval holds the pool's counts fixed and is somewhat too narrow."
            }
            Self::AnswerWords => {
                "Neither direction is better; longer answers give the scorer more to go by, so read it beside \
                 identification."
            }
            Self::CutOff => "A cut answer may lack its end; many of them make length and diversity hard to compare.",
        }
    }

    /// What its values count.
    pub fn unit(self) -> Unit {
        match self {
            Self::ReferenceNll | Self::IdentificationMargin => Unit::NatsPerToken,
            Self::Identification | Self::IdentificationWithoutNames | Self::BreakCharacter | Self::CutOff => {
                Unit::Share
            }
            Self::Distinct1 | Self::Distinct2 => Unit::UniquePerTotal,
            Self::AnswerWords => Unit::Words,
        }
    }

    /// Whether a higher value is better; `None` where neither is.
    pub fn higher_is_better(self) -> Option<bool> {
        match self {
            Self::Identification
            | Self::IdentificationWithoutNames
            | Self::IdentificationMargin
            | Self::Distinct1
            | Self::Distinct2 => Some(true),
            Self::ReferenceNll | Self::BreakCharacter | Self::CutOff => Some(false),
            Self::AnswerWords => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{Ratio, Resampling, estimate};

    #[test]
    fn an_interval_does_not_leave_the_scale() {
        let grades = [("a", 5.0), ("b", 5.0), ("c", 4.0)].map(|(cluster, grade)| (cluster, Ratio::value(grade)));
        let found = estimate(grades, &Resampling::default()).unwrap();
        assert!(found.high.unwrap() > 5.0, "three characters are widened past the scale: {found:?}");
        let shown = Unit::Grade.within_range(found);
        assert_eq!(shown, Estimate { high: Some(5.0), ..found });
        assert_eq!(Unit::NatsPerToken.within_range(found), found);
    }
}
