//! A sealed segment's index: what opening reads, and how a key is found without it being in memory.
//!
//! All numbers are little-endian. A file is a head, a summary and blocks:
//!
//! | bytes | head |
//! | --- | --- |
//! | 8 | `OCINDEX\n` |
//! | 4 | version, 1 |
//! | 4 | CRC-32 of the rest of the head and of the summary |
//! | 8 | length of the segment that it belongs to |
//! | 8 | number of entries |
//! | 4, 4, 4, 4 | number of blocks, bytes of the filter, bytes of the statistics, 0 |
//!
//! The summary is a fence per block (the first key, 32 bytes, and the block's CRC-32), the Bloom filter and the
//! statistics (JSON). A block is up to 78 entries in the order of their keys: key (32), offset (8) and payload length (4)
//! of the record, stage (2), rule (2), kind (1), 0 (3).
//!
//! An index is never the truth: one that is missing, damaged, of another version or of another length of its segment
//! is made anew from the segment.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use opencharacter_storage::AtomicFile;

use crate::{
    CallKey,
    contents::Contents,
    filter::Filter,
    frame::Span,
    precedence::{Entry, Kind},
    statistics::SegmentStatistics,
};

const MAGIC: [u8; 8] = *b"OCINDEX\n";
const VERSION: u32 = 1;
const HEAD: usize = 48;
/// What the checksum is over begins here.
const CHECKED: usize = 16;
const FENCE: usize = 36;
const ENTRY: usize = 52;
/// As many as fit into a page.
const ENTRIES_PER_BLOCK: usize = 78;

/// What is kept of an index in memory: about 11 bits per key.
#[derive(Debug)]
pub(crate) struct Index {
    fences: Vec<Fence>,
    filter: Filter,
    pub(crate) statistics: SegmentStatistics,
    entries: u64,
    /// Where the first block begins.
    blocks: u64,
}

#[derive(Debug)]
struct Fence {
    first: CallKey,
    checksum: u32,
}

/// The index file is not what was written; make it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged;

/// The index of `contents`, byte for byte.
pub(crate) fn encode(contents: &Contents) -> io::Result<Vec<u8>> {
    let sorted = contents.sorted();
    let blocks: Vec<Vec<u8>> = sorted.chunks(ENTRIES_PER_BLOCK).map(encode_block).collect();
    let filter = Filter::of(sorted.iter().map(|(key, _)| key));
    let statistics = serde_json::to_vec(&contents.statistics)?;

    let mut bytes = Vec::with_capacity(HEAD + blocks.len() * (FENCE + ENTRIES_PER_BLOCK * ENTRY) + 2 * sorted.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&contents.length.to_le_bytes());
    bytes.extend_from_slice(&(sorted.len() as u64).to_le_bytes());
    for length in [blocks.len(), filter.bytes().len(), statistics.len(), 0] {
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
    }
    for (block, entries) in blocks.iter().zip(sorted.chunks(ENTRIES_PER_BLOCK)) {
        bytes.extend_from_slice(&entries[0].0.0);
        bytes.extend_from_slice(&crc32fast::hash(block).to_le_bytes());
    }
    bytes.extend_from_slice(filter.bytes());
    bytes.extend_from_slice(&statistics);
    let checksum = crc32fast::hash(&bytes[CHECKED..]);
    bytes[12..CHECKED].copy_from_slice(&checksum.to_le_bytes());
    bytes.extend(blocks.into_iter().flatten());
    Ok(bytes)
}

/// Writes the index of `contents` to `path`, whole or not at all.
pub(crate) fn write(contents: &Contents, path: &Path) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(&encode(contents)?)?;
    file.commit()
}

fn encode_block(entries: &[(CallKey, Entry)]) -> Vec<u8> {
    let mut block = Vec::with_capacity(entries.len() * ENTRY);
    for (key, entry) in entries {
        block.extend_from_slice(&key.0);
        block.extend_from_slice(&entry.span.offset.to_le_bytes());
        block.extend_from_slice(&entry.span.length.to_le_bytes());
        block.extend_from_slice(&entry.stage.to_le_bytes());
        block.extend_from_slice(&entry.rule.to_le_bytes());
        block.extend_from_slice(&[entry.kind.to_byte(), 0, 0, 0]);
    }
    block
}

