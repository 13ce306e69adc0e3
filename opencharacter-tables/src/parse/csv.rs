use csv_core::{ReadRecordResult, Reader};
use serde_json::{Map, Number, Value};

use super::{Parse, Parsed, text_start, too_long};

/// A record with more cells is no record.
const MOST_CELLS: usize = 1 << 14;

/// What all cells of a CSV column are. What is not listed is text, and so is everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum CellKind {
    #[default]
    Text,
    Boolean,
    Number,
    /// An array or an object.
    Json,
}

impl CellKind {
    /// The narrowest kind for one cell.
    fn of(cell: &str) -> Self {
        match cell.as_bytes() {
            b"true" | b"false" => Self::Boolean,
            [b'[' | b'{', ..] if serde_json::from_str::<serde::de::IgnoredAny>(cell).is_ok() => Self::Json,
            [b'-' | b'0'..=b'9', .., b'0'..=b'9'] | [b'0'..=b'9'] if number(cell).is_some() => Self::Number,
            _ => Self::Text,
        }
    }

    fn value(self, cell: &str) -> Value {
        let parsed = match self {
            Self::Text => None,
            Self::Boolean => cell.parse().ok().map(Value::Bool),
            Self::Number => number(cell).map(Value::Number),
            Self::Json => serde_json::from_str(cell).ok(),
        };
        parsed.unwrap_or_else(|| Value::from(cell))
    }
}

/// The number that `cell` is in JSON's way of writing; `None` where that would lose digits, as of `007`.
fn number(cell: &str) -> Option<Number> {
    let number: Number = serde_json::from_str(cell).ok()?;
    let whole = !cell.contains(['.', 'e', 'E']);
    (whole != number.is_f64()).then_some(number)
}

/// The kinds of a file's columns, found cell by cell.
#[derive(Debug, Default)]
pub(crate) struct CellKinds(Vec<(String, Option<CellKind>)>);

impl CellKinds {
    /// Takes a row of text cells into account.
    pub(crate) fn add(&mut self, row: &Map<String, Value>) {
        for (name, cell) in row {
            let Some(cell) = cell.as_str() else { continue };
            let index = self.0.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                self.0.push((name.clone(), None));
                self.0.len() - 1
            });
            let kind = &mut self.0[index].1;
            if *kind != Some(CellKind::Text) {
                let this = CellKind::of(cell);
                *kind = Some(if kind.is_none_or(|kind| kind == this) { this } else { CellKind::Text });
            }
        }
    }

    fn get(&self, name: &str) -> CellKind {
        self.0.iter().find(|(known, _)| known == name).and_then(|(_, kind)| *kind).unwrap_or_default()
    }
}

/// One row per record of a CSV file with a header. An empty cell is no value.
pub(crate) struct CsvParser {
    reader: Reader,
    kinds: CellKinds,
    header: Option<Vec<(String, CellKind)>>,
    number: usize,
    limit: usize,
    /// The record's cells without quotes, one after another.
    output: Vec<u8>,
    written: usize,
    /// Where each cell ends in `output`.
    ends: Vec<usize>,
    ended: usize,
    over: bool,
    started: bool,
    /// Whether an odd number of quotes was read so far.
    odd_quotes: bool,
}

impl CsvParser {
    pub(crate) fn new(kinds: CellKinds, limit: usize) -> Self {
        Self {
            reader: Reader::new(),
            kinds,
            header: None,
            number: 1,
            limit,
            output: vec![0; 1 << 12],
            written: 0,
            ends: vec![0; 64],
            ended: 0,
            over: false,
            started: false,
            odd_quotes: false,
        }
    }

