use std::io;

use opencharacter_storage::StorageError;

/// Why a table cannot be read, filtered, queried or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The location cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file cannot be opened or read.
    #[error("cannot read {location}: {source}")]
    Read {
        /// The file.
        location: String,
        /// What the system or the store said.
        source: io::Error,
    },
    /// The file cannot be written; nothing appeared under its name.
    #[error("cannot write {location}: {source}; its old content, if any, is as it was")]
    Write {
        /// The file.
        location: String,
        /// What the system or the store said.
        source: io::Error,
    },
    /// The file as a whole is not what its name says, or it ends too soon. No row follows.
    #[error("{location} cannot be read on: {reason}")]
    Damaged {
        /// The file.
        location: String,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// One row cannot be used. The rows after it can: a reader may leave it out and go on.
    #[error("{location}, {unit} {number}: {reason}")]
    Row {
        /// The file.
        location: String,
        /// What `number` counts: `line` or `row`.
        unit: &'static str,
        /// From 1.
        number: usize,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A column holds something else than it must.
    #[error("{location}{}: column `{column}`: expected {expected}, found {found}", row_of(*row))]
    Column {
        /// The file.
        location: String,
        /// Its name; for a nested one the path, as in `messages[].content`.
        column: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
        /// The first row where it shows, from 1, if that is known.
        row: Option<usize>,
    },
    /// There is no such column.
    #[error("{location} has no column `{column}`; {}", listed(known))]
    UnknownColumn {
        /// The file.
        location: String,
        /// The name that was asked for.
        column: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A Parquet or CSV file was finished without a row, and its columns were never stated.
    #[error("{location}: no row was written, so its columns are unknown; write JSON Lines, or state the columns")]
    NoColumns {
        /// The file.
        location: String,
    },
    /// The filter is no condition on the table's columns.
    #[error(
        "filter `{filter}`: {reason}. Expected an SQL condition such as `age > 30 AND profession LIKE '%nurse%'`: text \
         in single quotes, column names as the file writes them"
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The query is no SELECT over the tables, or it could not be answered.
    #[error("query: {0}")]
    Query(String),
}

fn row_of(row: Option<usize>) -> String {
    row.map(|row| format!(", row {row}")).unwrap_or_default()
}

fn listed(known: &[String]) -> String {
    const SHOWN: usize = 40;
    if known.is_empty() {
        return "it has none at all".into();
    }
    let names: Vec<String> = known.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = if known.len() > SHOWN { format!(" and {} more", known.len() - SHOWN) } else { String::new() };
    format!("it has {}{more}", names.join(", "))
}
