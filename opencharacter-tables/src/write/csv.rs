use csv::{ByteRecord, Writer, WriterBuilder};
use serde_json::Value;

use super::{Gathered, columns_of_first, sink::Sink, unfit, unwritable};
use crate::{
    Column, Table, TableError,
    to_arrow::{Fault, Mismatch},
};

/// CSV with a header; nested values are JSON text, and what is missing or null is an empty cell.
pub(super) struct CsvWriter {
    sink: Sink,
    names: Option<Vec<Column>>,
    header_written: bool,
    gathered: Gathered,
}

impl CsvWriter {
    pub(super) fn new(sink: Sink, names: Option<Vec<Column>>) -> Self {
        Self { sink, names, header_written: false, gathered: Gathered::default() }
    }

    pub(super) async fn write(&mut self, table: &Table, row: Value) -> Result<(), TableError> {
        if self.gathered.add(row) { self.flush(table).await } else { Ok(()) }
    }

    pub(super) async fn finish(mut self, table: &Table) -> Result<(), TableError> {
        self.flush(table).await?;
        self.sink.finish().await.map_err(|source| unwritable(table, source))
    }

    async fn flush(&mut self, table: &Table) -> Result<(), TableError> {
        let (before, rows) = self.gathered.take();
        let columns = match self.names.take() {
            Some(columns) => columns,
            None => columns_of_first(table, &rows)?,
        };
        let mut records = WriterBuilder::new().from_writer(Vec::new());
        let encode = |records: &mut Writer<Vec<u8>>| -> Result<(), TableError> {
            let failed = |error: csv::Error| unwritable(table, std::io::Error::other(error));
            if !self.header_written {
                records.write_record(columns.iter().map(|column| &column.name)).map_err(failed)?;
            }
            for (index, row) in rows.iter().enumerate() {
                let record = record_of(&columns, row)
                    .map_err(|path| unfit(table, &columns, before, Mismatch { path, fault: Fault::Unknown, index }))?;
                records.write_byte_record(&record).map_err(failed)?;
            }
            Ok(())
        };
        encode(&mut records)?;
        self.header_written = true;
        self.names = Some(columns);
        let bytes =
            records.into_inner().map_err(|error| unwritable(table, std::io::Error::other(error.to_string())))?;
        self.sink.write(bytes.into()).await.map_err(|source| unwritable(table, source))
    }
}

/// The row's cells, or the name of a field that is no column.
fn record_of(columns: &[Column], row: &Value) -> Result<ByteRecord, String> {
    let mut record = ByteRecord::new();
    let mut written = 0;
    for column in columns {
        let value = row.get(&column.name);
        written += usize::from(value.is_some());
        match value {
            None | Some(Value::Null) => record.push_field(b""),
            Some(Value::String(text)) => record.push_field(text.as_bytes()),
            Some(other) => record.push_field(other.to_string().as_bytes()),
        }
    }
    let fields = row.as_object().map_or(0, serde_json::Map::len);
    if written == fields {
        return Ok(record);
    }
    let unknown =
        row.as_object().and_then(|row| row.keys().find(|&name| columns.iter().all(|column| column.name != *name)));
    Err(unknown.cloned().unwrap_or_default())
}
