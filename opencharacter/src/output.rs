use std::{io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Prints one line on standard output.
pub fn line(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}

/// Prints one JSON document in one line.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value).context("cannot be written as JSON")?)
}

/// Writes an indented JSON file, whole or not at all.
pub fn json_file(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("cannot be written as JSON")?;
    text.push('\n');
    file(path, text.as_bytes())
}

/// Writes a file, whole or not at all.
pub fn file(path: &Path, bytes: &[u8]) -> Result<()> {
    opencharacter_nn::atomic_write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}
