//! What is wrong with rows, or with many of them together: to be looked at, counted, and left out.
//!
//! Most are functions of rows in memory: [`AnswerRules`] judges one answer; [`Diversity`] counts what characters
//! are; [`duplicate_characters`] and [`duplicate_dialogues`] say which rows repeat another; [`hold_out_clusters`] sets
//! characters apart with all that resemble them; [`Decontamination`] finds rows that overlap with a benchmark;
//! [`filter_dialogues`] passes dialogues on, one by one, that the rules and a judge find well. Nothing here changes a row.

mod clusters;
mod decontaminate;
mod diversity;
mod duplicates;
mod faults;
mod filter;
mod language;

pub use clusters::{HeldOutClusters, hold_out_clusters};
pub use decontaminate::{Decontamination, OverlappingRow, ReferenceFile};
pub use diversity::{AgeSpread, Diversity, Share, Skew, Trait, TraitDiversity};
pub use duplicates::{
    CharacterText, DialogueText, DuplicateRow, duplicate_characters, duplicate_dialogues, duplicate_rows,
};
pub use faults::{AnswerRule, AnswerRules, Fault, JudgedAnswer};
pub use filter::{FilterOptions, JUDGEMENTS, filter_dialogues};
pub use language::{Language, language_of};
