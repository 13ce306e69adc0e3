use crate::porter::stem;

/// Words no longer than this are not stemmed.
const LONGEST_UNSTEMMED: usize = 3;

/// Rouge-L of one prediction against one reference (Lin, *ROUGE*, 2004): what share of each is their longest common
/// subsequence of words.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RougeL {
    /// Of the prediction's words.
    pub precision: f64,
    /// Of the reference's words.
    pub recall: f64,
    /// Their harmonic mean.
    pub f_measure: f64,
}

/// Rouge-L as Google's `rouge-score` 0.1.2 gives it with `use_stemmer=True`: lower case, runs of `a-z` and `0-9`, words
/// of more than three letters stemmed.
///
/// It shows overlap of words with a given answer, in their order. It cannot show that an answer is right or in
/// character: another wording of the same reply scores low, and letters outside `a-z` count as spaces, so that a text
/// in another script has no words at all and scores 0.
pub fn rouge_l(prediction: &str, reference: &str) -> RougeL {
    of_words(&rouge_words(prediction), &rouge_words(reference))
}

/// The best F-measure over `references`; `None` without any.
pub fn best_rouge_l<R: AsRef<str>>(prediction: &str, references: &[R]) -> Option<f64> {
    let prediction = rouge_words(prediction);
    let measures = references.iter().map(|reference| of_words(&prediction, &rouge_words(reference.as_ref())).f_measure);
    measures.max_by(f64::total_cmp)
}

fn rouge_words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|character: char| !(character.is_ascii_lowercase() || character.is_ascii_digit()))
        .filter(|word| !word.is_empty())
        .map(|word| if word.len() > LONGEST_UNSTEMMED { stem(word) } else { word.to_owned() })
        .filter(|word| !word.is_empty())
        .collect()
}

fn of_words(prediction: &[String], reference: &[String]) -> RougeL {
    let common = longest_common_subsequence(prediction, reference) as f64;
    let share = |of: &[String]| if of.is_empty() { 0.0 } else { common / of.len() as f64 };
    let (precision, recall) = (share(prediction), share(reference));
    let f_measure = if common > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
    RougeL { precision, recall, f_measure }
}

/// One row of the usual table at a time.
fn longest_common_subsequence(first: &[String], second: &[String]) -> usize {
    let mut row = vec![0_usize; second.len() + 1];
    for word in first {
        let mut diagonal = 0;
        for (place, other) in second.iter().enumerate() {
            let above = row[place + 1];
            row[place + 1] = if word == other { diagonal + 1 } else { above.max(row[place]) };
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Row {
        prediction: String,
        references: Vec<String>,
        rouge_l: f64,
        /// Precision, recall and F-measure against the first reference.
        first: [f64; 3],
    }

    #[test]
    fn agrees_with_rouge_score_on_500_pairs() {
        // Written by xtask/golden/make_eval_golden.py.
        let rows = include_str!("../tests/data/rouge.jsonl").lines();
        let rows: Vec<Row> = rows.map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 500);
        for row in rows {
            let best = best_rouge_l(&row.prediction, &row.references).unwrap();
            assert!((best - row.rouge_l).abs() < 1e-6, "{best} {}: {:?}", row.rouge_l, row.prediction);
            let first = rouge_l(&row.prediction, &row.references[0]);
            for (found, expected) in [first.precision, first.recall, first.f_measure].iter().zip(row.first) {
                assert!((found - expected).abs() < 1e-6, "{first:?} {:?}", row.prediction);
            }
        }
    }

    #[test]
    fn no_reference_is_no_score() {
        assert_eq!(best_rouge_l::<&str>("a", &[]), None);
        assert_eq!(best_rouge_l("", &[""]), Some(0.0));
    }

    proptest! {
        #[test]
        fn a_text_is_like_itself_and_order_of_arguments_swaps_precision_and_recall(first in "[a-e ]{0,30}", second in "\\PC{0,30}") {
            let forth = rouge_l(&first, &second);
            let back = rouge_l(&second, &first);
            prop_assert_eq!((forth.precision, forth.recall), (back.recall, back.precision));
            prop_assert!((0.0..=1.0).contains(&forth.f_measure));
            let itself = rouge_l(&first, &first).f_measure;
            prop_assert_eq!(itself, if rouge_words(&first).is_empty() { 0.0 } else { 1.0 });
        }
    }
}
