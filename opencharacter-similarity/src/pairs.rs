use serde::Serialize;

use crate::{
    Similarity, parallel,
    sketch::{Sketches, min_hash_for},
};

/// Two similar texts, by their places in the list.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pair {
    /// The earlier text.
    pub first: usize,
    /// The later text.
    pub second: usize,
    /// The Jaccard index of their shingles.
    pub similarity: f64,
}

impl Similarity {
    /// All pairs of similar texts, ordered by their places. Computed on all cores.
    ///
    /// There can be as many pairs as texts squared: of a thousand copies, half a million.
    pub fn pairs<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Pair> {
        self.pairs_on(texts, parallel::threads())
    }

    pub(crate) fn pairs_on<T: AsRef<str> + Sync>(&self, texts: &[T], threads: usize) -> Vec<Pair> {
        let min_hash = min_hash_for(*self);
        let sketches = Sketches::of(texts, *self, &min_hash, threads);
        let bands: Vec<usize> = (0..min_hash.bands()).collect();
        let found = parallel::by_pieces(&bands, threads, |bands| {
            let mut pairs = Vec::new();
            for &band in bands {
                for_each_candidate(&sketches, band, |first, second| {
                    if let Some(similarity) = self.confirm(&sketches, first, second) {
                        pairs.push(Pair { first, second, similarity });
                    }
                });
            }
            pairs
        });
        let mut pairs = found.concat();
        pairs.sort_unstable_by_key(|pair| (pair.first, pair.second));
        pairs
    }

    /// The similarity of two texts, if it reaches the threshold.
    pub(crate) fn confirm(&self, sketches: &Sketches, first: usize, second: usize) -> Option<f64> {
        sketches.sets.get(first).similarity_from(sketches.sets.get(second), self.threshold())
    }
}

/// Calls `visit(earlier, later)` for each pair of texts whose keys agree in `band` and in no band before it.
pub(crate) fn for_each_candidate(sketches: &Sketches, band: usize, mut visit: impl FnMut(usize, usize)) {
    let mut keyed: Vec<(u32, u32)> = (0..sketches.len()).map(|text| (sketches.keys(text)[band], text as u32)).collect();
    keyed.sort_unstable();
    for same_key in keyed.chunk_by(|left, right| left.0 == right.0) {
        for (place, &(_, second)) in same_key.iter().enumerate() {
            let second_before = &sketches.keys(second as usize)[..band];
            for &(_, first) in &same_key[..place] {
                let first_before = &sketches.keys(first as usize)[..band];
                if first_before.iter().zip(second_before).all(|(left, right)| left != right) {
                    visit(first as usize, second as usize);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn threads_change_nothing(texts in proptest::collection::vec("[ab]( [abc]){0,6}", 0..40), threads in 2_usize..6) {
            let similarity = Similarity::new(2, 0.6).unwrap();
            prop_assert_eq!(similarity.pairs_on(&texts, 1), similarity.pairs_on(&texts, threads));
            prop_assert_eq!(similarity.clusters_on(&texts, 1), similarity.clusters_on(&texts, threads));
        }
    }
}
