//! Synthesis: personas become characters, characters and instructions become dialogues.
//!
//! A file of personas or instructions is a [`Source`], which knows the formats of the public data sets and names line and
//! field of what cannot be used. [`synthesize_profiles`] and
//! [`synthesize_dialogues`] then call a teacher through [`opencharacter_ledger::LedgeredModel`].
//!
//! The one decision that shapes this crate: **every call goes through the [`opencharacter_ledger::Ledger`]**, keyed by what was asked and
//! of whom. A killed run is resumed by running it again; recorded answers are checked again, not asked for again, so
//! a changed rule takes effect without a call. A failed call is recorded too, but never becomes a row.
//!
//! ```no_run
//! # async fn example(teacher: &dyn opencharacter_core::Generate) -> Result<(), opencharacter_synth::SynthError> {
//! use std::path::Path;
//!
//! use opencharacter_ledger::{Ledger, LedgeredModel};
//! use opencharacter_synth::{
//!     Collected, ProfileOptions, Templates, Source, Work, in_memory, synthesize_profiles, write_jsonl_atomic,
//! };
//! let personas = Source::new(Path::new("personas.jsonl")).read().await?;
//! let ledger = Ledger::open("run/ledger")?;
//! let work = Work::new(LedgeredModel::new(teacher, &ledger), &|_| ());
//! let (options, templates) = (ProfileOptions::default(), Templates::default());
//! let mut made = Collected::default();
//! let summary = synthesize_profiles(in_memory(personas.rows), &options, &templates, work, &mut made).await?;
//! println!("{} characters, {} given up", summary.accepted, summary.rejected);
//! write_jsonl_atomic("run/characters.jsonl", &made.rows)?;
//! # Ok(())
//! # }
//! ```

mod answer;
mod budget;
mod card_texts;
mod dialogue;
mod distinct_names;
mod error;
mod facts;
mod import;
mod pairs;
mod profile;
pub mod quality;
mod question;
mod release;
mod reorder;
mod source;
mod templates;
mod text;
mod value;
mod work;
mod write;

pub use answer::break_of_character;
pub use budget::{Budget, Prices};
pub use card_texts::{CARD_TEXTS, CardTexts, write_card_texts};
pub use dialogue::{Cast, DIALOGUES, DialogueOptions, synthesize_dialogues};
pub use distinct_names::{TakenNames, synthesize_distinct_profiles};
pub use error::SynthError;
pub use facts::PersonaFacts;
pub use import::ImportedDialogue;
pub use pairs::{PairedDialogues, pair_dialogues};
pub use profile::{PROFILES, ProfileOptions, check_profile, profile_schema, synthesize_profiles};
pub use question::{QUESTIONS, QuestionOptions, synthesize_questions};
pub use release::{DialogueFormat, is_research_only, llama_factory_info, paper_character};
pub use source::{FromRow, OnError, Read, RowPlace, Rows, SkippedRow, Source};
pub use templates::Templates;
pub use text::{repeats_itself, trim_to_sentence};
pub use work::{
    Collected, Progress, ProgressEvent, RejectedItem, Sink, Summary, Work, WorkError, Worked, in_memory, work_unordered,
};
pub use write::write_jsonl_atomic;
