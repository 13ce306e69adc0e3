use std::{io, path::PathBuf};

use opencharacter_core::{GenerateError, PromptError};
use opencharacter_ledger::LedgerError;

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
    /// A file holds no rows at all.
    #[error("`{path}` is empty: expected at least one {unit}", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// `line` or `row`.
        unit: &'static str,
    },
    /// A line (of JSON Lines or text) or row (of a JSON array) cannot be used.
    #[error("`{path}`, {unit} {line}: {reason}. `--on-error skip` skips such {unit}s", path = path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// `line` or `row`.
        unit: &'static str,
        /// Its number, from 1.
        line: usize,
        /// What is wrong and what was expected, with the field where one is to blame.
        reason: String,
    },
    /// A file that should hold one JSON array does not.
    #[error(
        "`{path}` is not a JSON array of objects: {reason}. A file with one object per line is read if its name ends in `.jsonl`",
        path = path.display()
    )]
    NotAnArray {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// `--on-error skip` left nothing.
    #[error("`{path}`: all {count} {unit}s were skipped; the first, {unit} {line}: {reason}", path = path.display())]
    NothingUsable {
        /// The file.
        path: PathBuf,
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
