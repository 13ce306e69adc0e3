//! Text formats, cut into rows as their bytes come in.

mod csv;
mod elements;
mod lines;

pub(crate) use self::{
    csv::{CellKinds, CsvParser},
    elements::ElementParser,
    lines::{LineContent, LineParser},
};

use serde_json::Value;

use crate::kind::describe;

/// A row may be this long, in bytes. Longer ones are no rows of text, and would have to be held in memory.
pub const LONGEST_ROW: usize = 64 << 20;

/// A row's number and what it holds: an object, or the reason why it cannot be used.
pub(crate) type Parsed = (usize, Result<Value, String>);

/// Cuts bytes into rows. Errors are damage to the file as a whole.
pub(crate) trait Parse: Send {
    /// Takes the next bytes and gives the rows that end in them.
    fn feed(&mut self, bytes: &[u8], rows: &mut Vec<Parsed>) -> Result<(), String>;

    /// There are no more bytes.
    fn finish(&mut self, rows: &mut Vec<Parsed>) -> Result<(), String>;
}

/// Bytes of one row while they come in, never more than the limit.
#[derive(Debug)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    limit: usize,
    over: bool,
}

impl Pending {
    fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, over: false }
    }

    /// Adds bytes; `true` when they are the first past the limit. What was gathered is then dropped.
    fn push(&mut self, bytes: &[u8]) -> bool {
        if self.over {
            return false;
        }
        if self.bytes.len() + bytes.len() > self.limit {
            self.over = true;
            self.bytes = Vec::new();
            return true;
        }
        self.bytes.extend_from_slice(bytes);
        false
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.over
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.over = false;
    }

    fn too_long(&self) -> String {
        too_long(self.limit)
    }
}

fn too_long(limit: usize) -> String {
    format!("longer than {limit} bytes, the most that a row may have")
}

/// One JSON object out of `bytes`. `first_line` is that of an element which may span several lines.
fn object_of(bytes: &[u8], first_line: Option<usize>) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("not valid UTF-8 at byte {} of it: expected UTF-8 text", error.valid_up_to() + 1))?;
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(value) => Err(format!("expected a JSON object, found {}", describe(&value))),
        Err(error) => {
            let line = first_line.map(|first| format!("line {}, ", first + error.line() - 1)).unwrap_or_default();
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message);
            Err(format!("not valid JSON at {line}column {}: {message}; expected one whole JSON object", error.column()))
        }
    }
}

/// What a file is whose first bytes show that it is no text.
fn known_binary(bytes: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 6] = [
        (b"\x1F\x8B", "compressed with gzip; decompress it first"),
        (b"\x28\xB5\x2F\xFD", "compressed with Zstandard; decompress it first"),
        (b"BZh", "compressed with bzip2; decompress it first"),
        (b"PK\x03\x04", "a ZIP archive; unpack it first"),
        (b"PAR1", "a Parquet file; let its name end in `.parquet`"),
        (b"\xFF\xFE", "UTF-16 text; convert it to UTF-8 first"),
    ];
    KNOWN.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, what)| *what)
}

/// Cuts a byte order mark off the first bytes of a file, and refuses what is no text at all.
fn text_start(bytes: &[u8]) -> Result<&[u8], String> {
    if let Some(what) = known_binary(bytes) {
        return Err(format!("it is {what}"));
    }
    Ok(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes))
}
