//! Synthesis: personas become characters, characters and instructions become dialogues.
//!
//! A file of personas or instructions is read by [`read_personas`] and its siblings, which know the formats of the
//! public data sets and name line and field of what they cannot use. [`synthesize_profiles`] and
//! [`synthesize_dialogues`] then call a teacher through [`opencharacter_ledger::LedgeredModel`].
//!
//! The one decision that shapes this crate: **every call goes through the [`opencharacter_ledger::Ledger`]**, keyed by what was asked and
//! of whom. A killed run is resumed by running it again; recorded answers are checked again, not asked for again, so
//! a changed rule takes effect without a call. A failed call is recorded too, but never becomes a row.
//!
//! ```no_run
//! # async fn example(teacher: &dyn opencharacter_core::Generate) -> Result<(), opencharacter_synth::SynthError> {
//! use opencharacter_ledger::{Ledger, LedgeredModel};
//! use opencharacter_synth::{
//!     OnError, ProfileOptions, Templates, read_personas, synthesize_profiles,
//!     write_jsonl_atomic,
//! };
//! let personas = read_personas("personas.jsonl".as_ref(), OnError::Fail)?;
//! let ledger = Ledger::open("run/ledger")?;
//! let model = LedgeredModel { model: teacher, ledger: &ledger };
//! let made =
//!     synthesize_profiles(&personas.rows, &ProfileOptions::default(), &Templates::default(), model, &|_| ()).await?;
//! write_jsonl_atomic("run/characters.jsonl", &made.rows)?;
//! # Ok(())
//! # }
//! ```

mod answer;
mod dialogue;
mod error;
mod facts;
mod import;
mod pairs;
mod profile;
pub mod quality;
mod read;
mod templates;
mod text;
mod work;

pub use answer::break_of_character;
pub use dialogue::{DIALOGUES, DialogueOptions, plan_dialogues, synthesize_dialogues};
pub use error::SynthError;
pub use facts::PersonaFacts;
pub use import::{Imported, read_characters, read_dialogues, read_instructions, read_pairs, read_personas};
pub use pairs::{PairedDialogues, pair_dialogues};
pub use profile::{PROFILES, ProfileOptions, check_profile, profile_schema, synthesize_profiles};
pub use read::{OnError, Rows, SkippedRow, read_rows, write_jsonl_atomic};
pub use templates::Templates;
pub use text::{repeats_itself, trim_to_sentence};
pub use work::{Progress, ProgressEvent, RejectedItem, Synthesis, Worked, work_unordered};
