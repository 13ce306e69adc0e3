//! Rewriting a ledger to the records that count.
//!
//! New segments are written as `compacting-NNNNNN.log` with their indexes, which nobody reads. Then `compaction.json`
//! appears, which names the new and the old: that is the decision. What follows only carries it out and can be
//! repeated by whoever opens the ledger next: the new ones get their names, the old ones are removed, and
//! `compaction.json` last.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use opencharacter_storage::{AtomicFile, sync_directory_of};
use serde::{Deserialize, Serialize};

use crate::{
    LedgerError,
    contents::Contents,
    directory::{self, DirectoryLock, SegmentId, WriterId},
    frame::{AROUND, Frames, Span, Step, frame, frame_payload},
    index,
    record::{Carried, Payload},
    segments::{Limits, Segments},
    statistics::CallCounts,
};

const DECISION: &str = "compaction.json";

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CompactionReport {
    /// Records before.
    pub records_before: u64,
    /// Records after: one per key.
    pub records_after: u64,
    /// Bytes of the segments before.
    pub bytes_before: u64,
    /// Bytes of the segments after.
    pub bytes_after: u64,
}

/// What is to be done once the new segments are there.
#[derive(Serialize, Deserialize)]
struct Decision {
    replaces: Vec<String>,
    with: Vec<String>,
}

/// Called between any two changes to the directory, so that tests can stop there.
type Pause<'a> = &'a mut dyn FnMut() -> Result<(), LedgerError>;

pub(crate) fn compact(directory: &Path, limits: Limits, pause: Pause<'_>) -> Result<CompactionReport, LedgerError> {
    if !directory.is_dir() {
        return Err(LedgerError::io(directory, io::ErrorKind::NotFound.into()));
    }
    let _alone = DirectoryLock::exclusive(directory)?;
    if is_pending(directory) {
        roll_forward(directory, pause)?;
    }
    remove_leftovers(directory)?;
    let old = directory::segments(directory)?;
    if old.iter().any(|id| id.writer != WriterId::LOCAL) {
        return Err(LedgerError::Shared { dir: directory.to_owned() });
    }
    let segments = Segments::new(directory.to_owned(), WriterId::LOCAL, limits);
    segments.discover()?;
    let mut rewriting = Rewriting::new(&segments, &old, pause);
    rewriting.run(&old)?;
    let report = rewriting.report(&old)?;
    let with = rewriting.written.iter().map(ToString::to_string).collect();
    let pause = rewriting.pause;
    decide(directory, &Decision { replaces: old.iter().map(ToString::to_string).collect(), with })?;
    pause()?;
    roll_forward(directory, pause)?;
    Ok(report)
}

/// Whether a compaction was decided and not carried out to its end.
pub(crate) fn is_pending(directory: &Path) -> bool {
    directory.join(DECISION).exists()
}

fn decide(directory: &Path, decision: &Decision) -> Result<(), LedgerError> {
    let path = directory.join(DECISION);
    let write = || {
        let mut file = AtomicFile::create(&path)?;
        serde_json::to_writer(&mut file, decision)?;
        file.commit()
    };
    write().map_err(|source| LedgerError::io(&path, source))
}

/// Carries out what was decided; does nothing where somebody else did.
pub(crate) fn roll_forward(directory: &Path, pause: Pause<'_>) -> Result<(), LedgerError> {
    let path = directory.join(DECISION);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|source| LedgerError::io(&path, source))?,
    };
    let decision: Decision = serde_json::from_slice(&bytes).map_err(|error| LedgerError::io(&path, error.into()))?;
    for id in parse(&decision.with, &path)? {
        for (from, to) in [(new_log(directory, id), id.log(directory)), (new_index(directory, id), id.index(directory))]
        {
            match fs::rename(&from, &to) {
                // Done before.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|source| LedgerError::io(&from, source))?,
            }
            pause()?;
        }
    }
    sync_directory_of(&path);
    for id in parse(&decision.replaces, &path)? {
        directory::remove(&id.log(directory))?;
        pause()?;
        directory::remove(&id.index(directory))?;
        pause()?;
    }
    sync_directory_of(&path);
    directory::remove(&path)?;
    sync_directory_of(&path);
    Ok(())
}

fn parse(names: &[String], path: &Path) -> Result<Vec<SegmentId>, LedgerError> {
    let unknown = |name| LedgerError::io(path, io::Error::other(format!("`{name}` is no segment's name")));
    names.iter().map(|name| name.parse().map_err(|()| unknown(name))).collect()
}

