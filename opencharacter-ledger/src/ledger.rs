//! The ledger: nothing lost, nothing twice, nothing made up.
//!
//! A directory of append-only segments (`segment-000001.log`, ...), one per process that wrote. Records are kept on
//! disk; memory holds a key and a place for each, about 70 bytes. The last record of a key is the one that counts.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opencharacter_core::{Completion, GenerateRequest, Message, Sampling, Score, ScoreRequest, content_hash};
use opencharacter_storage::sync_directory_of;
use serde::{Deserialize, Serialize};

use crate::{
    LedgerError,
    segment::{SegmentWriter, Span, read_segment, read_span},
};

/// What was asked, and of whom: a hash over the kind of call, the model's fingerprint, the messages and, for an
/// answer, sampling (seed included) and schema. Equal keys have equal answers. Shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CallKey([u8; 32]);

impl CallKey {
    /// The key of asking `model` (its fingerprint) for an answer.
    pub fn of_generate(model: &str, request: &GenerateRequest) -> Self {
        Self::of(model, "generate", &request.messages, Some(&request.sampling), request.schema.as_ref())
    }

    /// The key of asking `model` (its fingerprint) for a score.
    pub fn of_score(model: &str, request: &ScoreRequest) -> Self {
        Self::of(model, "score", &request.messages, None, None)
    }

    fn of(
        model: &str,
        kind: &str,
        messages: &[Message],
        sampling: Option<&Sampling>,
        schema: Option<&serde_json::Value>,
    ) -> Self {
        // The order of a schema's properties is kept, not sorted away: it is the order they are generated in.
        let asked = serde_json::json!({ "messages": messages, "sampling": sampling, "schema": schema });
        Self(content_hash(&[kind, model, &asked.to_string()]))
    }
}

impl fmt::Display for CallKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for CallKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CallKey({self})")
    }
}

impl From<CallKey> for String {
    fn from(key: CallKey) -> Self {
        key.to_string()
    }
}

impl FromStr for CallKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("expected 64 hexadecimal digits, found `{text}`");
        if text.len() != 64 || !text.is_ascii() {
            return Err(malformed());
        }
        let mut key = [0; 32];
        for (index, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| malformed())?;
        }
        Ok(Self(key))
    }
}

impl TryFrom<String> for CallKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// The model was not there or cannot do such calls.
    Provider,
    /// The model refused this very request.
    Task,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// An answer that passed its check.
    Accepted {
        /// The answer.
        completion: Completion,
    },
    /// An answer that did not.
    Rejected {
        /// The answer.
        completion: Completion,
        /// The check's reason.
        reason: String,
    },
    /// A likelihood.
    Scored {
        /// The likelihood.
        score: Score,
    },
    /// No answer. Never returned as a result: the call is made again when it is needed again.
    Failed {
        /// Whose fault it was.
        class: FailureClass,
        /// What the model said.
        reason: String,
    },
}

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked.
    pub key: CallKey,
    /// The id of the item that it was asked for.
    pub item: String,
    /// The stage that asked.
    pub stage: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How long the call took; 0 for a record that cost no call.
    pub seconds: f64,
    /// Tokens of the prompt; 0 for a record that cost no call.
    pub prompt_tokens: usize,
    /// Tokens generated; 0 for a record that cost no call.
    pub completion_tokens: usize,
    /// Whether this is an earlier answer judged anew under a changed check: a record that cost no call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rejudged: bool,
}

/// What calls were made and what they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerStats {
    /// Calls to the model, failed ones included.
    pub calls_made: usize,
    /// Calls spared because the ledger knew the answer. Counted since opening only.
    pub calls_reused: usize,
    /// Tokens of the prompts of calls made.
    pub prompt_tokens: usize,
    /// Tokens generated by calls made.
    pub completion_tokens: usize,
    /// Sum of the calls' durations; concurrent calls add up to more than the clock shows.
    pub seconds: f64,
}

