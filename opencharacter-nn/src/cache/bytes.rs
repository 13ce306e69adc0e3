//! Blocks of keys and values in 8 bits: `x = scale * quant`, `quant` from -127 to 127, with a scale for each token, head
//! and layer, of the key and of the value.

use super::{BLOCK_TOKENS, CacheBlock, Contents, Geometry};
use crate::simd;

/// Bytes of the scales of 16 tokens.
const SCALES: usize = BLOCK_TOKENS * size_of::<f32>();

/// A block's contents, `[parts]`; a part is a head of a layer, and what attention reads of it lies side by side:
///
/// - keys, `[head_dim / 2][16 tokens][2]`: two inputs of 16 tokens are what an instruction multiplies and adds at once;
/// - their scales, `[16 tokens]` in f32;
/// - the scales of the values;
/// - values, `[8][columns][2 tokens]`, `columns` being `head_dim` rounded up to 16.
#[derive(Debug, Clone)]
pub(super) struct ByteBlock(Vec<u8>);

/// Where the pieces of a part lie, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) key_scales: usize,
    pub(super) value_scales: usize,
    pub(super) values: usize,
    pub(super) whole: usize,
}

impl Layout {
    pub(super) fn new(geometry: Geometry) -> Self {
        let key_scales = geometry.head_dim.next_multiple_of(2) * BLOCK_TOKENS;
        let value_scales = key_scales + SCALES;
        let values = value_scales + SCALES;
        Self { key_scales, value_scales, values, whole: values + geometry.value_columns() * BLOCK_TOKENS }
    }
}

impl ByteBlock {
    pub(super) fn new(geometry: Geometry, parts: usize) -> Self {
        Self(vec![0; parts * Self::part_bytes(geometry)])
    }

    pub(super) fn part_bytes(geometry: Geometry) -> usize {
        Layout::new(geometry).whole
    }

    /// The part of a cache's block.
    pub(super) fn part(block: &CacheBlock, layout: Layout, part: usize) -> &[u8] {
        match &block.0 {
            Contents::Bytes(Self(bytes)) => &bytes[part * layout.whole..][..layout.whole],
            _ => unreachable!("all blocks of a cache have one format"),
        }
    }

    pub(super) fn store(&mut self, geometry: Geometry, part: usize, token: usize, key: &[f32], value: &[f32]) {
        let layout = Layout::new(geometry);
        let part = &mut self.0[part * layout.whole..][..layout.whole];
        let mut quants = vec![0; key.len()];
        put_scale(&mut part[layout.key_scales..], token, simd::quantise(key, MOST, &mut quants));
        for (pair, quants) in quants.chunks(2).enumerate() {
            for (place, quant) in part[(pair * BLOCK_TOKENS + token) * 2..].iter_mut().zip(quants) {
                *place = (*quant as i8).cast_unsigned();
            }
        }
        put_scale(&mut part[layout.value_scales..], token, simd::quantise(value, MOST, &mut quants));
        let values = &mut part[layout.values + token / 2 * geometry.value_columns() * 2 + token % 2..];
        for (place, quant) in values.iter_mut().step_by(2).zip(&quants) {
            *place = (*quant as i8).cast_unsigned();
        }
    }
}

/// The largest quant.
const MOST: f32 = 127.0;

fn put_scale(scales: &mut [u8], token: usize, scale: f32) {
    scales.as_chunks_mut().0[token] = scale.to_ne_bytes();
}

/// Reads the scales of a block's tokens.
pub(super) fn copy_scales(from: &[u8], to: &mut [f32; BLOCK_TOKENS]) {
    for (scale, bytes) in to.iter_mut().zip(from.as_chunks().0) {
        *scale = f32::from_ne_bytes(*bytes);
    }
}