fn decode_entry(bytes: &[u8]) -> Option<(CallKey, Entry)> {
    let entry = Entry {
        span: Span { offset: number(bytes, 32)?, length: u32::from_le_bytes(array(bytes, 40)?) },
        stage: u16::from_le_bytes(array(bytes, 44)?),
        rule: u16::from_le_bytes(array(bytes, 46)?),
        kind: Kind::from_byte(*bytes.get(48)?)?,
    };
    Some((CallKey(array(bytes, 0)?), entry))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

impl Index {
    /// The index at `path` of a segment of `segment_length` bytes; `None` if it must be made anew.
    pub(crate) fn read(path: &Path, segment_length: u64) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let length = file.metadata()?.len();
        let mut bytes = vec![0; HEAD];
        if length < HEAD as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut bytes, 0)?;
        let Some(layout) = Layout::of(&bytes)
            .filter(|layout| layout.segment_length == segment_length && layout.file_length() == length)
        else {
            return Ok(None);
        };
        bytes.resize(layout.blocks_begin(), 0);
        file.read_exact_at(&mut bytes[HEAD..], HEAD as u64)?;
        Ok(Self::decode(&bytes, &layout))
    }

    fn decode(bytes: &[u8], layout: &Layout) -> Option<Self> {
        if crc32fast::hash(&bytes[CHECKED..]) != layout.checksum {
            return None;
        }
        let (fences, rest) = bytes[HEAD..].split_at(layout.fences * FENCE);
        let (filter, statistics) = rest.split_at(layout.filter);
        let fences = fences.chunks_exact(FENCE).map(|fence| {
            Some(Fence { first: CallKey(array(fence, 0)?), checksum: u32::from_le_bytes(array(fence, 32)?) })
        });
        Some(Self {
            fences: fences.collect::<Option<_>>()?,
            filter: Filter::from_bytes(filter),
            statistics: serde_json::from_slice(statistics).ok()?,
            entries: layout.entries,
            blocks: layout.blocks_begin() as u64,
        })
    }

    /// How many keys it has.
    pub(crate) fn keys(&self) -> u64 {
        self.entries
    }

    /// False if `key` is certainly not in the segment.
    pub(crate) fn may_hold(&self, key: &CallKey) -> bool {
        self.filter.may_hold(key)
    }

    /// The entry of `key`, from the one block of `file` where it would be.
    pub(crate) fn find(&self, file: &File, key: &CallKey) -> io::Result<Result<Option<Entry>, Damaged>> {
        let Some(block) = self.fences.partition_point(|fence| fence.first <= *key).checked_sub(1) else {
            return Ok(Ok(None));
        };
        let bytes = match self.block(file, block)? {
            Ok(bytes) => bytes,
            Err(damaged) => return Ok(Err(damaged)),
        };
        let (mut low, mut high) = (0, bytes.len() / ENTRY);
        while low < high {
            let middle = usize::midpoint(low, high);
            let entry = &bytes[middle * ENTRY..(middle + 1) * ENTRY];
            match entry[..32].cmp(&key.0[..]) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return Ok(decode_entry(entry).map(|(_, entry)| Some(entry)).ok_or(Damaged));
                }
            }
        }
        Ok(Ok(None))
    }

    /// How many blocks it has.
    pub(crate) fn block_count(&self) -> usize {
        self.fences.len()
    }

    /// The entries of one block, in order.
    pub(crate) fn entries(&self, file: &File, block: usize) -> io::Result<Result<Vec<(CallKey, Entry)>, Damaged>> {
        let bytes = self.block(file, block)?;
        Ok(bytes.and_then(|bytes| bytes.chunks_exact(ENTRY).map(decode_entry).collect::<Option<_>>().ok_or(Damaged)))
    }

    fn block(&self, file: &File, block: usize) -> io::Result<Result<Vec<u8>, Damaged>> {
        let first = block * ENTRIES_PER_BLOCK;
        let mut bytes = vec![0; (self.entries as usize - first).min(ENTRIES_PER_BLOCK) * ENTRY];
        match file.read_exact_at(&mut bytes, self.blocks + (first * ENTRY) as u64) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Err(Damaged)),
            other => other?,
        }
        let is_whole = crc32fast::hash(&bytes) == self.fences[block].checksum;
        Ok(if is_whole { Ok(bytes) } else { Err(Damaged) })
    }
}

/// What an index's head says.
struct Layout {
    checksum: u32,
    segment_length: u64,
    entries: u64,
    fences: usize,
    filter: usize,
    statistics: usize,
}

impl Layout {
    /// `None` where the head is not one, or contradicts itself.
    fn of(head: &[u8]) -> Option<Self> {
        let length = |at| array(head, at).map(|bytes| u32::from_le_bytes(bytes) as usize);
        let layout = Self {
            checksum: u32::from_le_bytes(array(head, 12)?),
            segment_length: number(head, 16)?,
            entries: number(head, 24)?,
            fences: length(32)?,
            filter: length(36)?,
            statistics: length(40)?,
        };
        let is_known = array(head, 0)? == MAGIC && u32::from_le_bytes(array(head, 8)?) == VERSION;
        // A filter without bits would have no place to look at.
        let agrees = layout.fences as u64 == layout.entries.div_ceil(ENTRIES_PER_BLOCK as u64) && layout.filter > 0;
        (is_known && agrees).then_some(layout)
    }

    fn blocks_begin(&self) -> usize {
        HEAD + self.fences * FENCE + self.filter + self.statistics
    }

    fn file_length(&self) -> u64 {
        self.blocks_begin() as u64 + self.entries.saturating_mul(ENTRY as u64)
    }
}
