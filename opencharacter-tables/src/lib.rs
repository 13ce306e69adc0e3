//! Personas, characters, instructions and dialogues as tables.
//!
//! A [`Table`] is a file of rows, on this machine or in an object store, as JSON Lines, a JSON array, Parquet, CSV or
//! plain lines. It is read as a stream of [`Row`]s and written through a [`RowWriter`]; both take memory for some
//! thousand rows, however many there are. A filter is an SQL condition ([`ReadOptions::filter`]), [`query`] answers a
//! SELECT over several tables, [`sample()`] draws rows by id.
//!
//! SQL, Arrow and Parquet are DataFusion's. Text is cut into rows here: DataFusion's readers end at the first bad row and
//! do not say where it is. Nothing in here calls a model: a plan may evaluate an expression more often than once.
//!
//! # What a value becomes
//!
//! JSON and JSON Lines give what is written. Parquet gives nested lists and objects; nulls are left out of objects, dates
//! and decimals are text. An object whose keys are data ([`Kind::Json`]) is text for other readers of the file and an
//! object again for this one. In CSV a column is of numbers, truth values or JSON if all its cells are, and else of text;
//! an empty cell is no value, so empty text does not survive CSV.
//!
//! # Runtime
//!
//! Everything runs within a tokio runtime, of one thread or several. Files are read and written on its threads for
//! blocking work; decoding takes some milliseconds at a time where the stream is polled.

mod error;
mod filter;
mod format;
mod from_arrow;
mod infer;
mod kind;
pub mod nouns;
mod panics;
mod parquet_file;
mod parse;
mod place;
mod query;
mod rows_provider;
mod sample;
mod session;
mod table;
mod to_arrow;
mod write;

pub use error::TableError;
pub use format::Format;
pub use kind::{Column, Kind};
pub use parse::LONGEST_ROW;
pub use query::{QueryOptions, query};
pub use sample::sample;
pub use table::{ReadOptions, Row, Rows, Table};
pub use write::{RowWriter, WriteOptions};
