use std::{path::Path, sync::Arc};

use datafusion::arrow::{array::RecordBatch, compute::filter_record_batch};
use futures_util::{
    Stream, StreamExt, TryStreamExt, future,
    stream::{self, BoxStream},
};
use object_store::ObjectStore;
use opencharacter_storage::Location;
use serde::Serialize;
use serde_json::Value;

use crate::{
    Column, Format, Kind, RowWriter, TableError, WriteOptions,
    filter::Filter,
    from_arrow::rows_of,
    infer::{Conflict, Inference, InferredColumn},
    kind::columns_of,
    parquet_file::ParquetFile,
    parse::{CellKinds, CsvParser, ElementParser, LONGEST_ROW, LineContent, LineParser, Parse, Parsed},
    place::Place,
};

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its line in the file, or its place among the file's rows (see [`Format::unit`]), from 1. A filter does not
    /// change it.
    pub number: usize,
    /// Always an object.
    pub value: Value,
}

/// The rows of a table in its order.
///
/// After a [`TableError::Row`] more rows follow; any other error is the last item. It is polled within a tokio runtime.
pub type Rows = BoxStream<'static, Result<Row, TableError>>;

/// What is read of a table.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// An SQL condition on the table's columns; rows for which it is not true are left out.
    ///
    /// A file of text is read twice for it: its columns' kinds are those of the whole file.
    pub filter: Option<String>,
}

/// A file of rows, here or in an object store.
#[derive(Debug, Clone)]
pub struct Table {
    pub(crate) location: String,
    pub(crate) format: Format,
    pub(crate) place: Place,
}

/// Rows as they are cut from a file: many at once.
type Batches = BoxStream<'static, Result<Vec<Parsed>, TableError>>;

impl Table {
    /// The table at `location`, in the format that its name says. Nothing is read yet.
    ///
    /// # Errors
    /// [`TableError::Storage`] when the settings of its object store do not work.
    pub fn at(location: &Location) -> Result<Self, TableError> {
        let place = match location.store()? {
            Some((store, path)) => Place::Remote { store, path },
            None => Place::Local(location.local().map(Path::to_owned).unwrap_or_default()),
        };
        Ok(Self { location: location.to_string(), format: Format::of(location), place })
    }

    /// The table called `path` in a store that is at hand.
    pub fn in_store(store: Arc<dyn ObjectStore>, path: object_store::path::Path) -> Self {
        let format = Format::of(&Location::Local(path.to_string().into()));
        Self { location: path.to_string(), format, place: Place::Remote { store, path } }
    }

    /// The same file, read or written as `format` whatever its name.
    #[must_use]
    pub fn with_format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// How the file holds its rows.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its rows, one after another; memory does not grow with the file.
    ///
    /// # Errors
    /// [`TableError::Read`], [`TableError::Damaged`]; with a filter also [`TableError::Filter`],
    /// [`TableError::UnknownColumn`], [`TableError::Column`].
    pub async fn rows(&self, options: ReadOptions) -> Result<Rows, TableError> {
        let batches = match self.format {
            Format::Parquet => self.parquet_rows(options.filter.as_deref()).await?,
            _ => self.text_rows(options.filter.as_deref()).await?,
        };
        let (location, unit) = (self.location.clone(), self.format.unit());
        let row = move |(number, value): Parsed| match value {
            Ok(value) => Ok(Row { number, value }),
            Err(reason) => Err(TableError::Row { location: location.clone(), unit, number, reason }),
        };
        let rows = batches.map_ok(move |batch| stream::iter(batch.into_iter().map(row.clone()))).try_flatten();
        Ok(ending_with_a_fault(rows).boxed())
    }

    /// Its columns. A file of text is read from first to last for it.
    ///
    /// # Errors
    /// As [`Self::rows`]; [`TableError::Column`] where a column holds values that do not go together.
    pub async fn columns(&self) -> Result<Vec<Column>, TableError> {
        let named = |column: InferredColumn| match column.kind {
            Ok(kind) => Ok(Column::new(column.name, kind)),
            Err(conflict) => Err(self.conflict(conflict)),
        };
        self.infer().await?.into_iter().map(named).collect()
    }

