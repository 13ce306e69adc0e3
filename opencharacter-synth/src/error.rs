use std::{io, path::PathBuf};

use opencharacter_core::{GenerateError, PromptError};
use opencharacter_ledger::LedgerError;
use opencharacter_tables::TableError;

/// What can go wrong in synthesis, each with the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// A file cannot be opened or read.
    #[error("cannot read `{path}`: {source}. Check that it exists and that you may read it", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of rows cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A file holds no rows at all.
    #[error("`{location}` is empty: expected at least one {unit}")]
    Empty {
        /// The file.
        location: String,
        /// `line` or `row`.
        unit: &'static str,
    },
    /// A filter left no row.
    #[error("`{location}` holds no row for which the filter is true")]
    NothingSelected {
        /// The file.
        location: String,
    },
    /// A line (of JSON Lines or text) or row (of another format) cannot be used.
    #[error("`{location}`, {unit} {line}: {reason}. `--on-error skip` skips such {unit}s")]
    Row {
        /// The file.
        location: String,
        /// `line` or `row`.
        unit: &'static str,
        /// Its number, from 1.
        line: usize,
        /// What is wrong and what was expected, with the field where one is to blame.
        reason: String,
    },
    /// `--on-error skip` left nothing.
    #[error("`{location}`: all {count} {unit}s were skipped; the first, {unit} {line}: {reason}")]
    NothingUsable {
        /// The file.
        location: String,
        /// `line` or `row`.
        unit: &'static str,
        /// How many were skipped.
        count: usize,
        /// The first one's number, from 1.
        line: usize,
        /// Why the first one was skipped.
        reason: String,
    },
    /// A file cannot be written. What was at its path before is still there, whole.
    #[error(
        "cannot write `{path}`: {source}. Nothing was left half-written; free space or choose a writable directory and run again",
        path = path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The ledger cannot record or be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Results that wait for their turn cannot be put aside.
    #[error(
        "cannot use a temporary file in `{folder}`: {0}. Free space there, or name another folder in `TMPDIR`; what was answered is in the ledger, run the same command again to resume",
        folder = std::env::temp_dir().display()
    )]
    Spool(#[source] io::Error),
    /// A prompt template cannot be rendered.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A file in the templates' directory has a name that means nothing.
    #[error("`{path}` is not a template: expected one of {known}. Rename or remove it", path = path.display())]
    UnknownTemplate {
        /// The file.
        path: PathBuf,
        /// The names that mean something, in backticks.
        known: String,
    },
    /// An option that cannot work.
    #[error("{option}: {reason}")]
    Option {
        /// The option, in backticks where it is a name.
        option: &'static str,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The model is gone or cannot do what the stage needs.
    #[error(
        "{stage} stopped after {done} of {total} items: {source}. What was answered is in the ledger; run the same command again to resume"
    )]
    Stopped {
        /// The stage.
        stage: &'static str,
        /// Items finished.
        done: usize,
        /// Items in all.
        total: usize,
        /// What the model said.
        source: GenerateError,
    },
}
