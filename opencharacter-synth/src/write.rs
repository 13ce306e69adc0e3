//! Rows in memory, written whole or not at all.

use std::{io::Write as _, path::Path};

use opencharacter_storage::AtomicFile;
use serde::Serialize;

use crate::SynthError;

/// Writes `rows` as JSON Lines: to a temporary file beside `path`, synced, then renamed over it.
///
/// Whatever goes wrong, `path` holds either its old content or the new one, whole.
///
/// # Errors
/// [`SynthError::Write`]: a full disk, a read-only or missing directory, a row that is no JSON.
pub fn write_jsonl_atomic<'a, T: Serialize + 'a>(
    path: impl AsRef<Path>,
    rows: impl IntoIterator<Item = &'a T>,
) -> Result<(), SynthError> {
    let path = path.as_ref();
    let write = || {
        let mut file = AtomicFile::create(path)?;
        for row in rows {
            serde_json::to_writer(&mut file, row)?;
            file.write_all(b"\n")?;
        }
        file.commit()
    };
    write().map_err(|source| SynthError::Write { path: path.to_owned(), source })
}
