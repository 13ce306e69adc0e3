//! One segment file of the ledger: checksummed frames, a torn end, and what damage looks like.
//!
//! A frame is four bytes of mark, the payload's length and the checksum (both little-endian `u32`), the payload
//! (JSON) and a line feed. The mark begins with 0xF5, a byte that UTF-8 never uses, so a mark inside a payload is
//! impossible and the search for the next whole frame after damage is exact.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::LedgerError;

const MARK: [u8; 4] = [0xF5, b'O', b'C', b'1'];
const HEADER: usize = 12;
/// Longer payloads than this are taken for damage; an answer is far shorter.
const LONGEST: u32 = 256 << 20;
/// `fsync` costs milliseconds. A second is what a power cut, not a killed process, may lose.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Where a payload lies in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// `payload` in its frame.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let mut framed = Vec::with_capacity(HEADER + payload.len() + 1);
    framed.extend_from_slice(&MARK);
    framed.extend_from_slice(&length);
    framed.extend_from_slice(&checksum(&length, payload).to_le_bytes());
    framed.extend_from_slice(payload);
    framed.push(b'\n');
    framed
}

fn checksum(length: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(payload);
    hasher.finalize()
}

/// Reads every whole record of a segment, then cuts a torn end off the file.
///
/// Returns how many bytes were cut off. A damaged record that whole ones follow is an error: cutting there would
/// lose them.
pub(crate) fn read_segment(
    path: &Path,
    mut each: impl FnMut(Span, &[u8]) -> Result<(), String>,
) -> Result<u64, LedgerError> {
    let failed = |source| LedgerError::Io { path: path.to_owned(), source };
    let file = File::options().read(true).write(true).open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut reader = BufReader::new(&file);
    let mut offset = 0;
    let mut payload = Vec::new();
    while offset < length {
        if let Err(reason) = read_frame(&mut reader, &mut payload).map_err(failed)? {
            refuse_damage_in_the_middle(path, &file, offset, reason)?;
            file.set_len(offset).and_then(|()| file.sync_all()).map_err(failed)?;
            return Ok(length - offset);
        }
        let span = Span { offset: offset + HEADER as u64, length: payload.len() as u32 };
        each(span, &payload).map_err(|reason| LedgerError::Corrupt { path: path.to_owned(), offset, reason })?;
        offset += (HEADER + payload.len() + 1) as u64;
    }
    Ok(0)
}

/// One frame's payload, or what is wrong with it.
fn read_frame(reader: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<Result<(), &'static str>> {
    let mut header = Vec::with_capacity(HEADER);
    reader.take(HEADER as u64).read_to_end(&mut header)?;
    let [m0, m1, m2, m3, l0, l1, l2, l3, c0, c1, c2, c3] = header[..] else {
        return Ok(Err("the record's head is short"));
    };
    if [m0, m1, m2, m3] != MARK {
        return Ok(Err("no record begins here"));
    }
    let length = [l0, l1, l2, l3];
    let payload_length = u32::from_le_bytes(length);
    if payload_length > LONGEST {
        return Ok(Err("the record's length is impossible"));
    }
    payload.clear();
    reader.take(u64::from(payload_length) + 1).read_to_end(payload)?;
    if payload.len() as u64 != u64::from(payload_length) + 1 {
        return Ok(Err("the record is short"));
    }
    if payload.pop() != Some(b'\n') || checksum(&length, payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Ok(Err("the record's checksum does not match"));
    }
    Ok(Ok(()))
}

fn refuse_damage_in_the_middle(
    path: &Path,
    mut file: &File,
    offset: u64,
    reason: &'static str,
) -> Result<(), LedgerError> {
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_to_end(&mut rest))
        .map_err(|source| LedgerError::Io { path: path.to_owned(), source })?;
    let mut payload = Vec::new();
    let whole_one_follows = rest.windows(MARK.len()).enumerate().skip(1).any(|(start, window)| {
        // Reading from memory does not fail.
        window == MARK && matches!(read_frame(&mut &rest[start..], &mut payload), Ok(Ok(())))
    });
    if whole_one_follows {
        return Err(LedgerError::Corrupt { path: path.to_owned(), offset, reason: reason.to_owned() });
    }
    Ok(())
}

/// The payload at `span`.
pub(crate) fn read_span(path: &Path, span: Span) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(span.offset))?;
    let mut payload = vec![0; span.length as usize];
    file.read_exact(&mut payload)?;
    Ok(payload)
}

/// What a segment is written to: a file, or in tests a disk that fills up.
pub(crate) trait Storage: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
}

impl Storage for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// The segment that a process appends to.
pub(crate) struct SegmentWriter<S> {
    storage: S,
    path: PathBuf,
    length: u64,
    unsynced: bool,
    last_sync: Instant,
}

impl<S: Storage> SegmentWriter<S> {
    pub(crate) fn new(storage: S, path: PathBuf) -> Self {
        Self { storage, path, length: 0, unsynced: false, last_sync: Instant::now() }
    }

    /// Writes one record whole. On failure the segment ends where it ended before.
    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<Span, LedgerError> {
        let framed = frame(payload);
        if let Err(source) = self.storage.append(&framed) {
            // If this fails as well, the next open drops the torn end.
            let _ = self.storage.truncate(self.length);
            return Err(self.failure(source));
        }
        let span = Span { offset: self.length + HEADER as u64, length: payload.len() as u32 };
        self.length += framed.len() as u64;
        self.unsynced = true;
        if self.last_sync.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(span)
    }

    /// Makes what was appended durable.
    pub(crate) fn sync(&mut self) -> Result<(), LedgerError> {
        if !self.unsynced {
            return Ok(());
        }
        self.storage.sync().map_err(|source| self.failure(source))?;
        self.unsynced = false;
        self.last_sync = Instant::now();
        Ok(())
    }

    fn failure(&self, source: io::Error) -> LedgerError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                LedgerError::Full { path, source }
            }
            _ => LedgerError::Io { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_keeps_every_record_before() {
        let disk = SmallDisk { bytes: Vec::new(), room: 60 };
        let mut writer = SegmentWriter::new(disk, PathBuf::from("segment-000001.log"));
        writer.append(b"\"first record\"").unwrap();
        let kept = writer.storage.bytes.clone();
        let error = writer.append(&[b' '; 40]).unwrap_err();
        assert!(matches!(error, LedgerError::Full { .. }), "{error}");
        assert!(error.to_string().contains("free space and run again"), "{error}");
        assert_eq!(writer.storage.bytes, kept);
        writer.append(b"\"small\"").unwrap();
        assert_eq!(writer.storage.bytes, [kept, frame(b"\"small\"")].concat());
    }
}
