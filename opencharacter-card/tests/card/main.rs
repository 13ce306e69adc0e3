//! Tests of `opencharacter-card` through its public interface.
#![expect(clippy::unwrap_used, reason = "a test that fails here should stop here")]

mod bad_input;
mod characters;
mod containers;
mod folders;
mod formats;
mod lorebooks;
mod prompts;
mod silly_tavern;

use std::path::{Path, PathBuf};

/// A file or folder of this crate's `tests`.
fn tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The files of a folder in the order of their names, `.expected` ones left out.
fn cases(folder: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(tests(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none_or(|ending| ending != "expected"));
    paths.sort();
    paths
}

/// Compares with `NAME.expected` beside the file; `UPDATE_EXPECTED=1` writes it instead, to be read before it is
/// committed.
fn expect(path: &Path, found: &str) {
    let beside = path.with_file_name(format!("{}.expected", path.file_name().unwrap().to_string_lossy()));
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&beside, found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(&beside).unwrap_or_default(), "{}", path.display());
}
