use datafusion::parquet::{
    arrow::AsyncArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};
use serde_json::Value;

use super::{Gathered, columns_of_first, sink::Sink, unfit, unwritable};
use crate::{Column, Table, TableError, kind::schema_of, to_arrow::whole_batch_of};

/// Rows in one row group at most: a reader holds the pages of one in memory.
const GROUP_ROWS: usize = 100_000;
/// Bytes of a row group, encoded, at most.
const GROUP_BYTES: usize = 32 << 20;

/// Parquet, compressed with Zstandard.
pub(super) struct ParquetWriter {
    table: Table,
    state: State,
    gathered: Gathered,
}

enum State {
    /// The columns are not known yet.
    Waiting(Sink),
    Writing {
        columns: Vec<Column>,
        writer: Box<AsyncArrowWriter<Sink>>,
    },
    /// After a failure.
    Closed,
}

impl ParquetWriter {
    pub(super) fn new(table: Table, sink: Sink, columns: Option<Vec<Column>>) -> Result<Self, TableError> {
        let state = match columns {
            Some(columns) => State::writing(&table, sink, columns)?,
            None => State::Waiting(sink),
        };
        Ok(Self { table, state, gathered: Gathered::default() })
    }

    pub(super) async fn write(&mut self, row: Value) -> Result<(), TableError> {
        if self.gathered.add(row) { self.flush().await } else { Ok(()) }
    }

    pub(super) async fn finish(mut self) -> Result<(), TableError> {
        self.flush().await?;
        if let State::Writing { mut writer, .. } = self.state {
            writer.finish().await.map_err(|error| fault(&self.table, error))?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), TableError> {
        let (before, rows) = self.gathered.take();
        let (columns, mut writer) = match std::mem::replace(&mut self.state, State::Closed) {
            State::Waiting(sink) => {
                let columns = columns_of_first(&self.table, &rows)?;
                let State::Writing { columns, writer } = State::writing(&self.table, sink, columns)? else {
                    return Err(closed(&self.table));
                };
                (columns, writer)
            }
            State::Writing { columns, writer } => (columns, writer),
            State::Closed => return Err(closed(&self.table)),
        };
        let rows: Vec<&Value> = rows.iter().collect();
        let batch =
            whole_batch_of(&columns, &rows).map_err(|mismatch| unfit(&self.table, &columns, before, mismatch))?;
        writer.write(&batch).await.map_err(|error| fault(&self.table, error))?;
        self.state = State::Writing { columns, writer };
        Ok(())
    }
}

impl State {
    fn writing(table: &Table, sink: Sink, columns: Vec<Column>) -> Result<Self, TableError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .build();
        let writer = AsyncArrowWriter::try_new(sink, schema_of(&columns), Some(properties))
            .map_err(|error| fault(table, error))?;
        Ok(Self::Writing { columns, writer: Box::new(writer) })
    }
}

fn closed(table: &Table) -> TableError {
    unwritable(table, std::io::Error::other("nothing can follow a failed write"))
}

fn fault(table: &Table, error: ParquetError) -> TableError {
    let source = match error {
        ParquetError::External(error) => match error.downcast::<std::io::Error>() {
            Ok(error) => *error,
            Err(other) => std::io::Error::other(other),
        },
        error => std::io::Error::other(error),
    };
    unwritable(table, source)
}
