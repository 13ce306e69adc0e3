use twox_hash::XxHash3_64;

use crate::words::Words;

/// XXH3 with seed 0: published, so hashes are the same everywhere.
pub(crate) fn hash(text: &str) -> u64 {
    XxHash3_64::oneshot(text.as_bytes())
}

/// Reads texts into sets of shingle hashes, reusing its memory.
pub(crate) struct Shingler {
    /// At least 1.
    length: usize,
    words: Words,
}

impl Shingler {
    pub(crate) fn new(length: usize) -> Self {
        Self { length, words: Words::new() }
    }

    /// Puts the hashes of the different shingles of `text`, ascending, in place of what `shingles` held. Returns the
    /// hash of all words.
    ///
    /// 64 bits: among the 20 million shingles of a million short texts, the chance that any two share a hash is 1e-5.
    pub(crate) fn read(&mut self, text: &str, shingles: &mut Vec<u64>) -> u64 {
        self.words.read(text);
        let all = hash(self.words.text());
        shingles.clear();
        if (1..=self.length).contains(&self.words.len()) {
            shingles.push(all);
        } else {
            shingles.extend(self.words.runs(self.length).map(hash));
            shingles.sort_unstable();
            shingles.dedup();
        }
        all
    }
}

/// A text as what is compared of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShingleSet<'a> {
    /// Ascending, without repetition; empty for a text without words.
    pub(crate) shingles: &'a [u64],
    /// Hash of all words.
    pub(crate) text: u64,
}

impl ShingleSet<'_> {
    /// The Jaccard index: shingles of both, over shingles of either.
    pub(crate) fn similarity(self, other: Self) -> f64 {
        let either = self.shingles.len() + other.shingles.len();
        if either == 0 {
            return 1.0;
        }
        let shared = shared(self.shingles, other.shingles);
        shared as f64 / (either - shared) as f64
    }

    /// [`ShingleSet::similarity`] if it reaches `threshold`; sizes that rule it out are not compared.
    pub(crate) fn similarity_from(self, other: Self, threshold: f64) -> Option<f64> {
        let (less, more) =
            (self.shingles.len().min(other.shingles.len()), self.shingles.len().max(other.shingles.len()));
        // The index is at most less / more, and rounding keeps that order.
        if more > 0 && (less as f64 / more as f64) < threshold {
            return None;
        }
        let similarity = self.similarity(other);
        (similarity >= threshold).then_some(similarity)
    }

    /// Whether both have the same words in the same order.
    pub(crate) fn is_same_text(self, other: Self) -> bool {
        self.text == other.text && self.shingles == other.shingles
    }
}

/// How many elements two ascending lists share.
fn shared(left: &[u64], right: &[u64]) -> usize {
    let (mut from_left, mut from_right, mut shared) = (0, 0, 0);
    while from_left < left.len() && from_right < right.len() {
        let (first, second) = (left[from_left], right[from_right]);
        // Without branches: which comes first is a coin toss.
        from_left += usize::from(first <= second);
        from_right += usize::from(second <= first);
        shared += usize::from(first == second);
    }
    shared
}

/// The sets of many texts in one piece of memory: 8 bytes per shingle and 16 per text.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShingleSets {
    shingles: Vec<u64>,
    /// Where each text's shingles end.
    ends: Vec<usize>,
    texts: Vec<u64>,
}

impl ShingleSets {
    pub(crate) fn push(&mut self, set: ShingleSet) {
        self.shingles.extend_from_slice(set.shingles);
        self.ends.push(self.shingles.len());
        self.texts.push(set.text);
    }

    pub(crate) fn append(&mut self, other: &Self) {
        let offset = self.shingles.len();
        self.shingles.extend_from_slice(&other.shingles);
        self.ends.extend(other.ends.iter().map(|end| end + offset));
        self.texts.extend_from_slice(&other.texts);
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, text: usize) -> ShingleSet<'_> {
        let begin = text.checked_sub(1).map_or(0, |before| self.ends[before]);
        ShingleSet { shingles: &self.shingles[begin..self.ends[text]], text: self.texts[text] }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<u64>() * (self.shingles.capacity() + self.texts.capacity())
            + size_of::<usize>() * self.ends.capacity()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hashes_are_those_of_the_published_function() {
        // From the reference implementation: `xxhash.xxh3_64_intdigest("the old keeper")`.
        assert_eq!(hash("the old keeper"), XXH3_OF_THE_OLD_KEEPER);
    }

    const XXH3_OF_THE_OLD_KEEPER: u64 = 17_113_864_712_757_720_946;

    #[test]
    fn short_texts_are_one_shingle() {
        let mut shingler = Shingler::new(3);
        let mut count = |text| {
            let mut shingles = vec![7];
            shingler.read(text, &mut shingles);
            shingles.len()
        };
        assert_eq!(count(""), 0);
        assert_eq!(count("one"), 1);
        assert_eq!(count("one two three"), 1);
        assert_eq!(count("one two three four"), 2);
        assert_eq!(count("a a a a a a"), 1);
    }

    proptest! {
        #[test]
        fn similarity_is_that_of_the_sets(left in proptest::collection::btree_set(0_u64..20, 0..15), right in proptest::collection::btree_set(0_u64..20, 0..15), threshold in 0.2_f64..=1.0) {
            let lists = [&left, &right].map(|set| set.iter().copied().collect::<Vec<u64>>());
            let [first, second] = [&lists[0], &lists[1]].map(|shingles| ShingleSet { shingles, text: 0 });
            let union: BTreeSet<&u64> = left.union(&right).collect();
            let expected =
                if union.is_empty() { 1.0 } else { left.intersection(&right).count() as f64 / union.len() as f64 };
            prop_assert_eq!(first.similarity(second), expected);
            prop_assert_eq!(second.similarity(first), expected);
            prop_assert_eq!(first.similarity_from(second, threshold), (expected >= threshold).then_some(expected));
        }
    }
}
