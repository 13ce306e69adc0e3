//! Attention over keys and values in 8 bits in the integer tiles of AMX, where a sequence brings many tokens: the integers of
//! [`byte_pass`](super::byte_pass), and so its bits.
//!
//! Tiles multiply bytes, so the 16 bits of queries and probabilities are multiplied as two: `256 high + low`, `high` from -128
//! to 127, `low` from 0 to 255. Sums of integers are exact in any order.

use std::{
    arch::{
        asm,
        x86_64::{
            __m512i, _mm256_loadu_si256, _mm512_add_epi32, _mm512_castsi256_si512, _mm512_cvtepi32_ps, _mm512_fmadd_ps,
            _mm512_inserti64x4, _mm512_load_si512, _mm512_loadu_ps, _mm512_maskz_loadu_epi16, _mm512_mul_ps,
            _mm512_permutexvar_epi16, _mm512_set1_ps, _mm512_slli_epi32, _mm512_store_si512, _mm512_storeu_ps,
        },
    },
    cell::RefCell,
    ops::Range,
    sync::OnceLock,
};

use super::{
    BLOCK_TOKENS,
    attend::{HeadRows, at_least},
    byte_pass::{MOST_WORD, most_of_query},
    byte_tile::MOST_SUMMED,
    bytes::{ByteBlock, Layout, copy_scales},
};
use crate::{
    simd,
    tile_registers::{LINE_BYTES, LINES, TileType, Tiles, has_tiles_of, spaced, tile},
};

/// Fewest rows for which laying out keys and values for the tiles is worth while.
const LEAST_ROWS: usize = LINES;
/// Most blocks of a sequence that are laid out: 8,192 tokens, which with heads of 64 inputs take 2 MB of each thread.
const MOST_BLOCKS: usize = 8_192 / BLOCK_TOKENS;
/// Blocks of tokens whose values are a tile.
const BLOCKS: usize = LINE_BYTES / BLOCK_TOKENS;
/// Tiles of values that may be added up in 32 bits.
const MOST_TILES: usize = MOST_SUMMED / BLOCKS;

/// Whether these rows are to be attended here: whichever way it is, their bits are the same.
pub(super) fn suits(rows: &HeadRows<'_>) -> bool {
    rows.count() >= LEAST_ROWS && rows.blocks().1.len() <= MOST_BLOCKS && available()
}

/// Whether this machine has what is needed, and its system lets this process use it.
fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| simd::has_avx512() && has_tiles_of(TileType::Int8))
}

/// A tile's bytes, in lines of 64.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bytes([[u8; LINE_BYTES]; LINES]);

impl Default for Bytes {
    fn default() -> Self {
        Self([[0; LINE_BYTES]; LINES])
    }
}

/// A tile's sums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums([[i32; LINES]; LINES]);

/// Sums of two columns of tiles.
const EMPTY: [Sums; 4] = [Sums([[0; LINES]; LINES]); 4];

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Buffers whose contents nobody relies on.
struct Scratch {
    /// `[blocks][inputs / 64]`: lines of 4 inputs of each of 16 tokens. One block more where their number is odd.
    keys: Vec<Bytes>,
    /// `[context / 64][columns / 16]`: lines of 4 tokens of each of 16 columns; and one tile more.
    values: Vec<Bytes>,
    /// `[context]`.
    key_scales: Vec<f32>,
    value_scales: Vec<f32>,
    /// A row's query, or its probabilities.
    words: Vec<i16>,
    /// `[inputs / 64][high, low]`: 64 inputs of 16 rows.
    queries: Vec<[Bytes; 2]>,
    /// `[16][context]`, and a cache line.
    scores: Vec<f32>,
    /// `[context / 64][high, low]`: 64 tokens of 16 rows, each probability times its value's scale.
    weights: Vec<[Bytes; 2]>,
    /// `[16][columns]`.
    sums: Vec<f32>,
}

impl Scratch {
    const fn new() -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
            key_scales: Vec::new(),
            value_scales: Vec::new(),
            words: Vec::new(),
            queries: Vec::new(),
            scores: Vec::new(),
            weights: Vec::new(),
            sums: Vec::new(),
        }
    }
}