impl LedgerStats {
    fn add_call(&mut self, seconds: f64, prompt_tokens: usize, completion_tokens: usize) {
        self.calls_made += 1;
        self.seconds += seconds;
        self.prompt_tokens += prompt_tokens;
        self.completion_tokens += completion_tokens;
    }
}

/// [`LedgerStats`] per stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerReport {
    /// Since the ledger was opened.
    pub session: BTreeMap<String, LedgerStats>,
    /// Since the ledger exists.
    pub total: BTreeMap<String, LedgerStats>,
    /// Bytes of torn records dropped when the ledger was opened.
    pub torn_bytes: u64,
}

/// The part of a record that the index and the statistics need.
#[derive(Deserialize)]
struct RecordHead {
    key: CallKey,
    stage: String,
    seconds: f64,
    prompt_tokens: usize,
    completion_tokens: usize,
    #[serde(default)]
    rejudged: bool,
}

/// A ledger opened for reading and appending. One process at a time.
pub struct Ledger {
    directory: PathBuf,
    // Held for its lock.
    _lock: File,
    state: Mutex<State>,
    flights: Mutex<HashMap<CallKey, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Default)]
struct State {
    index: HashMap<CallKey, (u32, Span)>,
    last_segment: u32,
    writer: Option<SegmentWriter<File>>,
    report: LedgerReport,
}

impl Ledger {
    /// Opens the ledger in `directory`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`LedgerError::Locked`] while another process (or this one) has it open,
    /// [`LedgerError::Corrupt`] for damage other than a torn end, [`LedgerError::Io`] for what the system
    /// refuses.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, LedgerError> {
        let directory = directory.as_ref().to_owned();
        let failed = |source| LedgerError::Io { path: directory.clone(), source };
        fs::create_dir_all(&directory).map_err(failed)?;
        let lock = lock(&directory)?;
        let mut state = State::default();
        let mut segments = segment_numbers(&directory).map_err(failed)?;
        segments.sort_unstable();
        for number in segments {
            state.read(&directory, number)?;
        }
        Ok(Self { directory, _lock: lock, state: Mutex::new(state), flights: Mutex::default() })
    }

    /// The last record of `key`.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when its segment can no longer be read.
    pub fn lookup(&self, key: &CallKey) -> Result<Option<Record>, LedgerError> {
        let Some((segment, span)) = self.state().index.get(key).copied() else {
            return Ok(None);
        };
        let path = segment_path(&self.directory, segment);
        let record = read_span(&path, span).and_then(|payload| Ok(serde_json::from_slice(&payload)?));
        record.map(Some).map_err(|source| LedgerError::Io { path, source })
    }

    /// Appends one record; when this returns, a killed process no longer loses it.
    ///
    /// # Errors
    /// [`LedgerError::Full`] without space, [`LedgerError::Io`] otherwise; the ledger is then as before.
    pub fn append(&self, record: &Record) -> Result<(), LedgerError> {
        let payload = serde_json::to_vec(record)
            .map_err(|error| LedgerError::Io { path: self.directory.clone(), source: error.into() })?;
        let mut state = self.state();
        let appended = state.writer(&self.directory)?.append(&payload);
        let span = appended.inspect_err(|_| {
            // The segment's end is in doubt if cutting it back failed too: never write behind a torn record.
            state.writer = None;
        })?;
        let segment = state.last_segment;
        state.index.insert(record.key, (segment, span));
        state.count(&record.stage, record.rejudged, record.seconds, record.prompt_tokens, record.completion_tokens);
        Ok(())
    }

    /// Makes every record durable against a power cut too. Happens by itself once a second and at the end.
    ///
    /// # Errors
    /// [`LedgerError::Io`] or [`LedgerError::Full`] when the system cannot.
    pub fn flush(&self) -> Result<(), LedgerError> {
        self.state().writer.as_mut().map_or(Ok(()), SegmentWriter::sync)
    }

    /// How many keys have a record.
    pub fn len(&self) -> usize {
        self.state().index.len()
    }

    /// Whether nothing was ever recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was called and what it cost.
    pub fn report(&self) -> LedgerReport {
        self.state().report.clone()
    }

    /// What `stage` called since the ledger was opened.
    pub fn session(&self, stage: &str) -> LedgerStats {
        self.state().report.session.get(stage).copied().unwrap_or_default()
    }

    pub(crate) fn count_reused(&self, stage: &str) {
        let mut state = self.state();
        state.report.session.entry(stage.to_owned()).or_default().calls_reused += 1;
        state.report.total.entry(stage.to_owned()).or_default().calls_reused += 1;
    }

    /// Waits until no other call with `key` is under way, and keeps others waiting until the guard is dropped.
    pub(crate) async fn fly(&self, key: CallKey) -> Flight<'_> {
        let gate = Arc::clone(self.flights().entry(key).or_default());
        let guard = Arc::clone(&gate).lock_owned().await;
        Flight { ledger: self, key, _guard: guard }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change to the state is a single insert or addition: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<CallKey, Arc<tokio::sync::Mutex<()>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Ledger")
            .field("directory", &self.directory)
            .field("records", &self.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Nobody is left to tell; the records are written, only not yet synced.
        let _ = self.flush();
    }
}

