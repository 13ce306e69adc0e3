//! All segments of a directory, as one process sees them.

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    mem,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    CallKey, LedgerError, LedgerReport, LedgerStats, Record,
    contents::{Contents, Tail},
    directory::{self, SegmentId, WriterId},
    frame::{frame, read_frame_at},
    index::{self, Damaged},
    precedence::Effective,
    record::RecordHead,
    sealed::{OpenFiles, Sealed},
    statistics::{CallCounts, SegmentStatistics},
    writer::{SegmentWriter, create_segment},
};

/// Segments that wait for their index. Whoever appends waits when there are more, so that memory stays bounded.
const MOST_RETIRED: usize = 2;

/// When a segment is full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    /// A segment is sealed at this age even if it is not full.
    pub(crate) age: Option<Duration>,
}

impl Limits {
    pub(crate) const STANDARD: Self = Self { bytes: 64 << 20, records: 65_536, age: None };
    /// With an object store, whose objects are whole segments: other machines wait no longer than a minute for them.
    pub(crate) const REMOTE: Self = Self { age: Some(Duration::from_mins(1)), ..Self::STANDARD };
}

/// The first segment that has a key, and where its record is that counts.
type Position = (Option<SegmentId>, Option<Effective>);

pub(crate) struct Segments {
    pub(crate) directory: PathBuf,
    writer: WriterId,
    pub(crate) limits: Limits,
    pub(crate) files: OpenFiles,
    state: Mutex<State>,
    /// A record waits to be synced, a segment to be sealed; one was sealed; the end.
    pub(crate) changed: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    /// In order.
    pub(crate) sealed: Arc<Vec<Arc<Sealed>>>,
    /// Without an index: other writers', and this one's that wait for theirs.
    live: BTreeMap<SegmentId, Arc<Contents>>,
    pub(crate) retired: Vec<Retired>,
    pub(crate) active: Option<Active>,
    session: BTreeMap<String, LedgerStats>,
    torn_bytes: u64,
    /// What failed in the background, for the next who asks for something durable.
    pub(crate) trouble: Option<LedgerError>,
    pub(crate) is_closing: bool,
}

/// The segment that is appended to.
pub(crate) struct Active {
    id: SegmentId,
    writer: SegmentWriter<Arc<File>>,
    contents: Contents,
    pub(crate) created: Instant,
    /// When the first record came that is not known to be durable.
    pub(crate) unsynced_since: Option<Instant>,
}

/// A full segment that waits for its index. Its file holds the lock.
#[derive(Clone)]
pub(crate) struct Retired {
    id: SegmentId,
    file: Arc<File>,
}

