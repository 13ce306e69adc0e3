use std::{io, path::PathBuf};

/// What can go wrong with a ledger, each with the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process holds the ledger.
    #[error(
        "the ledger `{dir}` is in use by {holder}: wait for it to end, or give this run a directory of its own",
        dir = dir.display()
    )]
    Locked {
        /// The ledger's directory.
        dir: PathBuf,
        /// The other process, where it said who it is.
        holder: String,
    },
    /// A record in the middle of a segment is damaged; a torn end is no error.
    #[error(
        "corrupt ledger: `{path}` is damaged at byte {offset}, and whole records follow: {reason}. Restore the file from a copy, or move it away to ask for its answers again",
        path = path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where the damaged record begins.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// No room for another record.
    #[error(
        "no space left for the ledger `{path}`: {source}. Every record before this one is kept; free space and run again to resume",
        path = path.display()
    )]
    Full {
        /// The segment.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The ledger's directory or a segment cannot be used.
    #[error(
        "cannot use the ledger `{path}`: {source}. Its directory must be writable and on a file system with file locks",
        path = path.display()
    )]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
