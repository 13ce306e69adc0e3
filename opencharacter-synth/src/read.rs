//! Files of rows, read with line numbers and written whole or not at all.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
};

use opencharacter_storage::AtomicFile;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::SynthError;

/// What to do with a line that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// Stop at the first one with an error.
    #[default]
    Fail,
    /// Leave it out and report it.
    Skip,
}

/// The usable rows of a file, and what was left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T> {
    /// In the file's order.
    pub rows: Vec<T>,
    /// Lines left out: bad ones under [`OnError::Skip`], and duplicates always.
    pub skipped: Vec<SkippedRow>,
}

/// A line that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedRow {
    /// Its number from 1 (of a `.json` file: the row's).
    pub line: usize,
    /// Why.
    pub reason: String,
}

/// Why a row is not taken.
pub(crate) enum RowFault {
    /// It cannot be used: the [`OnError`] rule applies.
    Bad(String),
    /// It was seen before: left out and reported whatever the rule.
    Duplicate(String),
}

impl From<String> for RowFault {
    fn from(reason: String) -> Self {
        Self::Bad(reason)
    }
}

/// Reads a file of `T`: one JSON object per line, or one array of objects if the name ends in `.json`.
///
/// Blank lines, a byte order mark and carriage returns are ignored.
///
/// # Errors
/// [`SynthError::Read`], [`SynthError::Empty`], [`SynthError::Row`] (under [`OnError::Fail`]),
/// [`SynthError::NotAnArray`], [`SynthError::NothingUsable`].
pub fn read_rows<T: DeserializeOwned>(path: &Path, on_error: OnError) -> Result<Rows<T>, SynthError> {
    read_values(path, on_error, |_, value| Ok(from_value(&value)?))
}

/// [`read_rows`] with a conversion of one's own, which gets the line's (or row's) number too.
pub(crate) fn read_values<T>(
    path: &Path,
    on_error: OnError,
    mut convert: impl FnMut(usize, Value) -> Result<T, RowFault>,
) -> Result<Rows<T>, SynthError> {
    if holds_an_array(path) {
        return read_array(path, on_error, convert);
    }
    read_lines(path, on_error, |number, line| {
        let value = serde_json::from_str(line).map_err(|error| json_fault(&error))?;
        convert(number, value)
    })
}

fn holds_an_array(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// What the rows of a file are numbered by.
pub(crate) fn unit_of(path: &Path) -> &'static str {
    if holds_an_array(path) { "row" } else { "line" }
}

/// Reads a file line by line, blank lines left out.
pub(crate) fn read_lines<T>(
    path: &Path,
    on_error: OnError,
    mut convert: impl FnMut(usize, &str) -> Result<T, RowFault>,
) -> Result<Rows<T>, SynthError> {
    let failed = |source| SynthError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut gathered = Gathered::new(path, on_error);
    let mut bytes = Vec::new();
    for number in 1_usize.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
            break;
        }
        let start = if number == 1 && bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let line = bytes[start..].trim_ascii();
        if line.is_empty() {
            continue;
        }
        let row = std::str::from_utf8(line)
            .map_err(|error| {
                RowFault::Bad(format!(
                    "not valid UTF-8 at byte {} of the line: expected UTF-8 text",
                    error.valid_up_to() + 1
                ))
            })
            .and_then(|line| convert(number, line));
        gathered.add(number, row)?;
    }
    gathered.finish()
}

fn read_array<T>(
    path: &Path,
    on_error: OnError,
    mut convert: impl FnMut(usize, Value) -> Result<T, RowFault>,
) -> Result<Rows<T>, SynthError> {
    let bytes = fs::read(path).map_err(|source| SynthError::Read { path: path.to_owned(), source })?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let mut gathered = Gathered::new(path, on_error);
    if bytes.trim_ascii().is_empty() {
        return gathered.finish();
    }
    let not_an_array = |reason| SynthError::NotAnArray { path: path.to_owned(), reason };
    let value: Value = serde_json::from_slice(bytes).map_err(|error| not_an_array(error.to_string()))?;
    let Value::Array(values) = value else {
        return Err(not_an_array(format!("found {}", kind_of(&value))));
    };
    for (index, value) in values.into_iter().enumerate() {
        let row = convert(index + 1, value);
        gathered.add(index + 1, row)?;
    }
    gathered.finish()
}

/// Rows as they come in, under one rule for bad ones.
struct Gathered<'a, T> {
    path: &'a Path,
    unit: &'static str,
    on_error: OnError,
    rows: Rows<T>,
}

impl<'a, T> Gathered<'a, T> {
    fn new(path: &'a Path, on_error: OnError) -> Self {
        Self { path, unit: unit_of(path), on_error, rows: Rows { rows: Vec::new(), skipped: Vec::new() } }
    }

    fn add(&mut self, line: usize, row: Result<T, RowFault>) -> Result<(), SynthError> {
        match row {
            Ok(row) => self.rows.rows.push(row),
            Err(RowFault::Bad(reason)) if self.on_error == OnError::Fail => {
                return Err(SynthError::Row { path: self.path.to_owned(), unit: self.unit, line, reason });
            }
            Err(RowFault::Bad(reason) | RowFault::Duplicate(reason)) => {
                self.rows.skipped.push(SkippedRow { line, reason });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Rows<T>, SynthError> {
        if !self.rows.rows.is_empty() {
            return Ok(self.rows);
        }
        let (path, unit) = (self.path.to_owned(), self.unit);
        let count = self.rows.skipped.len();
        Err(match self.rows.skipped.into_iter().next() {
            None => SynthError::Empty { path, unit },
            Some(first) => SynthError::NothingUsable { path, unit, count, line: first.line, reason: first.reason },
        })
    }
}

/// `value` as a `T`, or a reason that names the field to blame.
pub(crate) fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| {
        let message = error.to_string();
        let Value::Object(row) = value else {
            return format!("expected a JSON object, found {}", kind_of(value));
        };
        // serde does not say where a type is wrong. The field to blame is the one without which the complaint differs.
        let to_blame = row.keys().find(|&key| {
            let mut without = row.clone();
            without.shift_remove(key);
            T::deserialize(&Value::Object(without)).err().is_none_or(|other| other.to_string() != message)
        });
        match to_blame {
            Some(key) if !message.contains(&format!("`{key}`")) => format!("field `{key}`: {message}"),
            _ => message,
        }
    })
}

fn json_fault(error: &serde_json::Error) -> RowFault {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    RowFault::Bad(format!("not valid JSON at column {}: {message}; expected one whole JSON object", error.column()))
}

/// What `value` is, for a message.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Writes `rows` as JSON Lines: to a temporary file beside `path`, synced, then renamed over it.
///
/// Whatever goes wrong, `path` holds either its old content or the new one, whole.
///
/// # Errors
/// [`SynthError::Write`]: a full disk, a read-only or missing directory, a row that is no JSON.
pub fn write_jsonl_atomic<'a, T: Serialize + 'a>(
    path: impl AsRef<Path>,
    rows: impl IntoIterator<Item = &'a T>,
) -> Result<(), SynthError> {
    let path = path.as_ref();
    let write = || {
        let mut file = AtomicFile::create(path)?;
        for row in rows {
            serde_json::to_writer(&mut file, row)?;
            file.write_all(b"\n")?;
        }
        file.commit()
    };
    write().map_err(|source| SynthError::Write { path: path.to_owned(), source })
}