impl Segments {
    pub(crate) fn new(directory: PathBuf, writer: WriterId, limits: Limits) -> Self {
        Self {
            directory,
            writer,
            limits,
            files: OpenFiles::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Every change to the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what others sealed or appended since, and seals what they left when they were killed.
    pub(crate) fn discover(&self) -> Result<(), LedgerError> {
        for id in directory::segments(&self.directory)? {
            if self.state().is_settled(id) {
                continue;
            }
            match Sealed::open(&self.directory, id)? {
                Some(sealed) => self.state().seal(sealed),
                None => self.read_unsealed(id)?,
            }
        }
        Ok(())
    }

    fn read_unsealed(&self, id: SegmentId) -> Result<(), LedgerError> {
        let path = id.log(&self.directory);
        let failed = |source| LedgerError::io(&path, source);
        let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
        let is_abandoned = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        };
        let length = file.metadata().map_err(failed)?.len();
        if is_abandoned && length == 0 {
            // Its writer is about to take the lock, or was killed before its first record. An index beside it is of
            // records that are gone; if it cannot be removed, it is passed over again next time.
            let _ = std::fs::remove_file(id.index(&self.directory));
            return Ok(());
        }
        let known = self.state().live.get(&id).cloned().unwrap_or_default();
        let mut contents = if known.length <= length { Arc::unwrap_or_clone(known) } else { Contents::default() };
        let tail = contents.read_on(&path)?;
        if !is_abandoned {
            self.state().live.insert(id, Arc::new(contents));
            return Ok(());
        }
        if let Tail::Torn(bytes) = tail {
            file.set_len(contents.length).map_err(failed)?;
            self.state().torn_bytes += bytes;
        }
        file.sync_all().map_err(failed)?;
        // A full or read-only disk is no reason not to read: without an index it stays in memory.
        let _ = self.write_index(id, contents);
        Ok(())
    }

    /// Seals the segment `id`, which has `contents`; if that fails, they stay in memory.
    fn write_index(&self, id: SegmentId, contents: impl Into<Arc<Contents>>) -> Result<(), LedgerError> {
        let contents = contents.into();
        let path = id.index(&self.directory);
        let written = index::write(&contents, &path).map_err(|source| LedgerError::io(&path, source));
        self.files.forget(&path);
        let sealed = written.and_then(|()| Sealed::open(&self.directory, id));
        let mut state = self.state();
        match sealed {
            Ok(Some(sealed)) => {
                state.seal(sealed);
                Ok(())
            }
            other => {
                state.keep_in_memory(id, contents);
                other.map(drop)
            }
        }
    }

    /// Makes a damaged index anew.
    fn mend(&self, id: SegmentId) -> Result<(), LedgerError> {
        let path = id.log(&self.directory);
        let mut contents = Contents::default();
        if let Tail::Torn(_) = contents.read_on(&path)? {
            let reason = "this segment was whole when it was sealed".to_owned();
            return Err(LedgerError::Corrupt { path, offset: contents.length, reason });
        }
        // As above: what cannot be written is kept in memory.
        let _ = self.write_index(id, contents);
        Ok(())
    }

    /// The record of `key` that counts.
    pub(crate) fn lookup(&self, key: &CallKey) -> Result<Option<Record>, LedgerError> {
        for _ in 0..2 {
            let (_, found) = self.mend_and(|| self.positions(key))?;
            let Some(found) = found else { return Ok(None) };
            match self.read(found)? {
                Ok(record) if record.key == *key => return Ok(Some(record)),
                // The segment's record or its index: making the index anew tells.
                _ => self.mend(found.segment)?,
            }
        }
        Err(self.unreadable())
    }

    /// The first segment that has `key` and where its record is that counts, or which index is damaged.
    fn positions(&self, key: &CallKey) -> Result<Result<Position, SegmentId>, LedgerError> {
        let (mut first, mut best, sealed) = {
            let state = self.state();
            let (first, best) = state.positions_in_memory(key);
            (first, best, state.sealed())
        };
        for segment in sealed.iter() {
            match segment.find(&self.files, key)? {
                Ok(None) => {}
                Ok(Some(entry)) => {
                    first = Some(first.map_or(segment.id, |first| first.min(segment.id)));
                    Effective::consider(&mut best, segment.id, entry);
                }
                Err(Damaged) => return Ok(Err(segment.id)),
            }
        }
        Ok(Ok((first, best)))
    }

    fn read(&self, found: Effective) -> Result<Result<Record, String>, LedgerError> {
        let payload = self.read_payload(found)?;
        Ok(payload
            .map_err(str::to_owned)
            .and_then(|payload| serde_json::from_slice(&payload).map_err(|error| error.to_string())))
    }

    fn read_payload(&self, found: Effective) -> Result<Result<Vec<u8>, &'static str>, LedgerError> {
        let path = found.segment.log(&self.directory);
        let payload = read_frame_at(&*self.files.get(&path)?, found.entry.span);
        payload.map_err(|source| LedgerError::io(&path, source))
    }

    /// The record at a place that an index gave.
    pub(crate) fn payload(&self, found: Effective) -> Result<Vec<u8>, LedgerError> {
        self.read_payload(found)?.map_err(|reason| LedgerError::Corrupt {
            path: found.segment.log(&self.directory),
            offset: found.entry.span.offset,
            reason: reason.to_owned(),
        })
    }

    /// The first segment that has `key`, and the record that counts.
    pub(crate) fn first_and_effective(&self, key: &CallKey) -> Result<Option<(SegmentId, Effective)>, LedgerError> {
        let found = self.mend_and(|| self.positions(key))?;
        Ok(found.0.zip(found.1))
    }

