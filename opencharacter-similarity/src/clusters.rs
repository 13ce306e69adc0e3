use std::collections::HashMap;

use crate::{
    Similarity,
    pairs::for_each_candidate,
    parallel,
    sketch::{Sketches, min_hash_for},
};

impl Similarity {
    /// For each text, the place of the first text of its cluster: clusters are what chains of similar texts connect
    /// (single linkage). Computed on all cores.
    ///
    /// Texts of different clusters are never similar, whatever their place; texts of one cluster need not be.
    pub fn clusters<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<usize> {
        self.clusters_on(texts, parallel::threads())
    }

    pub(crate) fn clusters_on<T: AsRef<str> + Sync>(&self, texts: &[T], threads: usize) -> Vec<usize> {
        let (different, place_of) = different_texts(texts);
        let min_hash = min_hash_for(*self);
        let sketches = Sketches::of(&different, *self, &min_hash, threads);
        let bands: Vec<usize> = (0..min_hash.bands()).collect();
        let found = parallel::by_pieces(&bands, threads, |bands| {
            let mut joined = Joined::apart(different.len());
            for &band in bands {
                for_each_candidate(&sketches, band, |first, second| {
                    // Comparing is what costs; texts that are together already need none.
                    if joined.first_of(first) != joined.first_of(second)
                        && self.confirm(&sketches, first, second).is_some()
                    {
                        joined.join(first, second);
                    }
                });
            }
            joined
        });
        let mut joined = Joined::apart(different.len());
        for mut part in found {
            (0..different.len()).for_each(|text| joined.join(text, part.first_of(text)));
        }
        first_places(place_of.into_iter().map(|different| joined.first_of(different)))
    }
}

/// The texts without literal repetition, and which of them each text is.
fn different_texts<T: AsRef<str>>(texts: &[T]) -> (Vec<&str>, Vec<usize>) {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut different = Vec::new();
    let place_of = texts
        .iter()
        .map(|text| {
            *places.entry(text.as_ref()).or_insert_with(|| {
                different.push(text.as_ref());
                different.len() - 1
            })
        })
        .collect();
    (different, place_of)
}

/// Labels replaced by the place where each occurs first.
fn first_places(labels: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut first: HashMap<usize, usize> = HashMap::new();
    labels.enumerate().map(|(place, label)| *first.entry(label).or_insert(place)).collect()
}

/// Disjoint sets of texts (union-find with path halving), each named by its first text.
struct Joined(Vec<usize>);

impl Joined {
    fn apart(texts: usize) -> Self {
        Self((0..texts).collect())
    }

    fn first_of(&mut self, mut text: usize) -> usize {
        while self.0[text] != text {
            self.0[text] = self.0[self.0[text]];
            text = self.0[text];
        }
        text
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.first_of(one), self.first_of(other));
        self.0[one.max(other)] = one.min(other);
    }
}
