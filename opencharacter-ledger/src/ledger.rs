use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use opencharacter_storage::Location;

use crate::{
    CallKey, LedgerError, LedgerReport, LedgerStats, Record,
    compaction::{self, CompactionReport},
    directory::{self, DirectoryLock, WriterId},
    flight::{Flight, Flights},
    keeper,
    remote::{Remote, Shipper, adopt},
    segments::{Limits, Segments},
};

/// A ledger opened for reading and appending, by as many processes at a time as like to.
///
/// Dropping it seals its segment, and with an object store brings it there: that can take as long as the store does,
/// and nobody hears of a failure. [`Ledger::close`] tells.
pub struct Ledger {
    segments: Arc<Segments>,
    flights: Flights,
    keeper: Option<JoinHandle<()>>,
    remote: Option<(Arc<Remote>, Shipper)>,
    // Held for its lock.
    _lock: DirectoryLock,
}

impl Ledger {
    /// Opens the ledger in `directory`, which is made if it does not exist.
    ///
    /// Reads of each sealed segment about 1.7 bytes per key and of each other one all of it.
    ///
    /// # Errors
    /// [`LedgerError::Locked`] while it is compacted, [`LedgerError::Corrupt`] for damage other than a torn end in a
    /// segment without index, [`LedgerError::Io`] for what the system refuses.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, LedgerError> {
        Self::open_with(directory.as_ref(), Limits::STANDARD)
    }

    /// [`Ledger::open`] for a local `location`. Of one in an object store, works on a copy in the directory `cache`,
    /// which must be on this machine and kept: what a killed process did not bring to the store is brought there
    /// when the same cache is opened again.
    ///
    /// Another machine sees a record a minute after it was appended at the latest (and the time it takes to send it),
    /// once it opens or refreshes; at [`Ledger::flush`] at once.
    ///
    /// # Errors
    /// Those of [`Ledger::open`], [`LedgerError::Store`] if the store cannot be read or written.
    pub fn open_at(location: &Location, cache: impl AsRef<Path>) -> Result<Self, LedgerError> {
        match (location, location.store()?) {
            (Location::Remote(_), Some((store, path))) => Self::open_store(store, path, cache),
            (Location::Local(directory), _) => Self::open(directory),
            // Every remote location has a store.
            (Location::Remote(_), None) => Self::open(cache),
        }
    }

    /// [`Ledger::open_at`] for a store at hand and a path in it.
    ///
    /// # Errors
    /// Those of [`Ledger::open_at`].
    pub fn open_store(
        store: Arc<dyn object_store::ObjectStore>,
        path: object_store::path::Path,
        cache: impl AsRef<Path>,
    ) -> Result<Self, LedgerError> {
        Self::open_store_with(store, path, cache.as_ref(), Limits::REMOTE)
    }

    pub(crate) fn open_with(directory: &Path, limits: Limits) -> Result<Self, LedgerError> {
        directory::create(directory)?;
        let lock = DirectoryLock::shared(directory)?;
        Self::start(Segments::new(directory.to_owned(), WriterId::LOCAL, limits), lock, None)
    }

    pub(crate) fn open_store_with(
        store: Arc<dyn object_store::ObjectStore>,
        path: object_store::path::Path,
        cache: &Path,
        limits: Limits,
    ) -> Result<Self, LedgerError> {
        directory::create(cache)?;
        adopt(cache)?;
        let lock = DirectoryLock::shared(cache)?;
        let remote = Remote::new(store, path, cache.to_owned())?;
        remote.fetch()?;
        Self::start(Segments::new(cache.to_owned(), WriterId::unique(), limits), lock, Some(remote))
    }

    fn start(segments: Segments, lock: DirectoryLock, remote: Option<Remote>) -> Result<Self, LedgerError> {
        segments.discover()?;
        let segments = Arc::new(segments);
        let remote = match remote {
            None => None,
            Some(remote) => {
                let remote = Arc::new(remote);
                remote.ship(&segments)?;
                let shipper = Shipper::start(Arc::clone(&remote), Arc::clone(&segments))?;
                Some((remote, shipper))
            }
        };
        let keeper = Some(keeper::start(Arc::clone(&segments))?);
        Ok(Self { segments, flights: Flights::default(), keeper, remote, _lock: lock })
    }

    /// The record of `key` that counts: the latest judged anew, else the earliest success, else the latest failure.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when the record is damaged, [`LedgerError::Io`] when its segment cannot be read.
    pub fn lookup(&self, key: &CallKey) -> Result<Option<Record>, LedgerError> {
        self.segments.lookup(key)
    }

    /// Appends one record; when this returns, a killed process no longer loses it.
    ///
    /// # Errors
    /// [`LedgerError::Full`] without space, [`LedgerError::Io`] otherwise; the ledger is then as before. Either may
    /// also tell of records before that could not be made durable or sealed meanwhile.
    pub fn append(&self, record: &Record) -> Result<(), LedgerError> {
        self.segments.append(record)
    }

    /// Makes every record durable against a power cut too, and with an object store brings it there. The former
    /// happens by itself once a second, the latter once a minute, both at the end.
    ///
    /// # Errors
    /// [`LedgerError::Io`], [`LedgerError::Full`] or [`LedgerError::Store`].
    pub fn flush(&self) -> Result<(), LedgerError> {
        let Some((remote, _)) = &self.remote else { return self.segments.sync() };
        self.segments.retire();
        self.segments.wait_until_sealed()?;
        remote.ship(&self.segments)
    }

    /// Takes in what other processes, and with an object store other machines, recorded since it was opened.
    ///
    /// # Errors
    /// Those of opening.
    pub fn refresh(&self) -> Result<(), LedgerError> {
        if let Some((remote, _)) = &self.remote {
            remote.fetch()?;
        }
        self.segments.discover()
    }

    /// Seals what was appended, brings it to the object store if there is one, and tells whether that worked.
    ///
    /// # Errors
    /// Those of [`Ledger::flush`].
    pub fn close(mut self) -> Result<(), LedgerError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), LedgerError> {
        let Some(keeper) = self.keeper.take() else { return Ok(()) };
        self.segments.close();
        // It does not panic; if it did, the next opening would do its work.
        let _ = keeper.join();
        let sealed = self.segments.state().take_trouble();
        let shipped = match self.remote.take() {
            None => Ok(()),
            Some((remote, shipper)) => {
                shipper.join();
                remote.ship(&self.segments)
            }
        };
        sealed.and(shipped)
    }

    /// Rewrites the ledger in `directory` so that each key has only the record that counts, in the order in which the
    /// keys came first. What the dropped records' calls cost stays in [`Ledger::report`].
    ///
    /// Killed at any moment, it has happened or it has not.
    ///
    /// # Errors
    /// [`LedgerError::Locked`] while anybody has it open, [`LedgerError::Shared`] for the cache of a ledger in an
    /// object store, and those of opening.
    pub fn compact(directory: impl AsRef<Path>) -> Result<CompactionReport, LedgerError> {
        compaction::compact(directory.as_ref(), Limits::STANDARD, &mut || Ok(()))
    }

    /// How many keys have a record. Reads every index (a third of a second per million keys): not for each item.
    ///
    /// Where an index can neither be read nor made anew, keys of several segments count more than once.
    pub fn len(&self) -> usize {
        self.segments.key_count().unwrap_or_else(|_| self.segments.most_keys())
    }

    /// Whether nothing was ever recorded.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// What was called and what it cost.
    pub fn report(&self) -> LedgerReport {
        self.segments.report()
    }

    /// What `stage` called since the ledger was opened.
    pub fn session(&self, stage: &str) -> LedgerStats {
        self.segments.session(stage)
    }

    /// The directory that it works in.
    pub fn directory(&self) -> &Path {
        &self.segments.directory
    }

    #[cfg(test)]
    pub(crate) fn segments(&self) -> &Segments {
        &self.segments
    }

    pub(crate) fn count_reused(&self, stage: &str) {
        self.segments.count_reused(stage);
    }

    /// Waits until no other call with `key` is under way, and keeps others waiting until the guard is dropped.
    pub(crate) async fn fly(&self, key: CallKey) -> Flight<'_> {
        self.flights.fly(key).await
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory: &PathBuf = &self.segments.directory;
        formatter.debug_struct("Ledger").field("directory", directory).finish_non_exhaustive()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Nobody is left to tell; every record is written, and the next opening does what is left.
        let _ = self.finish();
    }
}