    /// Appends one record; see [`crate::Ledger::append`].
    pub(crate) fn append(&self, record: &Record) -> Result<(), LedgerError> {
        let framed = frame(record).map_err(|error| LedgerError::io(&self.directory, error.into()))?;
        let payload_length = (framed.len() - crate::frame::AROUND) as u32;
        let head = RecordHead::from(record);
        let mut state = self.state();
        while state.retired.len() >= MOST_RETIRED {
            state = self.wait(state);
        }
        if let Some(trouble) = state.trouble.take() {
            return Err(trouble);
        }
        if state.active.as_ref().is_some_and(|active| active.is_full(self.limits)) {
            state.retire();
            self.changed.notify_all();
        }
        let active = match &mut state.active {
            Some(active) => active,
            // Made at the first record, so that a run with nothing to do leaves nothing behind.
            empty => empty.insert(Active::create(self)?),
        };
        let span = match active.writer.append(&framed, payload_length) {
            Ok(span) => span,
            Err(error) => {
                if active.writer.is_broken {
                    state.retire();
                    self.changed.notify_all();
                }
                return Err(error);
            }
        };
        active.contents.add(&head, span);
        if active.unsynced_since.is_none() {
            active.unsynced_since = Some(Instant::now());
            self.changed.notify_all();
        }
        let counts = CallCounts::of(&head);
        if counts.calls() > 0 {
            state.session(&head.stage).add(&counts);
        }
        Ok(())
    }

    /// Makes every record durable.
    pub(crate) fn sync(&self) -> Result<(), LedgerError> {
        let files: Vec<_> = {
            let mut state = self.state();
            if let Some(trouble) = state.trouble.take() {
                return Err(trouble);
            }
            let active = state.active.as_mut().map(|active| {
                active.unsynced_since = None;
                (active.id, Arc::clone(&active.writer.storage))
            });
            state.retired.iter().map(|retired| (retired.id, Arc::clone(&retired.file))).chain(active).collect()
        };
        for (id, file) in files {
            file.sync_data().map_err(|source| LedgerError::io(&id.log(&self.directory), source))?;
        }
        Ok(())
    }

    /// Seals the oldest segment that waits for it.
    pub(crate) fn seal_retired(&self) {
        let Some((retired, contents)) = ({
            let state = self.state();
            state.retired.first().and_then(|retired| Some((retired.clone(), state.live.get(&retired.id).cloned()?)))
        }) else {
            return;
        };
        let path = retired.id.log(&self.directory);
        if contents.length == 0 {
            // Not even the first record could be written.
            self.state().live.remove(&retired.id);
            return self.retired_is_done(retired.id, directory::remove(&path));
        }
        // Behind the last whole record there is only what a full disk left.
        let synced = retired.file.set_len(contents.length).and_then(|()| retired.file.sync_data());
        let sealed = synced
            .map_err(|source| LedgerError::io(&path, source))
            .and_then(|()| self.write_index(retired.id, contents));
        self.retired_is_done(retired.id, sealed);
    }

    fn retired_is_done(&self, id: SegmentId, done: Result<(), LedgerError>) {
        let mut state = self.state();
        state.retired.retain(|other| other.id != id);
        if let Err(error) = done {
            state.trouble = Some(error);
        }
        self.changed.notify_all();
    }

    /// Hands the active segment over to be sealed.
    pub(crate) fn retire(&self) {
        self.state().retire();
        self.changed.notify_all();
    }

    /// Waits until every full segment has its index, and tells whether that worked.
    pub(crate) fn wait_until_sealed(&self) -> Result<(), LedgerError> {
        let mut state = self.state();
        while !state.retired.is_empty() {
            state = self.wait(state);
        }
        state.take_trouble()
    }

    /// Asks the threads beside the ledger to end when their work is done.
    pub(crate) fn close(&self) {
        self.state().is_closing = true;
        self.changed.notify_all();
    }

    pub(crate) fn count_reused(&self, stage: &str) {
        self.state().session(stage).calls_reused += 1;
    }

    pub(crate) fn session(&self, stage: &str) -> LedgerStats {
        self.state().session.get(stage).copied().unwrap_or_default()
    }