/// Attention of `rows`, each over the tokens up to its own.
///
/// # Safety
/// As [`HeadRows::attend`], over blocks in this format; this way [`suits`] the rows.
pub(super) unsafe fn attend(rows: &HeadRows<'_>, q: &[f32], out: *mut f32) {
    let geometry = rows.geometry;
    let (first_block, blocks) = rows.blocks();
    let pass = Pass {
        rows,
        lead: first_block % BLOCKS,
        first_tile: first_block / BLOCKS,
        blocks: blocks.len(),
        key_tiles: geometry.head_dim.div_ceil(LINE_BYTES),
        value_tiles: geometry.value_columns() / LINES,
    };
    SCRATCH.with_borrow_mut(|scratch| {
        // SAFETY: the caller's promise.
        unsafe {
            let _tiles = Tiles::configure();
            pass.lay_out(scratch);
            for first in (0..rows.count()).step_by(LINES) {
                let tile = first..(first + LINES).min(rows.count());
                let scales = pass.gather(&tile, q, scratch);
                let blocks = pass.blocks_of(&tile);
                pass.score(&tile, blocks, scratch);
                let scales = pass.weigh(&tile, &scales, blocks, scratch);
                pass.add_up(&tile, &scales, blocks, scratch);
                rows.give(tile, &scratch.sums, out);
            }
        }
    });
}

/// What some rows see. Values are taken four blocks at a time, from a multiple of four on: before the first block that is
/// seen, `lead` others belong to its tile.
struct Pass<'a> {
    rows: &'a HeadRows<'a>,
    lead: usize,
    /// Where in the sequence the first tile of values lies.
    first_tile: usize,
    blocks: usize,
    /// Tiles of a block's keys.
    key_tiles: usize,
    /// Tiles of 64 tokens' values.
    value_tiles: usize,
}