/// A call under way; see [`Ledger::fly`].
pub(crate) struct Flight<'a> {
    ledger: &'a Ledger,
    key: CallKey,
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.ledger.flights();
        // Two holders, the map and this guard: nobody waits, so the entry can go.
        if flights.get(&self.key).is_some_and(|gate| Arc::strong_count(gate) <= 2) {
            flights.remove(&self.key);
        }
    }
}

impl State {
    fn read(&mut self, directory: &Path, number: u32) -> Result<(), LedgerError> {
        let path = segment_path(directory, number);
        let torn = read_segment(&path, |span, payload| {
            let head: RecordHead = serde_json::from_slice(payload)
                .map_err(|error| format!("its record has a form that this version does not know ({error})"))?;
            self.index.insert(head.key, (number, span));
            if !head.rejudged {
                let stats = self.report.total.entry(head.stage).or_default();
                stats.add_call(head.seconds, head.prompt_tokens, head.completion_tokens);
            }
            Ok(())
        })?;
        self.report.torn_bytes += torn;
        self.last_segment = self.last_segment.max(number);
        Ok(())
    }

    /// The segment to append to; made at the first record, so that a run with nothing to do leaves nothing behind.
    fn writer(&mut self, directory: &Path) -> Result<&mut SegmentWriter<File>, LedgerError> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.next_segment(directory)?,
        };
        Ok(self.writer.insert(writer))
    }

    fn next_segment(&mut self, directory: &Path) -> Result<SegmentWriter<File>, LedgerError> {
        let path = segment_path(directory, self.last_segment + 1);
        let file = File::options()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| LedgerError::Io { path: path.clone(), source })?;
        sync_directory_of(&path);
        self.last_segment += 1;
        Ok(SegmentWriter::new(file, path))
    }

    fn count(&mut self, stage: &str, rejudged: bool, seconds: f64, prompt_tokens: usize, completion_tokens: usize) {
        if rejudged {
            return;
        }
        for stats in [&mut self.report.session, &mut self.report.total] {
            stats.entry(stage.to_owned()).or_default().add_call(seconds, prompt_tokens, completion_tokens);
        }
    }
}

fn lock(directory: &Path) -> Result<File, LedgerError> {
    let path = directory.join("lock");
    let failed = |source| LedgerError::Io { path: path.clone(), source };
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            // Only for the message: without it the other process is just "another".
            let _ = file.read_to_string(&mut process);
            let holder = match process.trim() {
                "" => "another process".to_owned(),
                number => format!("process {number}"),
            };
            return Err(LedgerError::Locked { dir: directory.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    // The number is a courtesy to whoever is refused; on a full disk the lock holds without it.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn segment_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("segment-{number:06}.log"))
}

fn segment_numbers(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number: Option<u32> =
            name.to_str().and_then(|name| name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok());
        numbers.extend(number);
    }
    Ok(numbers)
}
