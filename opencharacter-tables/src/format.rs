use opencharacter_storage::Location;

/// How a file holds rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line: `.jsonl`, `.ndjson`, and every name that says nothing else.
    JsonLines,
    /// One array of objects: `.json`.
    JsonArray,
    /// `.parquet`
    Parquet,
    /// With a header: `.csv`. Nested values are JSON text.
    Csv,
    /// One text per line: `.txt`. Its one column is `text`.
    Text,
}

impl Format {
    /// The format that the name of `location` stands for.
    pub fn of(location: &Location) -> Self {
        match location.extension().as_deref() {
            Some("json") => Self::JsonArray,
            Some("parquet") => Self::Parquet,
            Some("csv") => Self::Csv,
            Some("txt") => Self::Text,
            _ => Self::JsonLines,
        }
    }

    /// What its rows are numbered by: `line` or `row`.
    pub fn unit(self) -> &'static str {
        match self {
            Self::JsonLines | Self::Text => "line",
            Self::JsonArray | Self::Parquet | Self::Csv => "row",
        }
    }
}
