use std::collections::HashMap;

use crate::words::words;

/// One item's part in a pool's distinct-n: `unique` sums to the pool's number of different n-grams, `total` to its
/// number of n-grams, so that distinct-n is the one sum over the other.
///
/// An n-gram that occurs k times in the pool gives 1/k to each of its occurrences.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DistinctShare {
    /// This item's share of the different n-grams.
    pub unique: f64,
    /// This item's n-grams.
    pub total: usize,
}

/// Splits distinct-n of a pool of answers (each a list of words) over the answers, in their order.
///
/// Distinct-n falls with the number of words, so two pools must be cut to the same number before they are compared
/// (`evaluate` does). It shows repetition, within answers and across characters. It cannot show quality: noise is
/// most distinct of all.
pub fn distinct_shares<A: AsRef<[String]>>(answers: &[A], n: usize) -> Vec<DistinctShare> {
    let grams =
        |answer: &A| -> Vec<Vec<String>> { answer.as_ref().windows(n.max(1)).map(<[String]>::to_vec).collect() };
    let mut counts: HashMap<Vec<String>, usize> = HashMap::new();
    for gram in answers.iter().flat_map(grams) {
        *counts.entry(gram).or_default() += 1;
    }
    let share = |answer: &A| {
        let grams = grams(answer);
        let unique = grams.iter().map(|gram| 1.0 / counts.get(gram).copied().unwrap_or(1) as f64).sum();
        DistinctShare { unique, total: grams.len() }
    };
    answers.iter().map(share).collect()
}

/// One answer to be compared: its character, and its words by base and tuned model.
pub(crate) struct WordPair {
    pub(crate) character: usize,
    pub(crate) base: Vec<String>,
    pub(crate) tuned: Vec<String>,
}

impl WordPair {
    pub(crate) fn new(character: usize, base: &str, tuned: &str) -> Self {
        Self { character, base: words(base), tuned: words(tuned) }
    }
}

/// Cuts both models' answers so that, character by character, both pools hold the same number of words.
///
/// Cutting by character rather than at the end of the pool keeps every character in it.
pub(crate) fn equal_length(pairs: &mut [WordPair]) {
    let mut lengths: HashMap<usize, (usize, usize)> = HashMap::new();
    for pair in pairs.iter() {
        let length = lengths.entry(pair.character).or_default();
        length.0 += pair.base.len();
        length.1 += pair.tuned.len();
    }
    let mut left: HashMap<usize, (usize, usize)> =
        lengths.into_iter().map(|(character, (base, tuned))| (character, (base.min(tuned), base.min(tuned)))).collect();
    for pair in pairs {
        let left = left.entry(pair.character).or_default();
        pair.base.truncate(left.0);
        pair.tuned.truncate(left.1);
        left.0 -= pair.base.len();
        left.1 -= pair.tuned.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_add_up_to_distinct_n() {
        let answers = [words("the sea the sea"), words("the light")];
        let shares = distinct_shares(&answers, 1);
        let unique: f64 = shares.iter().map(|share| share.unique).sum();
        assert!((unique - 3.0).abs() < 1e-12);
        assert_eq!(shares.iter().map(|share| share.total).sum::<usize>(), 6);
        // No pair of words spans two answers.
        assert_eq!(distinct_shares(&answers, 2).iter().map(|share| share.total).sum::<usize>(), 4);
    }

    proptest! {
        #[test]
        fn pools_are_cut_to_equal_length(texts in proptest::collection::vec((0_usize..3, "[a c]{0,9}", "[a c]{0,9}"), 0..12)) {
            let mut pairs: Vec<WordPair> = texts.iter().map(|(who, base, tuned)| WordPair::new(*who, base, tuned)).collect();
            equal_length(&mut pairs);
            let base: usize = pairs.iter().map(|pair| pair.base.len()).sum();
            let tuned: usize = pairs.iter().map(|pair| pair.tuned.len()).sum();
            prop_assert_eq!(base, tuned);
        }
    }
}
