use serde::{Deserialize, Serialize};

use crate::{min_hash::Banding, shingles::Shingler};

/// What counts as similar: texts whose sets of word shingles have a Jaccard index of at least a threshold.
///
/// One changed word changes as many shingles as a shingle has words. So of two lines of 20 words that differ in one,
/// in the middle, the similarity is 0.9 for single words, 0.81 for pairs and 0.71 for triples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Similarity {
    shingle: usize,
    threshold: f64,
}

/// A setting that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SimilarityError {
    /// Shingles of no words, or so many that hardly a text has two.
    #[error("`shingle` is {0}: expected 1 to 16 words. 3 suits one-line texts and answers alike")]
    Shingle(usize),
    /// A threshold that is no similarity, or so low that everything would have to be compared with everything.
    #[error("`threshold` is {0}: expected 0.2 to 1. 0.8 finds reworded copies, 0.5 texts of one template")]
    Threshold(f64),
    /// So short a run of words occurs everywhere.
    #[error("`run` is {0}: expected at least 5 words, because shorter runs are common phrases. 13 is usual")]
    Run(usize),
}

impl Similarity {
    /// Shingles of `shingle` words (1 to 16) and a `threshold` from 0.2 to 1.
    ///
    /// # Errors
    /// [`SimilarityError::Shingle`], [`SimilarityError::Threshold`].
    pub fn new(shingle: usize, threshold: f64) -> Result<Self, SimilarityError> {
        if !(1..=16).contains(&shingle) {
            return Err(SimilarityError::Shingle(shingle));
        }
        if !(0.2..=1.0).contains(&threshold) {
            return Err(SimilarityError::Threshold(threshold));
        }
        Ok(Self { shingle, threshold })
    }

    /// Words of a shingle. A text with fewer words is one shingle of what it has.
    pub fn shingle(&self) -> usize {
        self.shingle
    }

    /// The least Jaccard index of texts that count as similar.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// The Jaccard index of the texts' shingles, from 0 to 1. Two texts without a word are equal.
    pub fn of(&self, first: &str, second: &str) -> f64 {
        let mut shingler = Shingler::new(self.shingle);
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let left_text = shingler.read(first, &mut left);
        let right_text = shingler.read(second, &mut right);
        let set = |shingles, text| crate::shingles::ShingleSet { shingles, text };
        set(&left, left_text).similarity(set(&right, right_text))
    }

    /// How likely a pair of this `similarity` is missed: at most 1e-6 at the threshold, less above it.
    ///
    /// It is the chance over the choice of hash functions, which is fixed: a pair is found always or never.
    pub fn miss_probability(&self, similarity: f64) -> f64 {
        Banding::for_threshold(self.threshold).miss_probability(similarity)
    }
}

/// Word triples that agree in four of five.
impl Default for Similarity {
    fn default() -> Self {
        Self { shingle: 3, threshold: 0.8 }
    }
}

/// As it stands in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    #[serde(default = "default_shingle")]
    shingle: usize,
    #[serde(default = "default_threshold")]
    threshold: f64,
}

fn default_shingle() -> usize {
    Similarity::default().shingle
}

fn default_threshold() -> f64 {
    Similarity::default().threshold
}

impl TryFrom<Unchecked> for Similarity {
    type Error = SimilarityError;

    fn try_from(unchecked: Unchecked) -> Result<Self, SimilarityError> {
        Self::new(unchecked.shingle, unchecked.threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_where_they_are_read() {
        let read = |json: &str| serde_json::from_str::<Similarity>(json).map_err(|error| error.to_string());
        assert_eq!(read("{}").unwrap(), Similarity::default());
        assert_eq!(read(r#"{"shingle": 2, "threshold": 0.5}"#).unwrap(), Similarity::new(2, 0.5).unwrap());
        assert!(read(r#"{"shingle": 0}"#).unwrap_err().contains("expected 1 to 16 words"));
        assert!(read(r#"{"threshold": 1.5}"#).unwrap_err().contains("expected 0.2 to 1"));
        assert!(read(r#"{"treshold": 0.5}"#).unwrap_err().contains("unknown field"));
        assert!(Similarity::new(3, f64::NAN).is_err());
    }

    #[test]
    fn a_changed_word_costs_as_many_shingles_as_a_shingle_has_words() {
        let words: Vec<String> = (0..20).map(|number| format!("word{number}")).collect();
        let mut changed = words.clone();
        changed[10] = "other".into();
        for (shingle, expected) in [(1, 19.0 / 21.0), (2, 17.0 / 21.0), (3, 15.0 / 21.0)] {
            let similarity = Similarity::new(shingle, 0.8).unwrap();
            assert_eq!(similarity.of(&words.join(" "), &changed.join(" ")), expected);
        }
    }
}
