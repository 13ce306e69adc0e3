//! A ledger in an object store: a local directory whose sealed segments are brought there, and which fetches those of
//! others.
//!
//! An object is a whole sealed segment under the name that its file has, with its writer's id in it: writers never
//! touch each other's objects, every object is written once and with a create-only request, and a store that answers
//! "it is there already" is answered by comparing sizes. Which segments still have to go is what the store's list
//! lacks, so that nothing needs to be remembered across a kill.
//!
//! [`crate::Ledger`] is called from synchronous code, so requests run on a runtime of their own, each on a thread
//! that is not the caller's: the caller may be on a runtime's thread itself, which must not be blocked by another
//! runtime. Sending in the background has a thread to itself, because the one that syncs must not wait for a network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use opencharacter_storage::AtomicFile;
use tokio::runtime::{Builder, Runtime};

use crate::{
    LedgerError,
    directory::{self, DirectoryLock, SegmentId, WriterId},
    segments::Segments,
};

/// Objects fetched at the same time.
const FETCHES: usize = 8;
/// How long sending rests after a failure; the client has tried again itself by then.
const REST: Duration = Duration::from_secs(10);

pub(crate) struct Remote {
    store: Arc<dyn ObjectStore>,
    path: Path,
    cache: PathBuf,
    // Taken when dropped.
    runtime: Option<Runtime>,
    /// The segments that are known to be in the store. Locked while they are sent, so that each is sent once.
    there: Mutex<BTreeSet<SegmentId>>,
}

impl Remote {
    /// # Errors
    /// [`LedgerError::Io`] where the system gives no thread.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, path: Path, cache: PathBuf) -> Result<Self, LedgerError> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|source| LedgerError::io(&cache, source))?;
        Ok(Self { store, path, cache, runtime: Some(runtime), there: Mutex::default() })
    }

    /// Brings every segment of the store into the cache that is not there yet.
    pub(crate) fn fetch(&self) -> Result<(), LedgerError> {
        let here: BTreeSet<_> = directory::segments(&self.cache)?.into_iter().collect();
        self.run(async {
            let listed = self.list().await?;
            let missing: Vec<_> = listed.keys().filter(|id| !here.contains(id)).copied().collect();
            stream::iter(missing).map(|id| self.download(id)).buffer_unordered(FETCHES).try_collect::<()>().await?;
            self.there.lock().unwrap_or_else(PoisonError::into_inner).extend(listed.into_keys());
            Ok(())
        })
    }

    /// Brings every sealed segment of the cache to the store that is not there yet.
    pub(crate) fn ship(&self, segments: &Segments) -> Result<(), LedgerError> {
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let sealed = segments.state().sealed();
        for id in sealed.iter().map(|sealed| sealed.id) {
            if !there.contains(&id) {
                self.run(self.upload(id))?;
                there.insert(id);
            }
        }
        Ok(())
    }

    /// The store's segments and their sizes.
    async fn list(&self) -> Result<BTreeMap<SegmentId, u64>, LedgerError> {
        let listed = self.store.list(Some(&self.path)).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|source| self.failed("list", &self.path, source))?;
        let segments = listed.into_iter().filter(|meta| meta.location.parts().count() == self.path.parts().count() + 1);
        Ok(segments.filter_map(|meta| Some((SegmentId::of_log(meta.location.filename()?)?, meta.size))).collect())
    }

    async fn download(&self, id: SegmentId) -> Result<(), LedgerError> {
        let object = self.object(id);
        let to = id.log(&self.cache);
        let failed = |source| self.failed("read", &object, source);
        let written = |source| LedgerError::io(&to, source);
        let mut file = AtomicFile::create(&to).map_err(written)?;
        let mut pieces = self.store.get(&object).await.map_err(failed)?.into_stream();
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            file.write_all(&piece).map_err(written)?;
        }
        file.commit().map_err(written)
    }

    async fn upload(&self, id: SegmentId) -> Result<(), LedgerError> {
        let object = self.object(id);
        let path = id.log(&self.cache);
        let bytes = fs::read(&path).map_err(|source| LedgerError::io(&path, source))?;
        let expected = bytes.len() as u64;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&object, bytes.into(), options).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                // Sent before, by a request whose answer was lost or by another process with this cache.
                let meta = self.store.head(&object).await.map_err(|source| self.failed("read", &object, source))?;
                if meta.size == expected {
                    return Ok(());
                }
                Err(LedgerError::StoreConflict { object: object.to_string(), found: meta.size, expected })
            }
            Err(source) => Err(self.failed("write", &object, source)),
        }
    }

    fn object(&self, id: SegmentId) -> Path {
        self.path.clone().join(format!("{id}.log"))
    }

    fn failed(&self, action: &'static str, object: &Path, source: object_store::Error) -> LedgerError {
        LedgerError::Store { action, object: object.to_string(), cache: self.cache.clone(), source }
    }

    fn run(&self, request: impl Future<Output = Result<(), LedgerError>> + Send) -> Result<(), LedgerError> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        thread::scope(|scope| {
            let joined = scope.spawn(|| runtime.block_on(request)).join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping it would wait, which a runtime's thread must not; nothing is under way any more.
            runtime.shutdown_background();
        }
    }
}

/// Gives segments of a local ledger that becomes a cache a writer's name of their own.
pub(crate) fn adopt(cache: &std::path::Path) -> Result<(), LedgerError> {
    let local = |id: &SegmentId| id.writer == WriterId::LOCAL;
    if !directory::segments(cache)?.iter().any(local) {
        return Ok(());
    }
    // Finishes a compaction that was killed, then keeps writers out, whose files must not be renamed under them.
    drop(DirectoryLock::shared(cache)?);
    let _alone = DirectoryLock::exclusive(cache)?;
    let writer = WriterId::unique();
    for id in directory::segments(cache)?.into_iter().filter(local) {
        let adopted = SegmentId { writer, ..id };
        let (from, to) = (id.log(cache), adopted.log(cache));
        fs::rename(&from, to).map_err(|source| LedgerError::io(&from, source))?;
        directory::remove(&id.index(cache))?;
    }
    Ok(())
}

/// The thread that brings segments to the store as they are sealed.
pub(crate) struct Shipper(JoinHandle<()>);

impl Shipper {
    pub(crate) fn start(remote: Arc<Remote>, segments: Arc<Segments>) -> Result<Self, LedgerError> {
        let directory = segments.directory.clone();
        thread::Builder::new()
            .name("ledger-store".into())
            .spawn(move || ship_until_closed(&remote, &segments))
            .map(Self)
            .map_err(|source| LedgerError::io(&directory, source))
    }

    pub(crate) fn join(self) {
        // It does not panic; if it did, what it did not send is sent afterwards.
        let _ = self.0.join();
    }
}

fn ship_until_closed(remote: &Remote, segments: &Segments) {
    loop {
        let sealed = segments.state().sealed().len();
        // A failure is met again by the next flush or at the end, which tell.
        let has_failed = remote.ship(segments).is_err();
        let mut state = segments.state();
        loop {
            if state.is_closing {
                return;
            }
            if !has_failed && state.sealed().len() != sealed {
                break;
            }
            if !has_failed {
                state = segments.wait(state);
                continue;
            }
            let (next, waited) = segments.changed.wait_timeout(state, REST).unwrap_or_else(PoisonError::into_inner);
            state = next;
            if waited.timed_out() {
                break;
            }
        }
    }
}