    /// Checks that the table has these columns and that they hold what is said.
    ///
    /// Whole numbers will do for [`Kind::Float`], anything for [`Kind::Json`], and a column without any value always. Of
    /// an expected struct the parts that are there are checked.
    ///
    /// # Errors
    /// As [`Self::rows`]; [`TableError::UnknownColumn`], [`TableError::Column`].
    pub async fn expect_columns(&self, expected: &[Column]) -> Result<(), TableError> {
        let found = self.infer().await?;
        for column in expected {
            let Some(inferred) = found.iter().find(|inferred| inferred.name == column.name) else {
                return Err(self.unknown_column(&column.name, &found));
            };
            let kind = inferred.kind.as_ref().map_err(|conflict| self.conflict(conflict.clone()))?;
            if let Some((path, expected, found)) = difference(&column.kind, kind, column.name.clone()) {
                let (location, expected, found) = (self.location.clone(), expected.to_string(), found.to_string());
                return Err(TableError::Column { location, column: path, expected, found, row: None });
            }
        }
        Ok(())
    }

    /// Begins to write it. It appears, or replaces what is there, when [`RowWriter::finish`] returns.
    ///
    /// # Errors
    /// [`TableError::Write`].
    pub async fn writer(&self, options: WriteOptions) -> Result<RowWriter, TableError> {
        RowWriter::create(self, options).await
    }

    /// The columns as the values show them; bad rows are left to [`Self::rows`].
    pub(crate) async fn infer(&self) -> Result<Vec<InferredColumn>, TableError> {
        if self.format == Format::Parquet {
            let file = ParquetFile::open(&self.place, &self.location).await?;
            let columns = columns_of(file.schema().fields()).into_iter();
            return Ok(columns.map(|column| InferredColumn { name: column.name, kind: Ok(column.kind) }).collect());
        }
        let mut inference = Inference::default();
        let mut batches = self.parsed().await?;
        while let Some(batch) = batches.try_next().await? {
            for (number, value) in batch {
                if let Ok(Value::Object(row)) = value {
                    inference.add(number, &row).map_err(|reason| self.damaged(reason))?;
                }
            }
        }
        Ok(inference.finish())
    }

    async fn text_rows(&self, filter: Option<&str>) -> Result<Batches, TableError> {
        let Some(condition) = filter else { return self.parsed().await };
        self.place.length().await.map_err(|source| self.unreadable(source))?;
        let filter = Filter::new(condition, self, &self.infer().await?)?;
        let table = self.clone();
        let kept = move |batch| future::ready(filter.keep(&table, batch));
        Ok(self.parsed().await?.and_then(kept).boxed())
    }

    async fn parquet_rows(&self, filter: Option<&str>) -> Result<Batches, TableError> {
        let file = ParquetFile::open(&self.place, &self.location).await?;
        let filter = filter.map(|condition| Filter::on_schema(condition, self, file.schema())).transpose()?;
        let table = self.clone();
        let mut before = 0;
        let rows = file.batches()?.and_then(move |batch| {
            let first = before + 1;
            before += batch.num_rows();
            future::ready(table.rows_of_batch(&batch, first, filter.as_ref()))
        });
        Ok(rows.boxed())
    }

    fn rows_of_batch(
        &self,
        batch: &RecordBatch,
        first: usize,
        filter: Option<&Filter>,
    ) -> Result<Vec<Parsed>, TableError> {
        let damaged = |error: datafusion::arrow::error::ArrowError| self.damaged(error.to_string());
        let Some(filter) = filter else {
            let values = rows_of(batch).map_err(damaged)?;
            return Ok((first..).zip(values.into_iter().map(Ok)).collect());
        };
        let mask = filter.mask(batch)?;
        let values = rows_of(&filter_record_batch(batch, &mask).map_err(damaged)?).map_err(damaged)?;
        let numbers = mask.iter().enumerate().filter(|(_, kept)| *kept == Some(true)).map(|(index, _)| first + index);
        Ok(numbers.zip(values.into_iter().map(Ok)).collect())
    }

    /// The rows of a file of text.
    pub(crate) async fn parsed(&self) -> Result<Batches, TableError> {
        let parser: Box<dyn Parse> = match self.format {
            Format::JsonArray => Box::new(ElementParser::new(LONGEST_ROW)),
            Format::Csv => Box::new(CsvParser::new(self.cell_kinds().await?, LONGEST_ROW)),
            Format::Text => Box::new(LineParser::new(LineContent::Text, LONGEST_ROW)),
            Format::JsonLines | Format::Parquet => Box::new(LineParser::new(LineContent::Json, LONGEST_ROW)),
        };
        self.parsed_by(parser).await
    }

