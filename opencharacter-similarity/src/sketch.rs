use crate::{
    Similarity,
    min_hash::{Banding, MinHash},
    parallel,
    shingles::{ShingleSet, ShingleSets, Shingler},
};

/// What is kept of texts to find similar ones: their shingle sets and the keys of their bands.
pub(crate) struct Sketches {
    pub(crate) sets: ShingleSets,
    keys: Vec<u32>,
    bands: usize,
}

/// What is kept of one text.
#[derive(Clone, Copy)]
pub(crate) struct Sketch<'a> {
    pub(crate) set: ShingleSet<'a>,
    /// One per band.
    pub(crate) keys: &'a [u32],
}

impl Sketches {
    /// The sketches of `texts`, computed on so many `threads`.
    pub(crate) fn of<T: AsRef<str> + Sync>(
        texts: &[T],
        similarity: Similarity,
        min_hash: &MinHash,
        threads: usize,
    ) -> Self {
        let mut pieces =
            parallel::by_pieces(texts, threads, |piece| Self::of_piece(piece, similarity, min_hash)).into_iter();
        let mut all = pieces.next().unwrap_or_else(|| Self::empty(min_hash));
        for piece in pieces {
            all.sets.append(&piece.sets);
            all.keys.extend_from_slice(&piece.keys);
        }
        all
    }

    fn empty(min_hash: &MinHash) -> Self {
        Self { sets: ShingleSets::default(), keys: Vec::new(), bands: min_hash.bands() }
    }

    fn of_piece<T: AsRef<str>>(texts: &[T], similarity: Similarity, min_hash: &MinHash) -> Self {
        let mut shingler = Shingler::new(similarity.shingle());
        let mut shingles = Vec::new();
        let mut sketches = Self::empty(min_hash);
        for text in texts {
            let text = shingler.read(text.as_ref(), &mut shingles);
            sketches.sets.push(ShingleSet { shingles: &shingles, text });
            min_hash.push_keys(&shingles, &mut sketches.keys);
        }
        sketches
    }

    pub(crate) fn len(&self) -> usize {
        self.sets.len()
    }

    pub(crate) fn get(&self, text: usize) -> Sketch<'_> {
        Sketch { set: self.sets.get(text), keys: self.keys(text) }
    }

    pub(crate) fn keys(&self, text: usize) -> &[u32] {
        &self.keys[text * self.bands..][..self.bands]
    }
}

/// The hash functions for a similarity.
pub(crate) fn min_hash_for(similarity: Similarity) -> MinHash {
    MinHash::new(Banding::for_threshold(similarity.threshold()))
}
