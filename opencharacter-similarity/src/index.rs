use serde::Serialize;

use crate::{
    Similarity,
    band_table::BandTable,
    min_hash::MinHash,
    parallel,
    shingles::ShingleSets,
    sketch::{Sketch, Sketches, min_hash_for},
};

/// Keeps the first of similar texts: each text that comes is either new, or a near-duplicate of one that is kept.
///
/// Of `a`, `b` similar to `a`, and `c` similar to `b` but not to `a`, it keeps `a` and `c`: nothing is dropped for
/// resembling what was itself dropped.
///
/// Memory per kept text: 8 bytes for each different shingle, and 11 to 16 for each of 27 bands (at the threshold of
/// 0.8; up to 64 bands at others). A million kept texts of 20 words are some 0.5 GB, measured by [`Index::bytes`].
/// Dropped texts take none. An index holds up to 2^32 - 1 texts.
pub struct Index {
    similarity: Similarity,
    min_hash: MinHash,
    kept: ShingleSets,
    /// Which of all texts that came each kept one was.
    numbers: Vec<u32>,
    tables: Vec<BandTable>,
    came: usize,
}

/// What a text is a near-duplicate of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Duplicate {
    /// The kept text that it resembles most, counting from 0 all texts that came; of equals, the first.
    pub of: usize,
    /// The Jaccard index of the two texts' shingles.
    pub similarity: f64,
    /// Whether both have the very same words in the same order.
    pub exact: bool,
}

/// Texts whose sketches are computed before they are compared: bounds memory and keeps all threads busy.
const BATCH: usize = 1 << 15;

impl Index {
    /// An index without texts.
    pub fn new(similarity: Similarity) -> Self {
        let min_hash = min_hash_for(similarity);
        let tables = vec![BandTable::default(); min_hash.bands()];
        Self { similarity, min_hash, kept: ShingleSets::default(), numbers: Vec::new(), tables, came: 0 }
    }

    /// Keeps `text`, or says of which kept text it is a near-duplicate.
    pub fn insert(&mut self, text: &str) -> Option<Duplicate> {
        let sketches = self.sketches(&[text], 1);
        self.insert_sketch(sketches.get(0))
    }

    /// [`Index::insert`] for each of `texts` in their order, computing on all cores.
    pub fn insert_all<T: AsRef<str> + Sync>(&mut self, texts: &[T]) -> Vec<Option<Duplicate>> {
        self.insert_all_on(texts, parallel::threads())
    }

    fn insert_all_on<T: AsRef<str> + Sync>(&mut self, texts: &[T], threads: usize) -> Vec<Option<Duplicate>> {
        let mut found = Vec::with_capacity(texts.len());
        for batch in texts.chunks(BATCH) {
            let sketches = self.sketches(batch, threads);
            found.extend((0..sketches.len()).map(|text| self.insert_sketch(sketches.get(text))));
        }
        found
    }

    /// The kept text that `text` resembles most, if any reaches the threshold.
    pub fn most_similar(&self, text: &str) -> Option<Duplicate> {
        self.most_similar_sketch(self.sketches(&[text], 1).get(0))
    }

    /// How many texts are kept.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// The memory that the kept texts take, in bytes.
    pub fn bytes(&self) -> usize {
        self.kept.bytes()
            + size_of::<u32>() * self.numbers.capacity()
            + self.tables.iter().map(BandTable::bytes).sum::<usize>()
    }

    /// The similarity of `text` to the kept text at `place`.
    pub(crate) fn similarity_to(&self, place: usize, text: &str) -> f64 {
        self.kept.get(place).similarity(self.sketches(&[text], 1).get(0).set)
    }

    fn sketches<T: AsRef<str> + Sync>(&self, texts: &[T], threads: usize) -> Sketches {
        Sketches::of(texts, self.similarity, &self.min_hash, threads)
    }

    fn insert_sketch(&mut self, sketch: Sketch) -> Option<Duplicate> {
        let duplicate = self.most_similar_sketch(sketch);
        if duplicate.is_none() {
            self.keep(sketch);
        } else {
            self.came += 1;
        }
        duplicate
    }

    /// Keeps a text whether or not it is a near-duplicate.
    pub(crate) fn keep_all<T: AsRef<str> + Sync>(&mut self, texts: &[T]) {
        for batch in texts.chunks(BATCH) {
            let sketches = self.sketches(batch, parallel::threads());
            (0..sketches.len()).for_each(|text| self.keep(sketches.get(text)));
        }
    }

    fn keep(&mut self, sketch: Sketch) {
        let place = self.kept.len() as u32;
        self.kept.push(sketch.set);
        self.numbers.push(self.came as u32);
        for (table, &key) in self.tables.iter_mut().zip(sketch.keys) {
            table.insert(key, place);
        }
        self.came += 1;
    }

    fn most_similar_sketch(&self, sketch: Sketch) -> Option<Duplicate> {
        let mut candidates: Vec<u32> =
            self.tables.iter().zip(sketch.keys).flat_map(|(table, &key)| table.texts(key)).collect();
        candidates.sort_unstable();
        candidates.dedup();
        let mut best: Option<Duplicate> = None;
        for place in candidates {
            let other = self.kept.get(place as usize);
            let Some(similarity) = other.similarity_from(sketch.set, self.similarity.threshold()) else { continue };
            let found = Duplicate {
                of: self.numbers[place as usize] as usize,
                similarity,
                exact: other.is_same_text(sketch.set),
            };
            if best.is_none_or(|best| (found.similarity, found.exact) > (best.similarity, best.exact)) {
                best = Some(found);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn threads_and_batches_change_nothing(texts in proptest::collection::vec("[ab]( [abc]){0,6}", 0..40), threads in 2_usize..5) {
            let similarity = Similarity::new(2, 0.6).unwrap();
            let one_by_one: Vec<Option<Duplicate>> = {
                let mut index = Index::new(similarity);
                texts.iter().map(|text| index.insert(text)).collect()
            };
            prop_assert_eq!(&Index::new(similarity).insert_all_on(&texts, 1), &one_by_one);
            prop_assert_eq!(&Index::new(similarity).insert_all_on(&texts, threads), &one_by_one);
        }
    }
}
