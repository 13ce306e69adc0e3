use super::{Parse, Parsed, Pending, object_of, text_start};

/// One row per element of a JSON array, without ever holding more than one of them.
#[derive(Debug)]
pub(crate) struct ElementParser {
    state: State,
    /// Of the element, from 1.
    number: usize,
    /// Of the file, from 1.
    line: usize,
    /// Where the element begins.
    first_line: usize,
    pending: Pending,
    started: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the array.
    Before,
    /// Between `[` or `,` and the next value.
    Gap,
    /// In an element, so many brackets deep.
    Element { depth: usize },
    /// In a string of an element.
    Text { depth: usize },
    /// In a string, after a backslash.
    Escape { depth: usize },
    /// After the array.
    After,
}

impl ElementParser {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: State::Before, number: 1, line: 1, first_line: 1, pending: Pending::new(limit), started: false }
    }

    /// An element ends with `bytes`.
    fn end_element(&mut self, bytes: &[u8], rows: &mut Vec<Parsed>) {
        self.add(bytes, rows);
        if !self.pending.over {
            rows.push((self.number, object_of(self.pending.bytes.trim_ascii_end(), Some(self.first_line))));
        }
        self.pending.clear();
        self.number += 1;
    }

    fn add(&mut self, bytes: &[u8], rows: &mut Vec<Parsed>) {
        if self.pending.push(bytes) {
            rows.push((self.number, Err(self.pending.too_long())));
        }
    }

    /// The state after `byte`.
    #[expect(clippy::match_same_arms, reason = "the table of transitions is read line by line")]
    fn next(&self, byte: u8) -> Result<State, String> {
        let line = self.line;
        Ok(match (self.state, byte) {
            (state @ (State::Before | State::Gap | State::After), b' ' | b'\t' | b'\r' | b'\n') => state,
            (State::Before, b'[') => State::Gap,
            (State::Before, _) => {
                return Err(format!(
                    "expected an array of objects (`[`) on line {line}, found `{}`; a file with one object per line is \
                     named `.jsonl`",
                    char::from(byte).escape_default()
                ));
            }
            (State::Gap, b']') if self.number == 1 => State::After,
            (State::Gap, b',' | b']') => {
                return Err(format!("row {} is missing: found `{}` on line {line}", self.number, char::from(byte)));
            }
            (State::After, _) => return Err(format!("text follows the array's end on line {line}")),
            (State::Element { depth: 0 }, b',') => State::Gap,
            (State::Element { depth: 0 }, b']') => State::After,
            (State::Gap, b'"') => State::Text { depth: 0 },
            (State::Gap, b'[' | b'{') => State::Element { depth: 1 },
            (State::Gap, _) => State::Element { depth: 0 },
            (State::Element { depth }, b'"') => State::Text { depth },
            (State::Element { depth }, b'[' | b'{') => State::Element { depth: depth + 1 },
            (State::Element { depth }, b']' | b'}') => State::Element { depth: depth.saturating_sub(1) },
            (State::Text { depth }, b'"') => State::Element { depth },
            (State::Text { depth }, b'\\') => State::Escape { depth },
            (State::Escape { depth }, _) => State::Text { depth },
            (state @ (State::Element { .. } | State::Text { .. }), _) => state,
        })
    }
}

impl Parse for ElementParser {
    fn feed(&mut self, mut bytes: &[u8], rows: &mut Vec<Parsed>) -> Result<(), String> {
        if !self.started {
            bytes = text_start(bytes)?;
            self.started = true;
        }
        let mut start = 0;
        for (index, &byte) in bytes.iter().enumerate() {
            let next = self.next(byte)?;
            match (self.state, next) {
                (State::Gap, State::Element { .. } | State::Text { .. }) => {
                    start = index;
                    self.first_line = self.line;
                }
                (State::Element { .. }, State::Gap | State::After) => self.end_element(&bytes[start..index], rows),
                _ => {}
            }
            self.line += usize::from(byte == b'\n');
            self.state = next;
        }
        if matches!(self.state, State::Element { .. } | State::Text { .. } | State::Escape { .. }) {
            self.add(&bytes[start..], rows);
        }
        Ok(())
    }

    fn finish(&mut self, _rows: &mut Vec<Parsed>) -> Result<(), String> {
        match self.state {
            State::Before | State::After => Ok(()),
            State::Gap => Err(format!("the array ends after {} rows without `]`: is it cut off?", self.number - 1)),
            _ => Err(format!(
                "row {}, which begins on line {}, has no end: is the file cut off, or a quote or bracket not closed?",
                self.number, self.first_line
            )),
        }
    }
}
