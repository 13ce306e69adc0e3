//! A PNG as its chunks (PNG specification, third edition, section 5). Pixels are never decoded here.

use crate::{CardError, limits};

/// The first eight bytes of every PNG.
pub(crate) const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// The chunks of a PNG or APNG, and what stands behind its end.
#[derive(Debug, Clone)]
pub(crate) struct Png {
    pub(crate) chunks: Vec<Chunk>,
    trailing: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) kind: [u8; 4],
    pub(crate) data: Vec<u8>,
    /// Where it began in the file that was read; 0 for a new one.
    pub(crate) offset: usize,
}

impl Chunk {
    pub(crate) fn new(kind: [u8; 4], data: Vec<u8>) -> Self {
        Self { kind, data, offset: 0 }
    }
}

impl Png {
    pub(crate) fn new(chunks: Vec<Chunk>) -> Self {
        Self { chunks, trailing: Vec::new() }
    }

    pub(crate) fn is_png(bytes: &[u8]) -> bool {
        bytes.starts_with(&SIGNATURE)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, CardError> {
        let mut rest = bytes
            .strip_prefix(&SIGNATURE)
            .ok_or_else(|| CardError::Png { offset: 0, reason: "it does not begin as a PNG does".into() })?;
        let mut chunks = Vec::new();
        loop {
            let offset = bytes.len() - rest.len();
            let (chunk, after) = Chunk::split_from(rest, offset)?;
            rest = after;
            if chunks.is_empty() && chunk.kind != *b"IHDR" {
                return Err(CardError::Png { offset, reason: "the first chunk must be `IHDR`".into() });
            }
            if chunks.len() == limits::CHUNKS {
                let limit = limits::CHUNKS as u64;
                return Err(CardError::TooLarge { what: "the PNG".into(), size: limit + 1, limit, unit: "chunks" });
            }
            let is_end = chunk.kind == *b"IEND";
            chunks.push(chunk);
            if is_end {
                return Ok(Self { chunks, trailing: rest.to_vec() });
            }
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let size: usize = self.chunks.iter().map(|chunk| chunk.data.len() + 12).sum();
        let mut bytes = Vec::with_capacity(size + SIGNATURE.len() + self.trailing.len());
        bytes.extend_from_slice(&SIGNATURE);
        for Chunk { kind, data, .. } in &self.chunks {
            let mut crc = crc32fast::Hasher::new();
            crc.update(kind);
            crc.update(data);
            bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
            bytes.extend_from_slice(kind);
            bytes.extend_from_slice(data);
            bytes.extend_from_slice(&crc.finalize().to_be_bytes());
        }
        bytes.extend_from_slice(&self.trailing);
        bytes
    }

    /// Puts `chunk` where text belongs in a finished picture: before its end.
    pub(crate) fn insert_before_end(&mut self, chunk: Chunk) {
        let end = self.chunks.iter().rposition(|chunk| chunk.kind == *b"IEND").unwrap_or(self.chunks.len());
        self.chunks.insert(end, chunk);
    }
}

impl Chunk {
    /// The chunk that `bytes` begin with, and what follows it.
    fn split_from(bytes: &[u8], offset: usize) -> Result<(Self, &[u8]), CardError> {
        let fault = |reason: String| CardError::Png { offset, reason };
        let Some((head, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(fault(format!(
                "cut off: expected another chunk, at the latest `IEND`, and found {} bytes",
                bytes.len()
            )));
        };
        let [a, b, c, d, kind @ ..] = *head;
        let name = kind.escape_ascii();
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some((data, rest)) = rest.split_at_checked(length) else {
            return Err(fault(format!("cut off: chunk `{name}` says {length} bytes and {} are left", rest.len())));
        };
        let Some((stored, rest)) = rest.split_first_chunk::<4>() else {
            return Err(fault(format!("cut off within the checksum of chunk `{name}`")));
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&kind);
        crc.update(data);
        let (stored, computed) = (u32::from_be_bytes(*stored), crc.finalize());
        if stored != computed {
            return Err(fault(format!(
                "chunk `{name}` has the checksum {stored:08x} where its content has {computed:08x}"
            )));
        }
        Ok((Self { kind, data: data.to_vec(), offset }, rest))
    }
}
