//! Rows into files, whole or not at all.

mod csv;
mod json;
mod parquet;
mod sink;

use std::io;

use serde::Serialize;
use serde_json::Value;

use self::{csv::CsvWriter, json::JsonWriter, parquet::ParquetWriter, sink::Sink};
use crate::{
    Column, Format, Table, TableError,
    infer::Inference,
    kind::describe,
    to_arrow::{Fault, Mismatch},
};

/// Rows that are gathered before they are encoded, and from which unstated columns are inferred.
const BATCH_ROWS: usize = 8192;
/// Bytes that these rows may take up, about.
const BATCH_BYTES: usize = 8 << 20;

/// How a table is written.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// The columns of a Parquet or CSV file. If not given they are those of the first rows (8192, or 8 MiB of them); a
    /// later row that does not fit is an error. JSON needs none, and does not check them.
    pub columns: Option<Vec<Column>>,
}

/// Writes rows to a [`Table`], in memory that does not grow with their number.
///
/// Dropped before [`Self::finish`], or after an error, it leaves what was there as it was.
pub struct RowWriter {
    table: Table,
    rows: usize,
    encoder: Encoder,
}

enum Encoder {
    Json(JsonWriter),
    Csv(CsvWriter),
    Parquet(Box<ParquetWriter>),
}

impl RowWriter {
    pub(crate) async fn create(table: &Table, options: WriteOptions) -> Result<Self, TableError> {
        let failed = |source| TableError::Write { location: table.location.clone(), source };
        let sink = Sink::create(&table.place).await.map_err(failed)?;
        let encoder = match table.format {
            Format::JsonLines => Encoder::Json(JsonWriter::lines(sink)),
            Format::JsonArray => Encoder::Json(JsonWriter::array(sink)),
            Format::Csv => Encoder::Csv(CsvWriter::new(sink, options.columns)),
            Format::Parquet => Encoder::Parquet(Box::new(ParquetWriter::new(table.clone(), sink, options.columns)?)),
            Format::Text => {
                let reason = "rows cannot be written as plain text; name it `.jsonl`, `.parquet` or `.csv`";
                return Err(failed(io::Error::new(io::ErrorKind::Unsupported, reason)));
            }
        };
        Ok(Self { table: table.clone(), rows: 0, encoder })
    }

    /// Adds a row, which must be an object.
    ///
    /// # Errors
    /// [`TableError::Write`]; [`TableError::Column`] and [`TableError::UnknownColumn`] for a row that does not fit, which
    /// may show some rows later; [`TableError::Row`] for what is no object. After any of them the file cannot be finished.
    pub async fn write(&mut self, row: &impl Serialize) -> Result<(), TableError> {
        let number = self.rows + 1;
        match &mut self.encoder {
            Encoder::Json(writer) => writer.write(row).await.map_err(|source| unwritable(&self.table, source))?,
            Encoder::Csv(writer) => writer.write(&self.table, object_of(&self.table, number, row)?).await?,
            Encoder::Parquet(writer) => writer.write(object_of(&self.table, number, row)?).await?,
        }
        self.rows = number;
        Ok(())
    }

    /// Makes the file appear, and gives the number of its rows.
    ///
    /// # Errors
    /// As [`Self::write`]; [`TableError::NoColumns`] for a Parquet or CSV file without rows whose columns were not stated.
    pub async fn finish(self) -> Result<usize, TableError> {
        match self.encoder {
            Encoder::Json(writer) => writer.finish().await.map_err(|source| unwritable(&self.table, source))?,
            Encoder::Csv(writer) => writer.finish(&self.table).await?,
            Encoder::Parquet(writer) => writer.finish().await?,
        }
        Ok(self.rows)
    }
}

fn unwritable(table: &Table, source: io::Error) -> TableError {
    TableError::Write { location: table.location.clone(), source }
}

fn object_of(table: &Table, number: usize, row: &impl Serialize) -> Result<Value, TableError> {
    let fault = |reason| TableError::Row { location: table.location.clone(), unit: "row", number, reason };
    match serde_json::to_value(row) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(value) => Err(fault(format!("expected an object, found {}", describe(&value)))),
        Err(error) => Err(fault(format!("cannot be written as JSON: {error}"))),
    }
}

/// Rows on their way into a batch.
#[derive(Default)]
struct Gathered {
    rows: Vec<Value>,
    bytes: usize,
    /// Rows of the batches before.
    before: usize,
}

impl Gathered {
    /// Adds a row; `true` when the batch is full.
    fn add(&mut self, row: Value) -> bool {
        self.bytes += size_of(&row);
        self.rows.push(row);
        self.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// The batch, and the number of rows before it.
    fn take(&mut self) -> (usize, Vec<Value>) {
        let rows = std::mem::take(&mut self.rows);
        let before = self.before;
        self.before += rows.len();
        self.bytes = 0;
        (before, rows)
    }
}

/// About how much memory a value takes up, in bytes.
fn size_of(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(size_of).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + 48 + size_of(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    inner + size_of_val(value)
}

/// The columns that were stated, or those of the first rows.
fn columns_of_first(table: &Table, rows: &[Value]) -> Result<Vec<Column>, TableError> {
    if rows.is_empty() {
        return Err(TableError::NoColumns { location: table.location.clone() });
    }
    let mut inference = Inference::default();
    for (index, row) in rows.iter().enumerate() {
        if let Value::Object(row) = row {
            inference.add(index + 1, row).map_err(|reason| TableError::Row {
                location: table.location.clone(),
                unit: "row",
                number: index + 1,
                reason,
            })?;
        }
    }
    let column = |column: crate::infer::InferredColumn| {
        Ok(Column::new(column.name, column.kind.map_err(|conflict| table.conflict(conflict))?))
    };
    inference.finish().into_iter().map(column).collect()
}

fn unfit(table: &Table, columns: &[Column], before: usize, mismatch: Mismatch) -> TableError {
    let location = table.location.clone();
    let column = mismatch.path;
    match mismatch.fault {
        Fault::Kind { expected, found } => {
            TableError::Column { location, column, expected, found, row: Some(before + mismatch.index + 1) }
        }
        Fault::Unknown => {
            let known = columns.iter().map(|column| column.name.clone()).collect();
            TableError::UnknownColumn { location, column, known }
        }
    }
}