    /// Reads on; `true` when the input is used up.
    fn step(&mut self, bytes: &mut &[u8], rows: &mut Vec<Parsed>) -> Result<bool, String> {
        let (result, read, written, ended) =
            self.reader.read_record(bytes, &mut self.output[self.written..], &mut self.ends[self.ended..]);
        *bytes = &bytes[read..];
        self.written += written;
        self.ended += ended;
        match result {
            ReadRecordResult::InputEmpty | ReadRecordResult::End => return Ok(true),
            ReadRecordResult::OutputFull if self.output.len() >= self.limit => {
                self.overflow(too_long(self.limit), rows);
            }
            ReadRecordResult::OutputFull => self.output.resize((2 * self.output.len()).min(self.limit), 0),
            ReadRecordResult::OutputEndsFull if self.ends.len() >= MOST_CELLS => {
                self.overflow(format!("more than {MOST_CELLS} cells"), rows);
            }
            ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
            ReadRecordResult::Record => self.end_record(rows)?,
        }
        Ok(false)
    }

    /// The record is too large: it is reported once, and what else it holds is read over.
    fn overflow(&mut self, reason: String, rows: &mut Vec<Parsed>) {
        if !self.over {
            rows.push((self.number, Err(reason)));
        }
        (self.written, self.ended, self.over) = (0, 0, true);
    }

    fn end_record(&mut self, rows: &mut Vec<Parsed>) -> Result<(), String> {
        match &self.header {
            None if self.over => return Err("its first row is too large to be a header".into()),
            None => self.header = Some(self.header_row()?),
            Some(header) => {
                if !self.over {
                    rows.push((self.number, self.row(header)));
                }
                self.number += 1;
            }
        }
        (self.written, self.ended, self.over) = (0, 0, false);
        Ok(())
    }

    fn cells(&self) -> impl Iterator<Item = &[u8]> {
        let ends = &self.ends[..self.ended];
        (0..ends.len()).map(move |index| {
            let start = if index == 0 { 0 } else { ends[index - 1] };
            &self.output[start..ends[index]]
        })
    }

    fn header_row(&self) -> Result<Vec<(String, CellKind)>, String> {
        let mut header: Vec<(String, CellKind)> = Vec::new();
        for (index, cell) in self.cells().enumerate() {
            let fault = |what: &str| format!("its header: the name of column {} {what}", index + 1);
            let name = std::str::from_utf8(cell).map_err(|_| fault("is not valid UTF-8"))?.trim();
            if name.is_empty() {
                return Err(fault("is empty; every column needs a name in the first row"));
            }
            if header.iter().any(|(known, _)| known == name) {
                return Err(fault(&format!("is `{name}`, as that of another one")));
            }
            header.push((name.to_owned(), self.kinds.get(name)));
        }
        Ok(header)
    }

    fn row(&self, header: &[(String, CellKind)]) -> Result<Value, String> {
        if self.ended != header.len() {
            return Err(format!(
                "expected {} cells as in the header, found {} (the row ends on line {}): is a quote or comma missing?",
                header.len(),
                self.ended,
                self.reader.line()
            ));
        }
        let mut row = Map::new();
        for ((name, kind), cell) in header.iter().zip(self.cells()) {
            let cell = std::str::from_utf8(cell).map_err(|error| {
                format!("column `{name}` is not valid UTF-8 at byte {} of it", error.valid_up_to() + 1)
            })?;
            if !cell.is_empty() {
                row.insert(name.clone(), kind.value(cell));
            }
        }
        Ok(Value::Object(row))
    }
}

impl Parse for CsvParser {
    fn feed(&mut self, mut bytes: &[u8], rows: &mut Vec<Parsed>) -> Result<(), String> {
        if !self.started {
            bytes = text_start(bytes)?;
            self.started = true;
        }
        // One more part than quotes.
        self.odd_quotes ^= bytes.split(|&byte| byte == b'"').count() % 2 == 0;
        // The reader takes empty input for the end.
        while !bytes.is_empty() {
            self.step(&mut bytes, rows)?;
        }
        Ok(())
    }

    fn finish(&mut self, rows: &mut Vec<Parsed>) -> Result<(), String> {
        let before = rows.len();
        while !self.step(&mut &[][..], rows)? {}
        // A quote that nobody closed takes in all lines after it.
        if self.odd_quotes
            && let Some((_, row @ Ok(_))) = rows.get_mut(before)
        {
            *row = Err("the file ends within it: is a quote not closed?".into());
        }
        Ok(())
    }
}
