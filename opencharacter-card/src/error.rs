use std::{io, path::PathBuf};

/// Why a card cannot be read or written, each with the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Neither of the containers.
    #[error("no character card: {found}. Expected a PNG, a JSON object or a CHARX (zip) archive")]
    Unrecognised {
        /// What the file begins with.
        found: String,
    },
    /// More than is read of a stranger's file.
    #[error("{what}: {size} {unit} or more, where at most {limit} are read. Make it smaller, or leave parts of it out")]
    TooLarge {
        /// What is too large.
        what: String,
        /// How large it is, or at least is.
        size: u64,
        /// The limit.
        limit: u64,
        /// `bytes`, `values`, `chunks` or `files`.
        unit: &'static str,
    },
    /// A damaged PNG.
    #[error("PNG, byte {offset}: {reason}. The file was damaged on its way: fetch it again")]
    Png {
        /// Where the damaged chunk begins.
        offset: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A whole PNG with no card in it.
    #[error(
        "the PNG holds no card: it has no text chunk `ccv3` or `chara`. Chat programs and picture sites remove it: \
         fetch the original file"
    )]
    NoCard,
    /// A text that cannot be unpacked.
    #[error("{place}: {reason}. Export the card again from the program that made it")]
    Encoding {
        /// The chunk or file.
        place: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// A text that is no JSON.
    #[error("{place}: no valid JSON: {reason}. Mend it there, or export the card again")]
    Json {
        /// The chunk or file.
        place: String,
        /// What is wrong, with line and column.
        reason: serde_json::Error,
    },
    /// JSON that is no card, or no lorebook.
    #[error("{place}: {reason}")]
    Shape {
        /// The chunk or file.
        place: String,
        /// What was expected, what was found, and what to do.
        reason: String,
    },
    /// A damaged archive.
    #[error("CHARX archive: {reason}. Fetch the file again, or pack it anew as a plain zip")]
    Archive {
        /// What is wrong.
        reason: String,
    },
    /// A file of an archive that cannot be read.
    #[error("CHARX archive, file `{path}`: {reason}. Pack the archive anew as a plain zip (deflate, no password)")]
    ArchiveFile {
        /// Its name there.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A file whose name leads somewhere else.
    #[error(
        "asset `{path}`: the name leads out of the card's own folder, or is no plain name. Nothing was read; do not trust \
         this file, or rename the asset to `assets/TYPE/...`"
    )]
    UnsafePath {
        /// Its name.
        path: String,
    },
    /// A file or folder that the system does not give.
    #[error("cannot read `{path}`: {source}. Check that it exists and that you may read it", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One file among others.
    #[error("`{path}`: {source}", path = path.display())]
    InFile {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<CardError>,
    },
}

impl CardError {
    /// The same, said of the file at `path`.
    pub(crate) fn in_file(self, path: impl Into<PathBuf>) -> Self {
        match self {
            named @ (Self::Io { .. } | Self::InFile { .. }) => named,
            source => Self::InFile { path: path.into(), source: Box::new(source) },
        }
    }

    pub(crate) fn shape(place: &str, reason: impl Into<String>) -> Self {
        Self::Shape { place: place.to_owned(), reason: reason.into() }
    }

    pub(crate) fn encoding(place: &str, reason: impl Into<String>) -> Self {
        Self::Encoding { place: place.to_owned(), reason: reason.into() }
    }
}