    pub(crate) fn report(&self) -> LedgerReport {
        let state = self.state();
        let mut total: BTreeMap<String, LedgerStats> = BTreeMap::new();
        state.each_statistics(|_, statistics| {
            for (stage, counts) in statistics.by_stage().filter(|(_, counts)| counts.calls() > 0) {
                total.entry(stage.to_owned()).or_default().add(counts);
            }
        });
        for (stage, session) in &state.session {
            total.entry(stage.clone()).or_default().calls_reused += session.calls_reused;
        }
        LedgerReport { session: state.session.clone(), total, torn_bytes: state.torn_bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let mut records = 0;
        self.state().each_statistics(|_, statistics| records += statistics.records);
        records == 0
    }

    /// Makes an index anew that turned out damaged while it was read through.
    pub(crate) fn mend_and<T>(
        &self,
        attempt: impl Fn() -> Result<Result<T, SegmentId>, LedgerError>,
    ) -> Result<T, LedgerError> {
        let sealed = self.state().sealed.len();
        for _ in 0..=sealed {
            match attempt()? {
                Ok(value) => return Ok(value),
                // Each time one fewer is damaged, unless the disk itself is at fault.
                Err(id) => self.mend(id)?,
            }
        }
        Err(self.unreadable())
    }

    fn unreadable(&self) -> LedgerError {
        let reason = "what was just written reads differently; check the disk".to_owned();
        LedgerError::Corrupt { path: self.directory.clone(), offset: 0, reason }
    }
}

impl State {
    /// Whether nothing more can be learnt about the segment `id`.
    fn is_settled(&self, id: SegmentId) -> bool {
        self.active.as_ref().is_some_and(|active| active.id == id)
            || self.retired.iter().any(|retired| retired.id == id)
            || self.sealed.binary_search_by_key(&id, |sealed| sealed.id).is_ok()
    }

    fn seal(&mut self, segment: Sealed) {
        let id = segment.id;
        self.live.remove(&id);
        let sealed = Arc::make_mut(&mut self.sealed);
        match sealed.binary_search_by_key(&id, |sealed| sealed.id) {
            Ok(place) => sealed[place] = Arc::new(segment),
            Err(place) => sealed.insert(place, Arc::new(segment)),
        }
    }

    fn keep_in_memory(&mut self, id: SegmentId, contents: Arc<Contents>) {
        Arc::make_mut(&mut self.sealed).retain(|sealed| sealed.id != id);
        self.live.insert(id, contents);
    }

    fn retire(&mut self) {
        if let Some(active) = self.active.take() {
            self.live.insert(active.id, Arc::new(active.contents));
            self.retired.push(Retired { id: active.id, file: active.writer.storage });
        }
    }

    fn positions_in_memory(&self, key: &CallKey) -> (Option<SegmentId>, Option<Effective>) {
        let (mut first, mut best) = (None, None);
        for (id, entry) in self.in_memory().filter_map(|(id, contents)| Some((id, contents.get(key)?))) {
            first = Some(first.map_or(id, |first: SegmentId| first.min(id)));
            Effective::consider(&mut best, id, entry);
        }
        (first, best)
    }

    /// The segments whose keys are in memory.
    pub(crate) fn in_memory(&self) -> impl Iterator<Item = (SegmentId, &Contents)> {
        let active = self.active.iter().map(|active| (active.id, &active.contents));
        self.live.iter().map(|(id, contents)| (*id, &**contents)).chain(active)
    }

    /// Every segment's statistics, in order.
    pub(crate) fn each_statistics(&self, mut each: impl FnMut(SegmentId, &SegmentStatistics)) {
        let sealed = self.sealed.iter().map(|sealed| (sealed.id, &sealed.index.statistics));
        let in_memory = self.in_memory().map(|(id, contents)| (id, &contents.statistics));
        let all: BTreeMap<_, _> = sealed.chain(in_memory).collect();
        for (id, statistics) in all {
            each(id, statistics);
        }
    }

    fn session(&mut self, stage: &str) -> &mut LedgerStats {
        self.session.entry(stage.to_owned()).or_default()
    }

    /// Since when a record waits to be made durable.
    pub(crate) fn unsynced_since(&self) -> Option<Instant> {
        self.active.as_ref().and_then(|active| active.unsynced_since)
    }

    /// Takes the keys of the sealed segments out, to read them without holding the state.
    pub(crate) fn sealed(&self) -> Arc<Vec<Arc<Sealed>>> {
        Arc::clone(&self.sealed)
    }

    pub(crate) fn take_trouble(&mut self) -> Result<(), LedgerError> {
        mem::take(&mut self.trouble).map_or(Ok(()), Err)
    }
}

impl Active {
    fn create(segments: &Segments) -> Result<Self, LedgerError> {
        let (id, writer) = create_segment(&segments.directory, segments.writer)?;
        let contents = Contents::default();
        Ok(Self { id, writer, contents, created: Instant::now(), unsynced_since: None })
    }

    fn is_full(&self, limits: Limits) -> bool {
        self.writer.length() >= limits.bytes || self.contents.statistics.records >= limits.records
    }
}
