//! A ledger's directory: which segments it has, and who may do what with it.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{LedgerError, compaction};

/// Names a segment. The order is that of precedence: by number, then by writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SegmentId {
    pub(crate) number: u32,
    pub(crate) writer: WriterId,
}

/// Who wrote a segment, so that names never collide in an object store; zero in a ledger without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WriterId(pub(crate) u64);

impl WriterId {
    pub(crate) const LOCAL: Self = Self(0);

    /// One that nobody else has.
    pub(crate) fn unique() -> Self {
        use std::hash::{BuildHasher, RandomState};
        // Keyed by the system's random numbers, once per thread and then counted up; the rest is for systems whose
        // numbers repeat, such as copies of one virtual machine.
        let here = (std::time::SystemTime::now(), std::process::id(), std::thread::current().id());
        Self(RandomState::new().hash_one(here).max(1))
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.writer {
            WriterId::LOCAL => write!(formatter, "segment-{:06}", self.number),
            WriterId(writer) => write!(formatter, "segment-{writer:016x}-{:06}", self.number),
        }
    }
}

impl FromStr for SegmentId {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let rest = name.strip_prefix("segment-").ok_or(())?;
        let (writer, number) = match rest.split_once('-') {
            Some((writer, number)) => (u64::from_str_radix(writer, 16).map_err(|_| ())?, number),
            None => (0, rest),
        };
        Ok(Self { number: number.parse().map_err(|_| ())?, writer: WriterId(writer) })
    }
}

impl SegmentId {
    /// Its file in `directory`.
    pub(crate) fn log(self, directory: &Path) -> PathBuf {
        directory.join(format!("{self}.log"))
    }

    /// Its index in `directory`.
    pub(crate) fn index(self, directory: &Path) -> PathBuf {
        directory.join(format!("{self}.index"))
    }

    /// The segment whose file has this name.
    pub(crate) fn of_log(name: &str) -> Option<Self> {
        name.strip_suffix(".log")?.parse().ok()
    }
}

/// The segments in `directory`, in order.
pub(crate) fn segments(directory: &Path) -> Result<Vec<SegmentId>, LedgerError> {
    named(directory, SegmentId::of_log)
}

/// The indexes in `directory`, in the order of their segments.
pub(crate) fn indexes(directory: &Path) -> Result<Vec<SegmentId>, LedgerError> {
    named(directory, |name| name.strip_suffix(".index")?.parse().ok())
}

fn named(directory: &Path, parse: impl Fn(&str) -> Option<SegmentId>) -> Result<Vec<SegmentId>, LedgerError> {
    let failed = |source| LedgerError::io(directory, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        found.extend(entry.map_err(failed)?.file_name().to_str().and_then(&parse));
    }
    found.sort_unstable();
    Ok(found)
}

/// Keeps compaction out of a directory while it is open, or everybody else while it is compacted.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    // Held for its lock.
    _file: File,
}

impl DirectoryLock {
    /// Shared by everybody who reads or appends. Finishes a compaction that was killed after its decision.
    pub(crate) fn shared(directory: &Path) -> Result<Self, LedgerError> {
        loop {
            let file = open_lock(directory)?;
            file.try_lock_shared().map_err(|error| refused(directory, error))?;
            if !compaction::is_pending(directory) {
                return Ok(Self { _file: file });
            }
            drop(file);
            let file = open_lock(directory)?;
            // Waits for others who are here for the same reason; nobody works in a directory in this state.
            file.lock().map_err(|source| LedgerError::io(directory, source))?;
            compaction::roll_forward(directory, &mut || Ok(()))?;
        }
    }

    /// For nobody else at the same time.
    pub(crate) fn exclusive(directory: &Path) -> Result<Self, LedgerError> {
        let file = open_lock(directory)?;
        file.try_lock().map_err(|error| refused(directory, error))?;
        Ok(Self { _file: file })
    }
}

fn open_lock(directory: &Path) -> Result<File, LedgerError> {
    let path = directory.join("lock");
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    opened.map_err(|source| LedgerError::io(&path, source))
}

fn refused(directory: &Path, error: TryLockError) -> LedgerError {
    match error {
        TryLockError::WouldBlock => LedgerError::Locked { dir: directory.to_owned() },
        TryLockError::Error(source) => LedgerError::io(&directory.join("lock"), source),
    }
}

/// Makes `directory` if it does not exist.
pub(crate) fn create(directory: &Path) -> Result<(), LedgerError> {
    fs::create_dir_all(directory).map_err(|source| LedgerError::io(directory, source))
}

/// `Ok` if the file is gone, whoever removed it.
pub(crate) fn remove(path: &Path) -> Result<(), LedgerError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LedgerError::io(path, source)),
        _ => Ok(()),
    }
}
