//! Near-duplicate texts: which rows say nearly the same, which belong together, which overlap with a benchmark.
//!
//! Two texts are as similar as the Jaccard index of their word shingles: the runs of `k` words that both have, over
//! those that either has. `MinHash` signatures in bands (Broder, 1997; Leskovec, Rajaraman and Ullman, *Mining of Massive
//! Datasets*, chapter 3) find candidates; each is then confirmed on the whole shingle sets. So nothing is reported that
//! is not similar, the similarities are exact, and a pair at the threshold is missed once in a million
//! ([`Similarity::miss_probability`]).
//!
//! What is compared are words: case, punctuation, spacing, apostrophes and compatible forms of a character (NFKC) make
//! no difference. Han and kana count one word per character; Thai and other scripts without spaces one per run.
//!
//! Results depend on the texts and their order alone, not on machine, run or number of threads.
//!
//! ```
//! use opencharacter_similarity::{Index, Similarity};
//!
//! let mut index = Index::new(Similarity::default());
//! assert_eq!(index.insert("A lighthouse keeper who hates the wide grey sea and loves the small dry library."), None);
//! assert_eq!(index.insert("A baker."), None);
//! let found = index.insert("a lighthouse keeper, who hates the wide grey sea and loves the small dry museum!");
//! let found = found.expect("one word in fifteen is another");
//! assert_eq!((found.of, found.exact), (0, false));
//! assert_eq!(found.similarity, 12.0 / 14.0);
//! ```

mod band_table;
mod clusters;
mod index;
mod min_hash;
mod pairs;
mod parallel;
mod reference;
mod shingles;
mod similarity;
mod sketch;
mod words;

pub use index::{Duplicate, Index};
pub use pairs::Pair;
pub use reference::{Overlap, OverlapKind, Reference};
pub use similarity::{Similarity, SimilarityError};
