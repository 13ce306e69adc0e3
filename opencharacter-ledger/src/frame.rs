//! A record's frame, and reading frames one after another.
//!
//! A frame is four bytes of mark, the payload's length and the checksum (both little-endian `u32`), the payload
//! (JSON) and a line feed. The mark begins with 0xF5, a byte that UTF-8 never uses, so a mark inside a payload is
//! impossible and the search for the next whole frame after damage is exact.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use serde::Serialize;

const MARK: [u8; 4] = [0xF5, b'O', b'C', b'1'];
const HEADER: usize = 12;
/// Bytes of a frame that are not its payload.
pub(crate) const AROUND: usize = HEADER + 1;
/// Longer payloads than this are taken for damage; an answer is far shorter.
const LONGEST: u32 = 256 << 20;

/// Where a frame lies in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Of the frame's first byte.
    pub(crate) offset: u64,
    /// Of the payload.
    pub(crate) length: u32,
}

impl Span {
    /// The offset behind the frame.
    pub(crate) fn end(self) -> u64 {
        self.offset + frame_length(self.length) as u64
    }
}

fn frame_length(payload: u32) -> usize {
    HEADER + payload as usize + 1
}

/// `content` as JSON in a frame.
pub(crate) fn frame(content: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut framed = Vec::with_capacity(2048);
    framed.extend_from_slice(&[0; HEADER]);
    serde_json::to_writer(&mut framed, content)?;
    close(&mut framed);
    Ok(framed)
}

/// `payload` in a frame.
pub(crate) fn frame_payload(payload: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEADER + payload.len() + 1);
    framed.extend_from_slice(&[0; HEADER]);
    framed.extend_from_slice(payload);
    close(&mut framed);
    framed
}

/// Fills in the head that was left free, and ends the frame.
fn close(framed: &mut Vec<u8>) {
    let (head, payload) = framed.split_at_mut(HEADER);
    let length = (payload.len() as u32).to_le_bytes();
    head[..4].copy_from_slice(&MARK);
    head[4..8].copy_from_slice(&length);
    head[8..].copy_from_slice(&checksum(&length, payload).to_le_bytes());
    framed.push(b'\n');
}

fn checksum(length: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(payload);
    hasher.finalize()
}

/// A frame's head that can be one: the payload's length and checksum.
fn read_head(head: &[u8]) -> Result<(u32, u32), &'static str> {
    let [m0, m1, m2, m3, l0, l1, l2, l3, c0, c1, c2, c3] = *head else {
        return Err("the record's head is short");
    };
    if [m0, m1, m2, m3] != MARK {
        return Err("no record begins here");
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length > LONGEST {
        return Err("the record's length is impossible");
    }
    Ok((length, u32::from_le_bytes([c0, c1, c2, c3])))
}

/// Takes the line feed off `body`, which is then the payload.
fn check_body(body: &mut Vec<u8>, length: u32, expected: u32) -> Result<(), &'static str> {
    if body.len() as u64 != u64::from(length) + 1 {
        return Err("the record is short");
    }
    if body.pop() != Some(b'\n') || checksum(&length.to_le_bytes(), body) != expected {
        return Err("the record's checksum does not match");
    }
    Ok(())
}

/// One frame's payload, or what is wrong with it.
fn read_frame(reader: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<Result<(), &'static str>> {
    let mut head = [0; HEADER];
    let mut filled = 0;
    while filled < HEADER {
        match reader.read(&mut head[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (length, expected) = match read_head(&head[..filled]) {
        Ok(head) => head,
        Err(reason) => return Ok(Err(reason)),
    };
    payload.clear();
    reader.take(u64::from(length) + 1).read_to_end(payload)?;
    Ok(check_body(payload, length, expected))
}

/// The payload of the frame at `span`, or what is wrong with it.
pub(crate) fn read_frame_at(file: &File, span: Span) -> io::Result<Result<Vec<u8>, &'static str>> {
    let mut framed = vec![0; frame_length(span.length)];
    match file.read_exact_at(&mut framed, span.offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Err("the record is short")),
        other => other?,
    }
    let checked = read_head(&framed[..HEADER]).and_then(|(length, expected)| {
        framed.drain(..HEADER);
        check_body(&mut framed, length, expected)
    });
    Ok(checked.map(|()| framed))
}

/// What lies next in a segment.
pub(crate) enum Step<'a> {
    /// A whole frame.
    Frame(Span, &'a [u8]),
    /// No whole frame begins at this offset.
    Damaged(u64, &'static str),
    /// The end.
    End,
}

/// Reads a segment's frames in order, up to the length that it has now.
pub(crate) struct Frames {
    reader: BufReader<File>,
    offset: u64,
    end: u64,
    payload: Vec<u8>,
}

impl Frames {
    pub(crate) fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { reader: BufReader::with_capacity(1 << 17, file), offset, end, payload: Vec::new() })
    }

    /// The length that the segment had when reading began.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn next(&mut self) -> io::Result<Step<'_>> {
        if self.offset >= self.end {
            return Ok(Step::End);
        }
        // Not past `end`: what a writer appends meanwhile would be a frame that is short now and whole later.
        let mut bounded = (&mut self.reader).take(self.end - self.offset);
        if let Err(reason) = read_frame(&mut bounded, &mut self.payload)? {
            return Ok(Step::Damaged(self.offset, reason));
        }
        let span = Span { offset: self.offset, length: self.payload.len() as u32 };
        self.offset = span.end();
        Ok(Step::Frame(span, &self.payload))
    }

    /// Goes on behind damage: to the next whole frame, whose offset is returned, or to the end.
    pub(crate) fn skip_damage(&mut self) -> io::Result<Option<u64>> {
        let found = whole_frame_after(self.reader.get_ref(), self.offset, self.end)?;
        self.offset = found.unwrap_or(self.end);
        self.reader.seek(SeekFrom::Start(self.offset))?;
        Ok(found)
    }
}

/// Where the next whole frame begins behind `offset`.
fn whole_frame_after(file: &File, offset: u64, end: u64) -> io::Result<Option<u64>> {
    const CHUNK: u64 = 1 << 20;
    let mut start = offset + 1;
    let mut chunk = Vec::new();
    while start < end {
        // Three bytes more than are advanced, for a mark that the chunk's end would cut.
        chunk.resize((end - start).min(CHUNK + 3) as usize, 0);
        file.read_exact_at(&mut chunk, start)?;
        for (place, _) in chunk.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK) {
            if is_whole(file, start + place as u64, end)? {
                return Ok(Some(start + place as u64));
            }
        }
        start += CHUNK;
    }
    Ok(None)
}

fn is_whole(file: &File, offset: u64, end: u64) -> io::Result<bool> {
    let mut head = [0; HEADER];
    if offset + HEADER as u64 > end {
        return Ok(false);
    }
    file.read_exact_at(&mut head, offset)?;
    let Ok((length, _)) = read_head(&head) else { return Ok(false) };
    let span = Span { offset, length };
    Ok(span.end() <= end && read_frame_at(file, span)?.is_ok())
}