impl Pass<'_> {
    /// Elements from one row's scores to the next one's: rows whose length is a multiple of 4 KiB would drive each other out
    /// of the first-level cache.
    fn score_stride(&self) -> usize {
        self.blocks.next_multiple_of(2) * BLOCK_TOKENS + LINES
    }

    /// Tiles of 64 tokens up to `blocks` blocks.
    fn token_tiles(&self, blocks: usize) -> usize {
        (self.lead + blocks).div_ceil(BLOCKS)
    }

    /// Blocks that hold what any row of a tile sees.
    fn blocks_of(&self, tile: &Range<usize>) -> usize {
        self.rows.seen_slots(tile.end - 1).end.div_ceil(BLOCK_TOKENS)
    }

    /// Copies keys and values into tiles.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn lay_out(&self, scratch: &mut Scratch) {
        let layout = Layout::new(self.rows.geometry);
        let tiles = self.token_tiles(self.blocks) * self.value_tiles;
        let keys = at_least(&mut scratch.keys, self.blocks.next_multiple_of(2) * self.key_tiles);
        let values = at_least(&mut scratch.values, tiles + 1);
        let key_scales = at_least(&mut scratch.key_scales, self.blocks * BLOCK_TOKENS);
        let value_scales = at_least(&mut scratch.value_scales, self.blocks * BLOCK_TOKENS);
        // What no block is written to.
        values[..self.value_tiles].fill(Bytes::default());
        values[tiles - self.value_tiles..].fill(Bytes::default());
        let scales = key_scales.as_chunks_mut().0.iter_mut().zip(value_scales.as_chunks_mut().0);
        let (_, blocks) = self.rows.blocks();
        for (index, (block, (key_scales, value_scales))) in blocks.iter().zip(scales).enumerate() {
            let part = ByteBlock::part(block, layout, self.rows.part());
            copy_scales(&part[layout.key_scales..], key_scales);
            copy_scales(&part[layout.value_scales..], value_scales);
            let keys = &mut keys[index * self.key_tiles..][..self.key_tiles];
            let place = self.lead + index;
            let values = &mut values[place / BLOCKS * self.value_tiles..][..self.value_tiles];
            // SAFETY: the caller's promise.
            unsafe {
                lay_out_keys(&part[..layout.key_scales], keys);
                lay_out_values(&part[layout.values..], place % BLOCKS, values);
            }
        }
    }

    /// Takes the queries of a tile, and returns their scales.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn gather(&self, tile: &Range<usize>, q: &[f32], scratch: &mut Scratch) -> [f32; LINES] {
        let head_dim = self.rows.geometry.head_dim;
        let most = most_of_query(head_dim.next_multiple_of(2));
        let words = at_least(&mut scratch.words, self.key_tiles * LINE_BYTES);
        let queries = at_least(&mut scratch.queries, self.key_tiles);
        words[head_dim..].fill(0);
        let mut scales = [0.0; LINES];
        for ((line, row), scale) in tile.clone().enumerate().zip(&mut scales) {
            *scale = simd::quantise(&q[self.rows.place(row)..][..head_dim], most, &mut words[..head_dim]);
            split(words, line, queries);
        }
        scales
    }

    /// Scores, but for the queries' scales.
    ///
    /// # Safety
    /// Tiles are configured.
    #[target_feature(enable = "avx512f")]
    unsafe fn score(&self, tile: &Range<usize>, blocks: usize, scratch: &mut Scratch) {
        let stride = self.score_stride();
        let scores = at_least(&mut scratch.scores, LINES * stride);
        let mut sums = EMPTY;
        for first in (0..blocks).step_by(2) {
            let keys = &scratch.keys[first * self.key_tiles..][..2 * self.key_tiles];
            let (one, two) = keys.split_at(self.key_tiles);
            // SAFETY: the caller's promise; as many tiles of both blocks as of the queries.
            unsafe { products(&scratch.queries[..self.key_tiles], [one.as_ptr(), two.as_ptr()], 1, &mut sums) };
            for (block, sums) in (first..blocks).zip(sums.as_chunks::<2>().0) {
                let start = block * BLOCK_TOKENS;
                let key_scales = &scratch.key_scales[start..][..BLOCK_TOKENS];
                for row in 0..tile.len() {
                    let out = &mut scores[row * stride + start..][..BLOCK_TOKENS];
                    // SAFETY: both have 16 elements.
                    unsafe {
                        let scale = _mm512_loadu_ps(key_scales.as_ptr());
                        _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(_mm512_cvtepi32_ps(dots(sums, row)), scale));
                    }
                }
            }
        }
    }

    /// Turns scores into what values' integers are multiplied by, and returns the scales of the rows' sums.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn weigh(
        &self,
        tile: &Range<usize>,
        query_scales: &[f32; LINES],
        blocks: usize,
        scratch: &mut Scratch,
    ) -> [f32; LINES] {
        let (stride, tiles, lead) = (self.score_stride(), self.token_tiles(blocks), self.lead * BLOCK_TOKENS);
        let words = at_least(&mut scratch.words, tiles * LINE_BYTES);
        let weights = at_least(&mut scratch.weights, tiles);
        let mut scales = [0.0; LINES];
        for ((line, row), (scale, query_scale)) in tile.clone().enumerate().zip(scales.iter_mut().zip(query_scales)) {
            let seen = self.rows.seen_slots(row);
            let scores = &mut scratch.scores[line * stride..][seen.clone()];
            let place = lead + seen.start..lead + seen.end;
            words[..place.start].fill(0);
            words[place.end..].fill(0);
            let by = &scratch.value_scales[seen];
            *scale = simd::weigh(scores, query_scale * self.rows.score_scale(), by, MOST_WORD, &mut words[place]);
            split(words, line, weights);
        }
        scales
    }

    /// Adds up the values. Sums of integers become floats where the place of a block says so.
    ///
    /// # Safety
    /// Tiles are configured.
    #[target_feature(enable = "avx512f")]
    unsafe fn add_up(&self, tile: &Range<usize>, scales: &[f32; LINES], blocks: usize, scratch: &mut Scratch) {
        let (tiles, columns) = (self.token_tiles(blocks), self.value_tiles * LINES);
        let sums = at_least(&mut scratch.sums, LINES * columns);
        sums.fill(0.0);
        let mut found = EMPTY;
        let mut start = 0;
        while start < tiles {
            let end = tiles.min(start + MOST_TILES - (self.first_tile + start) % MOST_TILES);
            let weights = &scratch.weights[start..end];
            for group in (0..self.value_tiles).step_by(2) {
                // The second one of these may be the next tokens' first, whose sums nobody wants.
                let values = [0, 1].map(|other| &raw const scratch.values[start * self.value_tiles + group + other]);
                // SAFETY: the caller's promise; as many tiles of values as of weights, and one more.
                unsafe { products(weights, values, self.value_tiles, &mut found) };
                for (group, found) in (group..self.value_tiles).zip(found.as_chunks::<2>().0) {
                    for (row, scale) in scales.iter().enumerate().take(tile.len()) {
                        let sums = &mut sums[row * columns + group * LINES..][..LINES];
                        // SAFETY: there are 16 of them.
                        unsafe {
                            let total = _mm512_cvtepi32_ps(dots(found, row));
                            let sum = _mm512_fmadd_ps(total, _mm512_set1_ps(*scale), _mm512_loadu_ps(sums.as_ptr()));
                            _mm512_storeu_ps(sums.as_mut_ptr(), sum);
                        }
                    }
                }
            }
            start = end;
        }
    }
}

