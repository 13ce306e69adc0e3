//! The segment that a process appends to.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use opencharacter_storage::sync_directory_of;

use crate::{
    LedgerError,
    directory::{self, SegmentId, WriterId},
    frame::Span,
};

/// What a segment is written to: a file, or in tests a disk that fills up.
pub(crate) trait Storage {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

impl Storage for Arc<File> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.as_ref().write_all(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Appends whole records.
#[derive(Debug)]
pub(crate) struct SegmentWriter<S> {
    pub(crate) storage: S,
    path: PathBuf,
    length: u64,
    /// A torn record that could not be cut off stands at the end: nothing may be written behind it.
    pub(crate) is_broken: bool,
}

impl<S: Storage> SegmentWriter<S> {
    pub(crate) fn new(storage: S, path: PathBuf) -> Self {
        Self { storage, path, length: 0, is_broken: false }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Writes one frame whole. On failure the segment ends where it ended before.
    pub(crate) fn append(&mut self, framed: &[u8], payload_length: u32) -> Result<Span, LedgerError> {
        if let Err(source) = self.storage.append(framed) {
            self.is_broken = self.storage.truncate(self.length).is_err();
            return Err(LedgerError::io(&self.path, source));
        }
        let span = Span { offset: self.length, length: payload_length };
        self.length = span.end();
        Ok(span)
    }
}

/// A new segment of `writer` behind all that are there, locked for as long as its file is open.
pub(crate) fn create_segment(
    directory: &Path,
    writer: WriterId,
) -> Result<(SegmentId, SegmentWriter<Arc<File>>), LedgerError> {
    let last = directory::segments(directory)?.last().map_or(0, |id| id.number);
    for number in last + 1.. {
        let id = SegmentId { number, writer };
        let path = id.log(directory);
        let failed = |source| LedgerError::io(&path, source);
        let file = match File::options().append(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other.map_err(failed)?,
        };
        // Somebody who just looks whether this segment has a writer may hold the lock for a moment; it is empty, and
        // an empty one is left alone.
        file.lock().map_err(failed)?;
        // Of a segment of that number that was moved away.
        directory::remove(&id.index(directory))?;
        sync_directory_of(&path);
        return Ok((id, SegmentWriter::new(Arc::new(file), path)));
    }
    Err(LedgerError::io(directory, io::Error::other("there are no segment numbers left")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::frame_payload;

    /// A disk with room for `room` bytes that writes what fits before it fails.
    struct SmallDisk {
        bytes: Vec<u8>,
        room: usize,
    }

    impl Storage for SmallDisk {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let fits = bytes.len().min(self.room - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..fits]);
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn truncate(&mut self, length: u64) -> io::Result<()> {
            self.bytes.truncate(length as usize);
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_keeps_every_record_before() {
        let disk = SmallDisk { bytes: Vec::new(), room: 60 };
        let mut writer = SegmentWriter::new(disk, PathBuf::from("segment-000001.log"));
        let mut append = |payload: &[u8]| {
            writer.append(&frame_payload(payload), payload.len() as u32)?;
            Ok::<_, LedgerError>(writer.storage.bytes.clone())
        };
        let kept = append(b"\"first record\"").unwrap();
        let error = append(&[b' '; 40]).unwrap_err();
        assert!(matches!(error, LedgerError::Full { .. }), "{error}");
        assert!(error.to_string().contains("free space and run again"), "{error}");
        let after = append(b"\"small\"").unwrap();
        assert_eq!(after, [kept, frame_payload(b"\"small\"")].concat());
    }
}
