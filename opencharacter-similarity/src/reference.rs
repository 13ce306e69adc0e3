use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Duplicate, Index, Similarity, SimilarityError, parallel, shingles::hash, words::Words};

/// Texts that other texts must not overlap with: a benchmark's questions, a test set's personas.
///
/// Besides similar texts it finds benchmark texts quoted in longer ones: by a run of words of the benchmark text, or
/// by the whole of it where it is shorter (Brown et al., *Language Models are Few-Shot Learners*, 2020, appendix C).
/// Texts of fewer than [`Reference::SHORTEST_QUOTED`] words are too common to be quotations; they are found only where
/// a text is similar as a whole.
pub struct Reference {
    index: Index,
    run: usize,
    /// By number of words: hashes of the runs, with the place of the text they come from; ascending.
    runs: BTreeMap<usize, Vec<(u64, u32)>>,
}

/// What a text overlaps with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Overlap {
    /// The place of the reference text in the list.
    pub index: usize,
    /// The Jaccard index of both texts' shingles.
    pub similarity: f64,
    /// In what way they overlap.
    pub kind: OverlapKind,
}

/// In what way a text overlaps with a reference text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlapKind {
    /// The same words in the same order.
    Exact,
    /// As similar as the threshold says, or more.
    Near,
    /// A run of the reference text's words occurs in the text.
    Contains,
}

impl Reference {
    /// Words of a run that is taken for a quotation: GPT-3's greatest N.
    pub const DEFAULT_RUN: usize = 13;
    /// Words of the shortest reference text that is taken for a quotation: GPT-3's least N.
    pub const SHORTEST_QUOTED: usize = 8;

    /// A reference of `texts`, with runs of `run` words, at least 5.
    ///
    /// # Errors
    /// [`SimilarityError::Run`].
    pub fn new<T: AsRef<str> + Sync>(similarity: Similarity, run: usize, texts: &[T]) -> Result<Self, SimilarityError> {
        if run < 5 {
            return Err(SimilarityError::Run(run));
        }
        let mut index = Index::new(similarity);
        index.keep_all(texts);
        Ok(Self { index, run, runs: runs_of(texts, run) })
    }

    /// What `text` overlaps with: an equal text, else the most similar, else the one of which it quotes most runs; of
    /// equals, the first.
    pub fn overlap(&self, text: &str) -> Option<Overlap> {
        let similar = self.index.most_similar(text).map(|Duplicate { of, similarity, exact }| Overlap {
            index: of,
            similarity,
            kind: if exact { OverlapKind::Exact } else { OverlapKind::Near },
        });
        similar.or_else(|| {
            let index = self.quoted_most(text)?;
            Some(Overlap { index, similarity: self.index.similarity_to(index, text), kind: OverlapKind::Contains })
        })
    }

    /// [`Reference::overlap`] of each of `texts`, computed on all cores.
    pub fn overlaps<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Option<Overlap>> {
        let overlaps = |piece: &[T]| piece.iter().map(|text| self.overlap(text.as_ref())).collect::<Vec<_>>();
        parallel::by_pieces(texts, parallel::threads(), overlaps).concat()
    }

    fn quoted_most(&self, text: &str) -> Option<usize> {
        let mut words = Words::new();
        words.read(text);
        let mut quoted: BTreeMap<u32, usize> = BTreeMap::new();
        for (&length, runs) in &self.runs {
            for run in words.runs(length).map(hash) {
                let begin = runs.partition_point(|&(other, _)| other < run);
                for &(_, place) in runs[begin..].iter().take_while(|&&(other, _)| other == run) {
                    *quoted.entry(place).or_default() += 1;
                }
            }
        }
        let most = quoted.values().copied().max()?;
        quoted.into_iter().find(|&(_, count)| count == most).map(|(place, _)| place as usize)
    }

    /// Words of a run.
    pub fn run(&self) -> usize {
        self.run
    }
}

fn runs_of<T: AsRef<str>>(texts: &[T], run: usize) -> BTreeMap<usize, Vec<(u64, u32)>> {
    let mut words = Words::new();
    let mut runs: BTreeMap<usize, Vec<(u64, u32)>> = BTreeMap::new();
    for (place, text) in (0..).zip(texts) {
        words.read(text.as_ref());
        let length = words.len().min(run);
        if length >= Reference::SHORTEST_QUOTED.min(run) {
            runs.entry(length).or_default().extend(words.runs(length).map(|run| (hash(run), place)));
        }
    }
    for of_length in runs.values_mut() {
        of_length.sort_unstable();
        of_length.dedup();
    }
    runs
}