/// Words of one half of a register and of the other, in turns.
const IN_TURNS: [u16; 32] = {
    let mut places = [0; 32];
    let mut place = 0;
    while place < 16 {
        places[2 * place] = place as u16;
        places[2 * place + 1] = 16 + place as u16;
        place += 1;
    }
    places
};

/// # Safety
/// The machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn in_turns(words: __m512i) -> __m512i {
    // SAFETY: 64 bytes are there.
    let places = unsafe { _mm512_maskz_loadu_epi16(u32::MAX, IN_TURNS.as_ptr().cast()) };
    _mm512_permutexvar_epi16(places, words)
}

/// A block's keys, `[inputs / 2][16 tokens][2]`, in lines of 4 inputs; inputs that do not exist are zero.
///
/// # Safety
/// The machine has AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn lay_out_keys(keys: &[u8], tiles: &mut [Bytes]) {
    let lines = tiles.iter_mut().flat_map(|tile| &mut tile.0);
    for (index, line) in lines.enumerate() {
        let words = keys.len().saturating_sub(index * LINE_BYTES).min(LINE_BYTES) / 2;
        let exist = u32::MAX.checked_shr(32 - words as u32).unwrap_or(0);
        // SAFETY: words that do not exist are not read; a line has 64 bytes and is aligned.
        unsafe {
            let pairs = _mm512_maskz_loadu_epi16(exist, keys.as_ptr().wrapping_add(index * LINE_BYTES).cast());
            _mm512_store_si512(line.as_mut_ptr().cast(), in_turns(pairs));
        }
    }
}

/// A block's values, `[8][columns][2 tokens]`, in lines of 4 tokens: the `quarter`th four lines of the tiles.
///
/// # Safety
/// The machine has AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn lay_out_values(values: &[u8], quarter: usize, tiles: &mut [Bytes]) {
    let pair = tiles.len() * 2 * LINES;
    let [lines, half] = [LINES / BLOCKS, 2 * LINES];
    for (group, tile) in tiles.iter_mut().enumerate() {
        for (index, line) in tile.0[quarter * lines..][..lines].iter_mut().enumerate() {
            let [one, two] = [0, 1].map(|other| &values[(2 * index + other) * pair + group * half..][..half]);
            // SAFETY: 32 bytes of each are there; a line has 64 and is aligned.
            unsafe {
                let [one, two] = [one, two].map(|bytes| _mm256_loadu_si256(bytes.as_ptr().cast()));
                let pairs = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(one), two);
                _mm512_store_si512(line.as_mut_ptr().cast(), in_turns(pairs));
            }
        }
    }
}

/// Puts the high and the low bytes of a row's words, 64 to each tile, into a line of tiles.
fn split(words: &[i16], line: usize, tiles: &mut [[Bytes; 2]]) {
    for (words, [high, low]) in words.as_chunks().0.iter().zip(tiles) {
        split_line(words, &mut high.0[line], &mut low.0[line]);
    }
}

simd::vectorised! {
    fn split_line(words: &[i16; LINE_BYTES], high: &mut [u8; LINE_BYTES], low: &mut [u8; LINE_BYTES]) {
        for ((word, high), low) in words.iter().zip(high).zip(low) {
            *high = (word >> 8) as u8;
            *low = *word as u8;
        }
    }
}

