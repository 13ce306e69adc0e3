//! Keys and values of sequences in progress, in blocks of 16 tokens that sequences can share.
//!
//! Each query's arithmetic depends on its own keys alone, in their order; how a prompt was cut into chunks, what came from
//! a shared block and who else is in the batch change no bit.
//!
//! With many sequences in flight, reading all their keys and values at every step is what memory's bandwidth goes
//! into: a third of a decoding step with 64 sequences of SmolLM2-135M at 200 tokens, in f32. [`CacheFormat::Halves`]
//! halves that, and the memory; [`CacheFormat::Bytes`] halves them again, and its products are those of integers.

mod attend;
mod byte_pass;
mod byte_tile;
mod bytes;
mod float_pass;
#[cfg(target_arch = "x86_64")]
mod tile_pass;

use std::sync::Arc;

pub use attend::CachedAttend;
use half::f16;

use self::{bytes::ByteBlock, float_pass::Elements};
use crate::{DecoderConfig, matrix::PANEL};

/// Tokens per block.
pub const BLOCK_TOKENS: usize = PANEL;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheFormat {
    /// f32, as they were computed.
    Floats,
    /// f16, rounded to the nearest; attention widens them again and computes in f32.
    Halves,
    /// Integers from -127 to 127 with a scale for each token and head; attention multiplies integers.
    Bytes,
}

/// Keys and values of 16 consecutive tokens, all layers.
#[derive(Debug, Clone)]
pub struct CacheBlock(Contents);

#[derive(Debug, Clone)]
enum Contents {
    Floats(Elements<f32>),
    Halves(Elements<f16>),
    Bytes(ByteBlock),
}

/// Sizes that follow from the model.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    heads: usize,
    group: usize,
    head_dim: usize,
    /// A token sees itself and at most so many minus one before it.
    window: Option<usize>,
}

impl Geometry {
    fn new(config: &DecoderConfig) -> Self {
        Self {
            heads: config.num_key_value_heads,
            group: config.group_size(),
            head_dim: config.head_dim,
            window: config.sliding_window,
        }
    }

    fn query_size(self) -> usize {
        self.heads * self.group * self.head_dim
    }

    /// `head_dim` rounded up to whole panels.
    fn value_columns(self) -> usize {
        self.head_dim.next_multiple_of(PANEL)
    }
}

impl CacheBlock {
    fn new(config: &DecoderConfig, format: CacheFormat) -> Self {
        let (geometry, parts) = (Geometry::new(config), parts(config));
        Self(match format {
            CacheFormat::Floats => Contents::Floats(Elements::new(geometry, parts)),
            CacheFormat::Halves => Contents::Halves(Elements::new(geometry, parts)),
            CacheFormat::Bytes => Contents::Bytes(ByteBlock::new(geometry, parts)),
        })
    }

    /// Bytes of one block of a model.
    pub fn bytes(config: &DecoderConfig, format: CacheFormat) -> usize {
        let geometry = Geometry::new(config);
        let part = match format {
            CacheFormat::Floats => Elements::<f32>::part_bytes(geometry),
            CacheFormat::Halves => Elements::<f16>::part_bytes(geometry),
            CacheFormat::Bytes => ByteBlock::part_bytes(geometry),
        };
        parts(config) * part
    }

    /// Takes in a token's key and value of one layer and head, whose place among them all is `part`.
    fn store(&mut self, geometry: Geometry, part: usize, token: usize, key: &[f32], value: &[f32]) {
        match &mut self.0 {
            Contents::Floats(elements) => elements.store(geometry, part, token, key, value),
            Contents::Halves(elements) => elements.store(geometry, part, token, key, value),
            Contents::Bytes(block) => block.store(geometry, part, token, key, value),
        }
    }
}

/// Layers times heads.
fn parts(config: &DecoderConfig) -> usize {
    config.num_hidden_layers * config.num_key_value_heads
}

/// One sequence's keys and values.
#[derive(Debug, Clone, Default)]
pub struct SequenceCache {
    blocks: Vec<Arc<CacheBlock>>,
    tokens: usize,
}

impl SequenceCache {
    /// A cache that begins with whole blocks computed for another sequence with the same beginning.
    pub fn with_prefix(blocks: Vec<Arc<CacheBlock>>) -> Self {
        let tokens = blocks.len() * BLOCK_TOKENS;
        Self { blocks, tokens }
    }

    /// Tokens held.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The blocks so far; all but the last are full.
    pub fn blocks(&self) -> &[Arc<CacheBlock>] {
        &self.blocks
    }

    /// Makes room for `count` more tokens. A last block that is shared and not full is copied first.
    fn reserve(&mut self, count: usize, config: &DecoderConfig, format: CacheFormat) {
        let needed = (self.tokens + count).div_ceil(BLOCK_TOKENS);
        while self.blocks.len() < needed {
            self.blocks.push(Arc::new(CacheBlock::new(config, format)));
        }
        for block in &mut self.blocks[self.tokens / BLOCK_TOKENS..needed] {
            Arc::make_mut(block);
        }
    }

    /// Forgets all tokens from `tokens` on.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
        self.blocks.truncate(self.tokens.div_ceil(BLOCK_TOKENS));
    }
}
