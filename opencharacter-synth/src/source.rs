//! Files of rows: read one by one, with line numbers, each row checked and none taken twice.

use std::{collections::HashMap, marker::PhantomData};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use opencharacter_core::content_hash;
use opencharacter_storage::Location;
use opencharacter_tables::{ReadOptions, Row, Table, TableError};
use serde::Serialize;
use serde_json::Value;

use crate::SynthError;

/// What to do with a row that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// Stop at the first one with an error.
    #[default]
    Fail,
    /// Leave it out and report it.
    Skip,
}

/// A file of rows: JSON Lines, a JSON array, Parquet, CSV or plain lines, here or in an object store.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where it lies.
    pub location: Location,
    /// What to do with rows that cannot be used.
    pub on_error: OnError,
    /// An SQL condition on the file's columns; rows for which it is not true are left out.
    pub filter: Option<String>,
}

/// A row of a [`Source`].
pub trait FromRow: Sized {
    /// What such rows are called; a draw of some of them depends on it.
    const NAME: &'static str;

    /// The row of a file that holds it.
    ///
    /// # Errors
    /// What is wrong, with the field to blame, and what was expected.
    fn from_row(value: Value, place: &RowPlace<'_>) -> Result<Self, String>;

    /// By which a row is known: a second one of the same id is left out.
    fn id(&self) -> &str;
}

/// Where a row stands.
#[derive(Debug, Clone, Copy)]
pub struct RowPlace<'a> {
    /// The file's name without folder and ending: the source of rows that name none.
    pub source: &'a str,
    /// What `number` counts: `line` or `row`.
    pub unit: &'static str,
    /// From 1.
    pub number: usize,
}

/// A row, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Read<T> {
    /// A usable one.
    Row(T),
    /// Left out.
    Skipped(SkippedRow),
}

/// The usable rows of a file, and what was left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T> {
    /// In the file's order.
    pub rows: Vec<T>,
    /// Rows left out: bad ones under [`OnError::Skip`], and duplicates always.
    pub skipped: Vec<SkippedRow>,
}

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedRow {
    /// What `line` counts: `line` or `row`.
    pub unit: &'static str,
    /// Its number from 1.
    pub line: usize,
    /// Why.
    pub reason: String,
}

impl Source {
    /// All rows of a file, of which each must be usable.
    pub fn new(location: impl Into<Location>) -> Self {
        Self { location: location.into(), on_error: OnError::Fail, filter: None }
    }

    /// Its rows in the file's order. Memory does not grow with the rows, but for 16 bytes each by which duplicates are
    /// found.
    ///
    /// # Errors
    /// [`SynthError::Table`], [`SynthError::Row`] (under [`OnError::Fail`]); at the end of a file without a usable row
    /// [`SynthError::Empty`] or [`SynthError::NothingUsable`].
    pub async fn stream<T: FromRow>(
        &self,
    ) -> Result<impl Stream<Item = Result<Read<T>, SynthError>> + use<T>, SynthError> {
        let reader = Reader::open(self).await?;
        Ok(stream::try_unfold(reader, |mut reader| async move { Ok(reader.next().await?.map(|read| (read, reader))) }))
    }

    /// [`Self::stream`], gathered in memory.
    ///
    /// # Errors
    /// The same.
    pub async fn read<T: FromRow>(&self) -> Result<Rows<T>, SynthError> {
        let mut stream = std::pin::pin!(self.stream().await?);
        let mut rows = Rows { rows: Vec::new(), skipped: Vec::new() };
        while let Some(read) = stream.try_next().await? {
            match read {
                Read::Row(row) => rows.rows.push(row),
                Read::Skipped(row) => rows.skipped.push(row),
            }
        }
        Ok(rows)
    }

    /// The file's name without folder and ending.
    fn name(&self) -> String {
        let path = match &self.location {
            Location::Local(path) => path.as_path(),
            Location::Remote(url) => std::path::Path::new(url.path()),
        };
        path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// A file that is being read.
struct Reader<T> {
    location: String,
    name: String,
    unit: &'static str,
    on_error: OnError,
    filtered: bool,
    rows: opencharacter_tables::Rows,
    /// The row that each id was first seen in.
    seen: HashMap<u64, u32>,
    taken: usize,
    skipped: usize,
    first_skipped: Option<SkippedRow>,
    ended: bool,
    row: PhantomData<T>,
}

/// Why a row is not taken.
enum RowFault {
    /// It cannot be used: the [`OnError`] rule applies.
    Bad(String),
    /// It was seen before: left out and reported whatever the rule.
    Duplicate(String),
}

impl<T: FromRow> Reader<T> {
    async fn open(source: &Source) -> Result<Self, SynthError> {
        let table = Table::at(&source.location)?;
        Ok(Self {
            location: source.location.to_string(),
            name: source.name(),
            unit: table.format().unit(),
            on_error: source.on_error,
            filtered: source.filter.is_some(),
            rows: table.rows(ReadOptions { filter: source.filter.clone() }).await?,
            seen: HashMap::new(),
            taken: 0,
            skipped: 0,
            first_skipped: None,
            ended: false,
            row: PhantomData,
        })
    }

    async fn next(&mut self) -> Result<Option<Read<T>>, SynthError> {
        if self.ended {
            return Ok(None);
        }
        let (number, taken) = match self.rows.next().await {
            None => {
                self.ended = true;
                return self.end().map(|()| None);
            }
            Some(Ok(Row { number, value })) => (number, self.take(number, value)),
            Some(Err(TableError::Row { number, reason, .. })) => (number, Err(RowFault::Bad(reason))),
            Some(Err(error)) => return Err(error.into()),
        };
        match taken {
            Ok(row) => {
                self.taken += 1;
                Ok(Some(Read::Row(row)))
            }
            Err(RowFault::Bad(reason)) if self.on_error == OnError::Fail => {
                Err(SynthError::Row { location: self.location.clone(), unit: self.unit, line: number, reason })
            }
            Err(RowFault::Bad(reason) | RowFault::Duplicate(reason)) => {
                let row = SkippedRow { unit: self.unit, line: number, reason };
                self.skipped += 1;
                self.first_skipped.get_or_insert_with(|| row.clone());
                Ok(Some(Read::Skipped(row)))
            }
        }
    }

    fn take(&mut self, number: usize, value: Value) -> Result<T, RowFault> {
        let place = RowPlace { source: &self.name, unit: self.unit, number };
        let row = T::from_row(value, &place).map_err(RowFault::Bad)?;
        let [a, b, c, d, e, f, g, h, ..] = content_hash(&[row.id()]);
        match self.seen.entry(u64::from_le_bytes([a, b, c, d, e, f, g, h])) {
            std::collections::hash_map::Entry::Occupied(first) => {
                Err(RowFault::Duplicate(format!("duplicate of {} {}", self.unit, first.get())))
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(number as u32);
                Ok(row)
            }
        }
    }

    /// A file must have brought something.
    fn end(&mut self) -> Result<(), SynthError> {
        let (location, unit) = (self.location.clone(), self.unit);
        match self.first_skipped.take() {
            _ if self.taken > 0 => Ok(()),
            None if self.filtered => Err(SynthError::NothingSelected { location }),
            None => Err(SynthError::Empty { location, unit }),
            Some(SkippedRow { line, reason, .. }) => {
                Err(SynthError::NothingUsable { location, unit, count: self.skipped, line, reason })
            }
        }
    }
}
