use std::{
    io,
    path::{Path, PathBuf},
};

use opencharacter_storage::StorageError;

/// What can go wrong with a ledger, each with the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The directory is being compacted, or is to be compacted while it is in use.
    #[error(
        "the ledger `{dir}` is in use by another process, and compaction needs it alone: wait for the other to end",
        dir = dir.display()
    )]
    Locked {
        /// The ledger's directory.
        dir: PathBuf,
    },
    /// A record in the middle of a segment is damaged; a torn end is no error.
    #[error(
        "corrupt ledger: `{path}` is damaged at byte {offset}: {reason}. Restore the file from a copy, or move it away to ask for its answers again",
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
    /// The object store does not do what is asked.
    #[error(
        "cannot {action} `{object}` in the ledger's object store: {source}. What was recorded is kept in `{cache}` and brought there at the next opening with that cache",
        cache = cache.display()
    )]
    Store {
        /// `list`, `read` or `write`.
        action: &'static str,
        /// The object.
        object: String,
        /// The local directory.
        cache: PathBuf,
        /// What the client said.
        source: object_store::Error,
    },
    /// The object store holds something else under the name of a segment.
    #[error(
        "`{object}` in the ledger's object store has {found} bytes where this ledger's segment has {expected}: another program writes there. Give the ledger a place of its own"
    )]
    StoreConflict {
        /// The object.
        object: String,
        /// Its size.
        found: u64,
        /// The segment's.
        expected: u64,
    },
    /// The object store's settings do not work.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Compaction of an object store's cache.
    #[error(
        "`{dir}` is the cache of a ledger in an object store, which cannot be compacted: nobody can tell who else writes there",
        dir = dir.display()
    )]
    Shared {
        /// The cache.
        dir: PathBuf,
    },
    /// A beginning of a key that is not one key's.
    #[error("`{prefix}` {reason}: give a key's first hexadecimal digits, as many as tell it from the others")]
    KeyPrefix {
        /// As it was given.
        prefix: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl LedgerError {
    /// What the system refused at `path`.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { path, source }
            }
            _ => Self::Io { path, source },
        }
    }
}