/// What a compaction left that was killed before it was decided, and files that were never finished.
fn remove_leftovers(directory: &Path) -> Result<(), LedgerError> {
    for entry in fs::read_dir(directory).map_err(|source| LedgerError::io(directory, source))? {
        let entry = entry.map_err(|source| LedgerError::io(directory, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_temporary = || Path::new(&name).extension().is_some_and(|extension| extension == "tmp");
        if name.starts_with("compacting-") || name.starts_with('.') && is_temporary() {
            directory::remove(&entry.path())?;
        }
    }
    Ok(())
}

fn new_log(directory: &Path, id: SegmentId) -> PathBuf {
    directory.join(format!("compacting-{:06}.log", id.number))
}

fn new_index(directory: &Path, id: SegmentId) -> PathBuf {
    directory.join(format!("compacting-{:06}.index", id.number))
}

/// A new segment being written.
struct Part {
    id: SegmentId,
    file: BufWriter<File>,
    contents: Contents,
}

struct Rewriting<'a> {
    segments: &'a Segments,
    pause: Pause<'a>,
    last_number: u32,
    part: Option<Part>,
    written: Vec<SegmentId>,
    dropped: BTreeMap<String, CallCounts>,
    records_before: u64,
    records_after: u64,
}

impl<'a> Rewriting<'a> {
    fn new(segments: &'a Segments, old: &[SegmentId], pause: Pause<'a>) -> Self {
        Self {
            segments,
            pause,
            last_number: old.last().map_or(0, |id| id.number),
            part: None,
            written: Vec::new(),
            dropped: BTreeMap::new(),
            records_before: 0,
            records_after: 0,
        }
    }

    fn run(&mut self, old: &[SegmentId]) -> Result<(), LedgerError> {
        for id in old {
            self.rewrite(*id)?;
        }
        if !self.dropped.is_empty() {
            let carried = Carried { carried: std::mem::take(&mut self.dropped) };
            let path = &self.segments.directory;
            let framed = frame(&carried).map_err(|error| LedgerError::io(path, error.into()))?;
            self.write(&framed)?;
        }
        self.finish_part()
    }

    /// Copies what counts of the keys that come first in the segment `id`; counts what does not count in it.
    fn rewrite(&mut self, id: SegmentId) -> Result<(), LedgerError> {
        let path = id.log(&self.segments.directory);
        let failed = |source| LedgerError::io(&path, source);
        let mut seen = HashSet::new();
        let mut frames = Frames::open(&path, 0).map_err(failed)?;
        loop {
            let (span, payload) = match frames.next().map_err(failed)? {
                Step::End => return Ok(()),
                Step::Frame(span, payload) => (span, payload),
                Step::Damaged(offset, reason) => {
                    return Err(LedgerError::Corrupt { path, offset, reason: reason.to_owned() });
                }
            };
            let corrupt = |reason| LedgerError::Corrupt { path: path.clone(), offset: span.offset, reason };
            let head = match Payload::parse(payload).map_err(corrupt)? {
                Payload::Record(head) => head,
                Payload::Carried(carried) => {
                    for (stage, counts) in carried.carried {
                        self.dropped.entry(stage).or_default().add(&counts);
                    }
                    continue;
                }
            };
            self.records_before += 1;
            let found = self.segments.first_and_effective(&head.key)?;
            let Some((first, effective)) = found else {
                return Err(corrupt("the segment's index does not know its key".to_owned()));
            };
            if effective.place() != (id, span.offset) {
                let counts = CallCounts::of(&head);
                if counts.calls() > 0 {
                    self.dropped.entry(head.stage.clone().into_owned()).or_default().add(&counts);
                }
            }
            if first == id && seen.insert(head.key) {
                let payload = self.segments.payload(effective)?;
                self.records_after += 1;
                self.write(&frame_payload(&payload))?;
            }
        }
    }

    /// Writes one frame, into a new segment if the last one is full.
    fn write(&mut self, framed: &[u8]) -> Result<(), LedgerError> {
        let is_full = self.part.as_ref().is_some_and(|part| {
            let limits = self.segments.limits;
            part.contents.length >= limits.bytes || part.contents.statistics.records >= limits.records
        });
        if is_full {
            self.finish_part()?;
        }
        let directory = &self.segments.directory;
        let part = match &mut self.part {
            Some(part) => part,
            empty => {
                self.last_number += 1;
                let id = SegmentId { number: self.last_number, writer: WriterId::LOCAL };
                let path = new_log(directory, id);
                let file = File::create(&path).map_err(|source| LedgerError::io(&path, source))?;
                empty.insert(Part { id, file: BufWriter::with_capacity(1 << 17, file), contents: Contents::default() })
            }
        };
        let path = new_log(directory, part.id);
        part.file.write_all(framed).map_err(|source| LedgerError::io(&path, source))?;
        let span = Span { offset: part.contents.length, length: (framed.len() - AROUND) as u32 };
        let payload = &framed[AROUND - 1..framed.len() - 1];
        let added = part.contents.add_payload(span, payload);
        added.map_err(|reason| LedgerError::Corrupt { path, offset: span.offset, reason })
    }

    fn finish_part(&mut self) -> Result<(), LedgerError> {
        let Some(part) = self.part.take() else { return Ok(()) };
        let directory = &self.segments.directory;
        let (path, index_path) = (new_log(directory, part.id), new_index(directory, part.id));
        let file = part.file.into_inner().map_err(|error| LedgerError::io(&path, error.into_error()))?;
        file.sync_all().map_err(|source| LedgerError::io(&path, source))?;
        (self.pause)()?;
        index::write(&part.contents, &index_path).map_err(|source| LedgerError::io(&index_path, source))?;
        (self.pause)()?;
        self.written.push(part.id);
        Ok(())
    }

    fn report(&self, old: &[SegmentId]) -> Result<CompactionReport, LedgerError> {
        let directory = &self.segments.directory;
        let bytes = |path: PathBuf| {
            fs::metadata(&path).map(|metadata| metadata.len()).map_err(|source| LedgerError::io(&path, source))
        };
        Ok(CompactionReport {
            records_before: self.records_before,
            records_after: self.records_after,
            bytes_before: old.iter().map(|id| bytes(id.log(directory))).sum::<Result<_, _>>()?,
            bytes_after: self.written.iter().map(|id| bytes(new_log(directory, *id))).sum::<Result<_, _>>()?,
        })
    }
}
