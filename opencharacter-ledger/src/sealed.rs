//! A segment that nobody appends to any more, found by its index.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    CallKey, LedgerError,
    directory::SegmentId,
    index::{Damaged, Index},
    precedence::Entry,
};

/// Files kept open for reading. Beyond this many, the one unused for longest is closed.
const OPEN_FILES: usize = 128;

/// Files by path, each with the turn in which it was last used.
type FilesByPath = HashMap<PathBuf, (u64, Arc<File>)>;

/// Opens files once and keeps them open.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    open: Mutex<(u64, FilesByPath)>,
}

impl OpenFiles {
    pub(crate) fn get(&self, path: &Path) -> Result<Arc<File>, LedgerError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (clock, files) = &mut *open;
        *clock += 1;
        if let Some((used, file)) = files.get_mut(path) {
            *used = *clock;
            return Ok(Arc::clone(file));
        }
        if files.len() >= OPEN_FILES
            && let Some(oldest) = files.iter().min_by_key(|(_, (used, _))| *used).map(|(path, _)| path.clone())
        {
            files.remove(&oldest);
        }
        let file = Arc::new(File::open(path).map_err(|source| LedgerError::io(path, source))?);
        files.insert(path.to_owned(), (*clock, Arc::clone(&file)));
        Ok(file)
    }

    /// The file at `path` is another one now.
    pub(crate) fn forget(&self, path: &Path) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(path);
    }
}

#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) id: SegmentId,
    pub(crate) index: Index,
    index_path: PathBuf,
}

impl Sealed {
    /// The segment `id`, if its index is whole and fits it.
    pub(crate) fn open(directory: &Path, id: SegmentId) -> Result<Option<Self>, LedgerError> {
        let log = id.log(directory);
        let length = std::fs::metadata(&log).map_err(|source| LedgerError::io(&log, source))?.len();
        let index_path = id.index(directory);
        let index = Index::read(&index_path, length).map_err(|source| LedgerError::io(&index_path, source))?;
        Ok(index.map(|index| Self { id, index, index_path }))
    }

    /// The entry of `key`, if the segment has it.
    pub(crate) fn find(&self, files: &OpenFiles, key: &CallKey) -> Result<Result<Option<Entry>, Damaged>, LedgerError> {
        if !self.index.may_hold(key) {
            return Ok(Ok(None));
        }
        let file = files.get(&self.index_path)?;
        self.index.find(&file, key).map_err(|source| self.failed(source))
    }

    /// The entries of one block of the index, in the order of their keys.
    pub(crate) fn entries(
        &self,
        files: &OpenFiles,
        block: usize,
    ) -> Result<Result<Vec<(CallKey, Entry)>, Damaged>, LedgerError> {
        let file = files.get(&self.index_path)?;
        self.index.entries(&file, block).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> LedgerError {
        LedgerError::io(&self.index_path, source)
    }
}