    async fn parsed_by(&self, parser: Box<dyn Parse>) -> Result<Batches, TableError> {
        let bytes = self.place.bytes().await.map_err(|source| self.unreadable(source))?;
        let table = self.clone();
        let batches = stream::try_unfold(Some((bytes, parser)), move |state| {
            let table = table.clone();
            async move {
                let Some((mut bytes, mut parser)) = state else { return Ok::<_, TableError>(None) };
                let mut rows = Vec::new();
                let chunk = bytes.try_next().await.map_err(|source| table.unreadable(source))?;
                let parsed = match &chunk {
                    Some(chunk) => parser.feed(chunk, &mut rows),
                    None => parser.finish(&mut rows),
                };
                // Rows before the damage are given first.
                let damage = parsed.err().map(|reason| table.damaged(reason));
                let next = chunk.is_some().then_some((bytes, parser));
                Ok(Some(((rows, damage), next)))
            }
        });
        let whole = batches.map_ok(|(rows, damage)| stream::iter([Ok(rows)].into_iter().chain(damage.map(Err))));
        Ok(ending_with_a_fault(whole.try_flatten()).boxed())
    }

    /// What the cells of a CSV file are: all of them are looked at.
    async fn cell_kinds(&self) -> Result<CellKinds, TableError> {
        self.place.length().await.map_err(|source| self.unreadable(source))?;
        let mut kinds = CellKinds::default();
        let mut batches = self.parsed_by(Box::new(CsvParser::new(CellKinds::default(), LONGEST_ROW))).await?;
        while let Some(batch) = batches.next().await {
            // Damage shows again, and is reported, when the rows are read.
            let Ok(batch) = batch else { break };
            batch.iter().filter_map(|(_, row)| row.as_ref().ok()?.as_object()).for_each(|row| kinds.add(row));
        }
        Ok(kinds)
    }

    pub(crate) fn unreadable(&self, source: std::io::Error) -> TableError {
        TableError::Read { location: self.location.clone(), source }
    }

    pub(crate) fn damaged(&self, reason: String) -> TableError {
        TableError::Damaged { location: self.location.clone(), reason }
    }

    pub(crate) fn conflict(&self, conflict: Conflict) -> TableError {
        let Conflict { path, expected, found, row } = conflict;
        TableError::Column { location: self.location.clone(), column: path, expected, found, row: Some(row) }
    }

    pub(crate) fn unknown_column(&self, name: &str, known: &[InferredColumn]) -> TableError {
        let known = known.iter().map(|column| column.name.clone()).collect();
        TableError::UnknownColumn { location: self.location.clone(), column: name.to_owned(), known }
    }
}

/// Nothing follows an error that is not about one row.
fn ending_with_a_fault<T>(
    items: impl Stream<Item = Result<T, TableError>>,
) -> impl Stream<Item = Result<T, TableError>> {
    items.scan(false, |ended, item| {
        let give = !*ended;
        *ended |= matches!(&item, Err(error) if !matches!(error, TableError::Row { .. }));
        future::ready(give.then_some(item))
    })
}

/// Where `found` cannot stand for `expected`: the path, and both kinds there.
fn difference<'a>(expected: &'a Kind, found: &'a Kind, path: String) -> Option<(String, &'a Kind, &'a Kind)> {
    match (expected, found) {
        (Kind::Json, _)
        | (_, Kind::Null)
        | (Kind::Float, Kind::Integer | Kind::Unsigned)
        | (Kind::Integer, Kind::Unsigned)
        | (Kind::Unsigned, Kind::Integer)
        | (Kind::Struct(_), Kind::Json) => None,
        (Kind::List(expected), Kind::List(found)) => difference(expected, found, format!("{path}[]")),
        (Kind::Struct(expected), Kind::Struct(found)) => expected.iter().find_map(|part| {
            let found = found.iter().find(|other| other.name == part.name)?;
            difference(&part.kind, &found.kind, format!("{path}.{}", part.name))
        }),
        (expected, found) if expected == found => None,
        (expected, found) => Some((path, expected, found)),
    }
}