/// The sums of products of words' tiles with those of two columns of tiles, `apart` tiles apart: of the first column the high
/// bytes' and the low bytes', then those of the second.
///
/// # Safety
/// Tiles are configured; each column has as many tiles as there are words'.
unsafe fn products(words: &[[Bytes; 2]], [one, two]: [*const Bytes; 2], apart: usize, sums: &mut [Sums; 4]) {
    // SAFETY: the caller's promise; a tile is a kilobyte.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            spaced!("tileloadd tmm4, [{words} + {line}]"),
            spaced!("tileloadd tmm6, [{one} + {line}]"),
            spaced!("tdpbssd tmm0, tmm4, tmm6"),
            spaced!("tileloadd tmm5, [{words} + {line} + 1024]"),
            spaced!("tdpbusd tmm1, tmm5, tmm6"),
            spaced!("tileloadd tmm7, [{two} + {line}]"),
            spaced!("tdpbssd tmm2, tmm4, tmm7"),
            spaced!("tdpbusd tmm3, tmm5, tmm7"),
            "add {words}, 2048",
            "add {one}, {apart}",
            "add {two}, {apart}",
            "sub {count}, 1",
            "jnz 2b",
            words = inout(reg) words.as_ptr() => _,
            one = inout(reg) one => _,
            two = inout(reg) two => _,
            apart = in(reg) apart * size_of::<Bytes>(),
            count = inout(reg) words.len() => _,
            line = in(reg) LINE_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
        let [first, second, third, fourth] = sums.each_mut().map(|sums| sums.0.as_mut_ptr());
        tile!(store "tmm0", first, LINE_BYTES);
        tile!(store "tmm1", second, LINE_BYTES);
        tile!(store "tmm2", third, LINE_BYTES);
        tile!(store "tmm3", fourth, LINE_BYTES);
    }
}

/// A row's sums of words' products.
#[inline]
#[target_feature(enable = "avx512f")]
fn dots([high, low]: &[Sums; 2], row: usize) -> __m512i {
    // SAFETY: a row is 64 bytes and aligned.
    let [high, low] = [high, low].map(|sums| unsafe { _mm512_load_si512(sums.0[row].as_ptr().cast()) });
    _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low)
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use opencharacter_core::KeyedRandom;

    use super::super::{CacheFormat, CachedAttend, SequenceCache};
    use crate::{
        DecoderConfig,
        decoder::Attend,
        ops::{floats, from_floats},
    };

    fn config(heads: usize, group: usize, head_dim: usize, sliding_window: Option<usize>) -> DecoderConfig {
        DecoderConfig {
            vocab_size: 1,
            hidden_size: 1,
            intermediate_size: 1,
            num_hidden_layers: 1,
            num_attention_heads: heads * group,
            num_key_value_heads: heads,
            head_dim,
            rope_theta: 1e4,
            rope_factors: Vec::new(),
            sliding_window,
            rms_norm_eps: 1e-5,
            max_position_embeddings: 4096,
            tie_word_embeddings: true,
        }
    }

    /// Attention of tokens that come in chunks of so many.
    fn attend_in(config: &DecoderConfig, [q, k, v]: &[Tensor; 3], chunk: usize) -> Vec<u32> {
        let mut cache = SequenceCache::default();
        let mut out = Vec::new();
        let tokens = q.dim(0).unwrap();
        for start in (0..tokens).step_by(chunk) {
            let count = chunk.min(tokens - start);
            let mut attention = CachedAttend::new(config, CacheFormat::Bytes, vec![(&mut cache, count)]);
            let [q, k, v] = [q, k, v].map(|values| values.narrow(0, start, count).unwrap());
            let (attended, _) = attention.attend(0, &q, &k, &v).unwrap();
            out.extend(floats(&attended).unwrap().iter().map(|value| value.to_bits()));
            attention.commit();
        }
        out
    }

    /// A token alone has too few rows for tiles.
    #[test]
    fn tiles_give_the_bits_that_a_token_alone_gets() {
        let mut random = KeyedRandom::new(0, &["tile pass"]);
        for (heads, group, head_dim, window, tokens) in [
            (1, 3, 64, None, 700),
            (2, 1, 40, None, 130),
            (1, 2, 80, Some(33), 200),
            (1, 7, 128, Some(600), 1300),
            (1, 5, 6, None, 17),
        ] {
            let config = config(heads, group, head_dim, window);
            let mut draw = |width: usize| {
                let values: Vec<f32> = (0..tokens * width).map(|_| random.normal() as f32).collect();
                from_floats(values, &[tokens, width]).unwrap()
            };
            let values = [config.query_size(), config.key_value_size(), config.key_value_size()].map(&mut draw);
            let alone = attend_in(&config, &values, 1);
            for chunk in [tokens, 61, 16] {
                let case = (heads, group, head_dim, window, chunk);
                assert!(attend_in(&config, &values, chunk) == alone, "{case:?}");
            }
        }
    }
}
