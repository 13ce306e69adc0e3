use opencharacter_similarity::{Overlap, OverlapKind, Reference, Similarity, SimilarityError};
use serde::{Deserialize, Serialize};

use crate::{EvalError, persona_template};

/// What a model was trained on, or what it is asked: texts that must not meet.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    /// One-line personas, or whole profiles.
    pub characters: Vec<String>,
    /// Questions and instructions.
    pub questions: Vec<String>,
}

/// Whether a benchmark's characters and questions occur in the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlapReport {
    /// Training texts compared: characters and questions.
    pub training: [usize; 2],
    /// The benchmark's texts: characters and questions.
    pub benchmark: [usize; 2],
    /// Every overlap.
    pub found: Vec<OverlapFinding>,
    /// Whether the evaluation went on in spite of them, because it was told to.
    pub allowed: bool,
}

/// A text of the benchmark in the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlapFinding {
    /// What the texts are.
    pub what: TextKind,
    /// In what way they overlap.
    pub how: OverlapWay,
    /// The Jaccard index of their word pairs.
    pub similarity: f64,
    /// The benchmark's text.
    pub benchmark: String,
    /// The training's.
    pub training: String,
}

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextKind {
    /// A persona or profile.
    Character,
    /// A question or instruction.
    Question,
}

/// In what way two texts overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlapWay {
    /// The same words.
    Exact,
    /// Nearly the same words.
    Near,
    /// The training text quotes the benchmark's.
    Contains,
    /// Personas that differ only in numbers and names.
    Template,
}

/// Looks for texts of the benchmark in the training data: equal, nearly equal (`MinHash` over word pairs, confirmed
/// exactly), quoted in a longer text, or a persona that differs only in age and place.
///
/// It sees words, not meaning: a paraphrase passes.
pub fn find_overlap(training: &Texts, benchmark: &Texts) -> OverlapReport {
    let mut found = overlaps(TextKind::Character, &training.characters, &benchmark.characters);
    found.extend(templates(&training.characters, &benchmark.characters, &found));
    found.extend(overlaps(TextKind::Question, &training.questions, &benchmark.questions));
    let count = |texts: &Texts| [texts.characters.len(), texts.questions.len()];
    OverlapReport { training: count(training), benchmark: count(benchmark), found, allowed: false }
}

impl OverlapReport {
    /// Refuses the evaluation if anything overlaps, unless that is allowed, which the report then says.
    ///
    /// # Errors
    /// [`EvalError::Overlap`], which names the first overlaps.
    pub fn check(self, allow: bool) -> Result<Self, EvalError> {
        const MOST_NAMED: usize = 5;
        if self.found.is_empty() || allow {
            return Ok(Self { allowed: allow && !self.found.is_empty(), ..self });
        }
        let name =
            |finding: &OverlapFinding| format!("`{}` is in training as `{}`", finding.benchmark, finding.training);
        let named: Vec<String> = self.found.iter().take(MOST_NAMED).map(name).collect();
        Err(EvalError::Overlap { count: self.found.len(), named: named.join("; ") })
    }

    /// What to say beside the scores.
    pub fn warning(&self) -> Option<String> {
        let count = self.found.len();
        self.allowed.then(|| {
            format!("The model was trained on texts of this benchmark: {count} overlaps, evaluated in spite of them.")
        })
    }
}

/// Word pairs, six in ten alike: of two lines of ten words that differ in one, the similarity is 0.64. Looser than for
/// cleaning a corpus, because a missed overlap costs more here than a false one that somebody reads.
fn similarity() -> Result<Similarity, SimilarityError> {
    Similarity::new(2, 0.6)
}

fn overlaps(what: TextKind, training: &[String], benchmark: &[String]) -> Vec<OverlapFinding> {
    // These settings are within their bounds, so there is always a reference.
    let Ok(reference) = similarity().and_then(|near| Reference::new(near, Reference::DEFAULT_RUN, benchmark)) else {
        return Vec::new();
    };
    let finding = |(overlap, training): (Option<Overlap>, &String)| {
        let Overlap { index, similarity, kind } = overlap?;
        let how = match kind {
            OverlapKind::Exact => OverlapWay::Exact,
            OverlapKind::Near => OverlapWay::Near,
            OverlapKind::Contains => OverlapWay::Contains,
        };
        let benchmark = benchmark.get(index)?.clone();
        Some(OverlapFinding { what, how, similarity, benchmark, training: training.clone() })
    };
    reference.overlaps(training).into_iter().zip(training).filter_map(finding).collect()
}

/// Personas of one template that were not found otherwise.
fn templates(training: &[String], benchmark: &[String], known: &[OverlapFinding]) -> Vec<OverlapFinding> {
    /// A shorter template ("a # writer from @") fits too many people.
    const SHORTEST: usize = 6;
    let known: std::collections::HashSet<&str> = known.iter().map(|finding| finding.training.as_str()).collect();
    let by_template: std::collections::HashMap<String, &String> =
        benchmark.iter().map(|text| (persona_template(text), text)).collect();
    let Ok(near) = similarity() else { return Vec::new() };
    let new = training.iter().filter(|text| !known.contains(text.as_str()));
    new.filter_map(|text| {
        let template = persona_template(text);
        let twin = by_template.get(&template).filter(|_| template.split(' ').count() >= SHORTEST)?;
        let similarity = near.of(twin, text);
        let (what, how) = (TextKind::Character, OverlapWay::Template);
        Some(OverlapFinding { what, how, similarity, benchmark: (*twin).clone(), training: text.clone() })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(characters: &[&str], questions: &[&str]) -> Texts {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Texts { characters: owned(characters), questions: owned(questions) }
    }

    #[test]
    fn overlaps_are_found_named_and_refused() {
        let benchmark = texts(
            &["A 25-year-old writer from Paris who collects vintage cars", "A beekeeper who is allergic to honey"],
            &["How do you calm a swarm of angry bees that has settled on the wall of a school?"],
        );
        let training = texts(
            &[
                "A 61-year-old writer from Lima who collects vintage cars",
                "a beekeeper, who is allergic to honey!",
                "A tram driver who writes crosswords",
            ],
            &[
                "Tell me: how do you calm a swarm of angry bees that has settled on the wall of a school? Be brief.",
                "Why is the sky blue?",
            ],
        );
        let report = find_overlap(&training, &benchmark);
        let ways: Vec<OverlapWay> = report.found.iter().map(|finding| finding.how).collect();
        assert_eq!(ways[..2], [OverlapWay::Exact, OverlapWay::Template]);
        assert_eq!((report.found.len(), report.training, report.benchmark), (3, [3, 2], [2, 1]));
        let refused = report.clone().check(false).unwrap_err().to_string();
        assert!(refused.starts_with("3 of") && refused.contains("allergic to honey"), "{refused}");
        let allowed = report.check(true).unwrap();
        assert!(allowed.allowed && allowed.warning().unwrap().contains("3 overlaps"));
    }

    #[test]
    fn strangers_do_not_overlap() {
        let training = texts(&["A tram driver"], &["Why is the sky blue?"]);
        let report = find_overlap(&training, &texts(&["A beekeeper"], &["Why is grass green?"])).check(false).unwrap();
        assert!(report.found.is_empty() && !report.allowed && report.warning().is_none());
        assert!(find_overlap(&Texts::default(), &Texts::default()).found.is_empty());
    }
}
