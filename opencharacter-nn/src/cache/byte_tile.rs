//! Products of some rows of 16-bit integers with a block of keys or values in 8 bits. Sums of integers are exact in any
//! order, so every instruction set gives the same bits.

use super::BLOCK_TOKENS;
use crate::matrix::InstructionSet;

/// Most rows of a tile: 6 x 2 sums, two registers of keys, a query and a product are all 16.
pub(super) const ROWS: usize = 6;

/// Most columns that a tile adds up at a time.
pub(super) const MOST_COLUMNS: usize = 32;

/// Blocks whose values may be added up in 32 bits: 32 x 16 products of at most 32,767 x 127.
pub(super) const MOST_SUMMED: usize = 32;

/// A block's keys.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    /// `[inputs / 2][16 tokens][2]`.
    pub(super) quants: *const u8,
    /// `[16]`; need not be aligned.
    pub(super) scales: *const f32,
    /// An even number.
    pub(super) inputs: usize,
}

/// Some blocks' values.
#[derive(Clone, Copy)]
pub(super) struct Values<F> {
    pub(super) blocks: usize,
    /// A block's, `[8][columns][2 tokens]`. Asked for a block and the first of some columns before those are read.
    pub(super) quants: F,
    /// A multiple of 16.
    pub(super) columns: usize,
}

/// Calls a function with a number of rows as a constant.
#[cfg(target_arch = "x86_64")]
macro_rules! with_rows {
    ($rows:expr, $count:ident, $call:expr) => {
        with_rows!(@each $rows, $count, $call, 1 2 3 4 5 6)
    };
    (@each $rows:expr, $count:ident, $call:expr, $($number:literal)*) => {
        match $rows {
            $($number => {
                const $count: usize = $number;
                $call
            })*
            rows => unreachable!("{rows} rows are no tile"),
        }
    };
}

/// `scores[row][token] = scales[token] * sum over input of queries[row][input] * keys[input][token]`, for `rows` rows, at
/// most [`ROWS`], and 16 tokens; rows of scores are `stride` apart.
///
/// # Safety
/// The machine has `set`; `rows` rows of `keys.inputs` are readable at `queries`, and as many of 16 writable at `scores`.
pub(super) unsafe fn score(
    set: InstructionSet,
    rows: usize,
    queries: *const i16,
    keys: Keys,
    scores: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise; whatever has AVX-512 has AVX2.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if set == InstructionSet::Avx512 && avx512::has_dot_products() {
            return with_rows!(rows, COUNT, avx512::score::<COUNT>(queries, keys, scores, stride));
        }
        #[cfg(target_arch = "x86_64")]
        if set != InstructionSet::Portable {
            return with_rows!(rows, COUNT, avx2::score::<COUNT>(queries, keys, scores, stride));
        }
        let _ = set;
        score_portable(rows, queries, keys, scores, stride);
    }
}

unsafe fn score_portable(rows: usize, queries: *const i16, keys: Keys, scores: *mut f32, stride: usize) {
    for row in 0..rows {
        for token in 0..BLOCK_TOKENS {
            // SAFETY: the caller's promise.
            unsafe {
                let product = |input: usize| {
                    let key = *keys.quants.add((input / 2 * BLOCK_TOKENS + token) * 2 + input % 2);
                    i32::from(key.cast_signed()) * i32::from(*queries.add(row * keys.inputs + input))
                };
                let dot: i32 = (0..keys.inputs).map(product).sum();
                *scores.add(row * stride + token) = dot as f32 * keys.scales.add(token).read_unaligned();
            }
        }
    }
}

/// `sums[row][column] += scales[row] * sum over token of weights[row][token] * values[token][column]`, for `rows` rows, at
/// most [`ROWS`], and at most [`MOST_SUMMED`] blocks of 16 tokens. Rows of weights are so many apart.
///
/// # Safety
/// The machine has `set`; `rows` rows of `16 * values.blocks` are readable at `weights`, so many scales, and rows of
/// `values.columns` writable at `sums`.
pub(super) unsafe fn add_up<F: Fn(usize, usize) -> *const u8>(
    set: InstructionSet,
    rows: usize,
    weights: (*const i16, usize),
    values: &Values<F>,
    scales: *const f32,
    sums: *mut f32,
) {
    // SAFETY: the caller's promise; whatever has AVX-512 has AVX2.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if set == InstructionSet::Avx512 && avx512::has_dot_products() {
            return with_rows!(rows, COUNT, avx512::add_up::<COUNT, F>(weights, values, scales, sums));
        }
        #[cfg(target_arch = "x86_64")]
        if set != InstructionSet::Portable {
            return with_rows!(rows, COUNT, avx2::add_up::<COUNT, F>(weights, values, scales, sums));
        }
        let _ = set;
        add_up_portable(rows, weights, values, scales, sums);
    }
}

unsafe fn add_up_portable<F: Fn(usize, usize) -> *const u8>(
    rows: usize,
    (weights, stride): (*const i16, usize),
    values: &Values<F>,
    scales: *const f32,
    sums: *mut f32,
) {
    for row in 0..rows {
        for column in 0..values.columns {
            let mut total = 0;
            for block in 0..values.blocks {
                let quants = (values.quants)(block, column);
                for token in 0..BLOCK_TOKENS {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let value = *quants.add((token / 2 * values.columns + column) * 2 + token % 2);
                        let weight = *weights.add(row * stride + block * BLOCK_TOKENS + token);
                        total += i32::from(value.cast_signed()) * i32::from(weight);
                    }
                }
            }
            // SAFETY: the caller's promise.
            unsafe {
                let sum = sums.add(row * values.columns + column);
                *sum = (total as f32).mul_add(*scales.add(row), *sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_madd_epi16, _mm256_mul_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256,
        _mm256_storeu_ps,
    };

    use super::{BLOCK_TOKENS, Keys, MOST_COLUMNS, Values};

    /// Lanes of a register.
    const LANES: usize = 8;

    /// Two bytes of 8 lanes each, in 16 bits.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn widened(from: *const u8) -> __m256i {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
    }

    /// Two integers of a row in every lane.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn pair(from: *const i16) -> __m256i {
        // SAFETY: the caller's promise: two of them.
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn score<const ROWS: usize>(queries: *const i16, keys: Keys, scores: *mut f32, stride: usize) {
        const PARTS: usize = BLOCK_TOKENS / LANES;
        let mut dots = [[_mm256_setzero_si256(); PARTS]; ROWS];
        // SAFETY: the caller's promise.
        unsafe {
            for input in (0..keys.inputs).step_by(2) {
                let mut quants = [_mm256_setzero_si256(); PARTS];
                for (part, quants) in quants.iter_mut().enumerate() {
                    *quants = widened(keys.quants.add((input * PARTS + part * 2) * LANES));
                }
                for (row, dots) in dots.iter_mut().enumerate() {
                    let query = pair(queries.add(row * keys.inputs + input));
                    for (dot, quants) in dots.iter_mut().zip(quants) {
                        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(quants, query));
                    }
                }
            }
            for (row, dots) in dots.iter().enumerate() {
                for (part, dot) in dots.iter().enumerate() {
                    let scale = _mm256_loadu_ps(keys.scales.add(part * LANES));
                    let target = scores.add(row * stride + part * LANES);
                    _mm256_storeu_ps(target, _mm256_mul_ps(_mm256_cvtepi32_ps(*dot), scale));
                }
            }
        }
    }

    /// Three rows or fewer leave registers for 32 columns at a time.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn add_up<const ROWS: usize, F: Fn(usize, usize) -> *const u8>(
        weights: (*const i16, usize),
        values: &Values<F>,
        scales: *const f32,
        sums: *mut f32,
    ) {
        let mut first = 0;
        while first < values.columns {
            // SAFETY: the caller's promise; columns are a multiple of 16.
            unsafe {
                if ROWS <= 3 && first + MOST_COLUMNS <= values.columns {
                    add_columns::<ROWS, { MOST_COLUMNS / LANES }, F>(weights, values, first, scales, sums);
                    first += MOST_COLUMNS;
                } else {
                    add_columns::<ROWS, { BLOCK_TOKENS / LANES }, F>(weights, values, first, scales, sums);
                    first += BLOCK_TOKENS;
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn add_columns<const ROWS: usize, const PARTS: usize, F: Fn(usize, usize) -> *const u8>(
        (weights, stride): (*const i16, usize),
        values: &Values<F>,
        first: usize,
        scales: *const f32,
        sums: *mut f32,
    ) {
        let mut totals = [[_mm256_setzero_si256(); PARTS]; ROWS];
        // SAFETY: the caller's promise.
        unsafe {
            for block in 0..values.blocks {
                let source = (values.quants)(block, first).add(2 * first);
                let weights = weights.add(block * BLOCK_TOKENS);
                for token in (0..BLOCK_TOKENS).step_by(2) {
                    let mut quants = [_mm256_setzero_si256(); PARTS];
                    for (part, quants) in quants.iter_mut().enumerate() {
                        *quants = widened(source.add(token * values.columns + part * 2 * LANES));
                    }
                    for (row, totals) in totals.iter_mut().enumerate() {
                        let weight = pair(weights.add(row * stride + token));
                        for (total, quants) in totals.iter_mut().zip(quants) {
                            *total = _mm256_add_epi32(*total, _mm256_madd_epi16(quants, weight));
                        }
                    }
                }
            }
            for (row, totals) in totals.iter().enumerate() {
                let scale = _mm256_set1_ps(*scales.add(row));
                for (part, total) in totals.iter().enumerate() {
                    let target = sums.add(row * values.columns + first + part * LANES);
                    let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(*total), scale, _mm256_loadu_ps(target));
                    _mm256_storeu_ps(target, sum);
                }
            }
        }
    }
}

/// With VNNI, whose dot product of two 16-bit integers in each of 16 lanes adds up by itself: a quarter of the instructions.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm256_loadu_si256, _mm512_add_epi32, _mm512_cvtepi8_epi16, _mm512_cvtepi32_ps, _mm512_dpwssd_epi32,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512,
        _mm512_storeu_ps,
    };

    use super::{BLOCK_TOKENS, Keys, MOST_COLUMNS, Values};

    /// Lanes of a register.
    const LANES: usize = 16;

    pub(super) fn has_dot_products() -> bool {
        is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni")
    }

    /// Two bytes of 16 lanes each, in 16 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn widened(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise: 32 bytes.
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())) }
    }

    /// Two integers of a row in every lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(from: *const i16) -> __m512i {
        // SAFETY: the caller's promise: two of them.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    /// Every other pair of inputs is added up apart: a sum waits five cycles for the one before.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn score<const ROWS: usize>(queries: *const i16, keys: Keys, scores: *mut f32, stride: usize) {
        let (mut dots, mut others) = ([_mm512_setzero_si512(); ROWS], [_mm512_setzero_si512(); ROWS]);
        // SAFETY: the caller's promise.
        unsafe {
            let whole = keys.inputs / 4 * 4;
            for input in (0..whole).step_by(4) {
                add_inputs(&mut dots, queries, keys, input);
                add_inputs(&mut others, queries, keys, input + 2);
            }
            if whole < keys.inputs {
                add_inputs(&mut dots, queries, keys, whole);
            }
            let scale = _mm512_loadu_ps(keys.scales);
            for (row, (dot, other)) in dots.into_iter().zip(others).enumerate() {
                let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(dot, other));
                _mm512_storeu_ps(scores.add(row * stride), _mm512_mul_ps(dot, scale));
            }
        }
    }

    /// Adds the products of two inputs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_inputs<const ROWS: usize>(dots: &mut [__m512i; ROWS], queries: *const i16, keys: Keys, input: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let quants = widened(keys.quants.add(input * BLOCK_TOKENS));
            for (row, dot) in dots.iter_mut().enumerate() {
                *dot = _mm512_dpwssd_epi32(*dot, quants, pair(queries.add(row * keys.inputs + input)));
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn add_up<const ROWS: usize, F: Fn(usize, usize) -> *const u8>(
        weights: (*const i16, usize),
        values: &Values<F>,
        scales: *const f32,
        sums: *mut f32,
    ) {
        let mut first = 0;
        while first < values.columns {
            // SAFETY: the caller's promise; columns are a multiple of 16.
            unsafe {
                if first + MOST_COLUMNS <= values.columns {
                    add_columns::<ROWS, { MOST_COLUMNS / LANES }, F>(weights, values, first, scales, sums);
                    first += MOST_COLUMNS;
                } else {
                    add_columns::<ROWS, 1, F>(weights, values, first, scales, sums);
                    first += LANES;
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_columns<const ROWS: usize, const PARTS: usize, F: Fn(usize, usize) -> *const u8>(
        (weights, stride): (*const i16, usize),
        values: &Values<F>,
        first: usize,
        scales: *const f32,
        sums: *mut f32,
    ) {
        let mut totals = [[_mm512_setzero_si512(); PARTS]; ROWS];
        // SAFETY: the caller's promise.
        unsafe {
            for block in 0..values.blocks {
                let source = (values.quants)(block, first).add(2 * first);
                let weights = weights.add(block * BLOCK_TOKENS);
                for token in (0..BLOCK_TOKENS).step_by(2) {
                    let mut quants = [_mm512_setzero_si512(); PARTS];
                    for (part, quants) in quants.iter_mut().enumerate() {
                        *quants = widened(source.add(token * values.columns + part * 2 * LANES));
                    }
                    for (row, totals) in totals.iter_mut().enumerate() {
                        let weight = pair(weights.add(row * stride + token));
                        for (total, quants) in totals.iter_mut().zip(quants) {
                            *total = _mm512_dpwssd_epi32(*total, quants, weight);
                        }
                    }
                }
            }
            for (row, totals) in totals.iter().enumerate() {
                let scale = _mm512_set1_ps(*scales.add(row));
                for (part, total) in totals.iter().enumerate() {
                    let target = sums.add(row * values.columns + first + part * LANES);
                    let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(*total), scale, _mm512_loadu_ps(target));
                    _mm512_storeu_ps(target, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use opencharacter_core::KeyedRandom;

    use super::*;
    use crate::matrix::instruction_set;

    fn bytes(random: &mut KeyedRandom, count: usize) -> Vec<u8> {
        (0..count).map(|_| (random.below(255) as i32 - 127).cast_unsigned() as u8).collect()
    }

    fn words(random: &mut KeyedRandom, count: usize) -> Vec<i16> {
        (0..count).map(|_| (random.below(65_535) as i32 - 32_767) as i16).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_same_scores() {
        let mut random = KeyedRandom::new(0, &["byte tile", "scores"]);
        for (rows, inputs) in (1..=ROWS).flat_map(|rows| [2, 30, 64].map(|inputs| (rows, inputs))) {
            let mut queries = words(&mut random, rows * inputs);
            let mut keys = bytes(&mut random, inputs * BLOCK_TOKENS);
            // The largest sums that there may be.
            queries[..inputs].fill(32_767);
            keys.chunks_exact_mut(2 * BLOCK_TOKENS).for_each(|pair| pair[..2].fill(127));
            let scales: Vec<f32> = (0..BLOCK_TOKENS).map(|token| 0.1 + token as f32).collect();
            let stride = BLOCK_TOKENS + 3;
            let run = |set| {
                let mut scores = vec![0.5_f32; rows * stride];
                let keys = Keys { quants: keys.as_ptr(), scales: scales.as_ptr(), inputs };
                // SAFETY: all buffers have their lengths.
                unsafe { score(set, rows, queries.as_ptr(), keys, scores.as_mut_ptr(), stride) };
                scores
            };
            let expected = run(InstructionSet::Portable);
            assert_eq!(expected[0], (inputs * 32_767 * 127) as f32 * scales[0]);
            assert!(expected.chunks_exact(stride).all(|row| row[BLOCK_TOKENS..] == [0.5; 3]));
            for set in [InstructionSet::Avx2, InstructionSet::Avx512] {
                if instruction_set() == set || instruction_set() == InstructionSet::Avx512 {
                    assert_eq!(run(set), expected, "{set:?}, {rows} rows of {inputs}");
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_sums() {
        let mut random = KeyedRandom::new(0, &["byte tile", "sums"]);
        for (rows, columns) in (1..=ROWS).flat_map(|rows| [16, 64, 80].map(|columns| (rows, columns))) {
            let stride = MOST_SUMMED * BLOCK_TOKENS + 5;
            let mut weights = words(&mut random, rows * stride);
            let mut values = bytes(&mut random, MOST_SUMMED * columns * BLOCK_TOKENS);
            // The largest sums that there may be, in the first column.
            weights[..stride].fill(32_767);
            values.chunks_exact_mut(2 * columns).for_each(|pair| pair[..2].fill(127));
            let scales: Vec<f32> = (0..rows).map(|row| 0.1 + row as f32).collect();
            for blocks in [1, 3, MOST_SUMMED] {
                let run = |set| {
                    let mut sums = vec![0.25_f32; rows * columns];
                    let quants = |block: usize, _: usize| values[block * columns * BLOCK_TOKENS..].as_ptr();
                    let values = Values { blocks, quants, columns };
                    let weights = (weights.as_ptr(), stride);
                    // SAFETY: all buffers have their lengths.
                    unsafe { add_up(set, rows, weights, &values, scales.as_ptr(), sums.as_mut_ptr()) };
                    sums
                };
                let expected = run(InstructionSet::Portable);
                let largest = (blocks * BLOCK_TOKENS * 32_767 * 127) as f32;
                assert_eq!(expected[0], largest.mul_add(scales[0], 0.25));
                for set in [InstructionSet::Avx2, InstructionSet::Avx512] {
                    if instruction_set() == set || instruction_set() == InstructionSet::Avx512 {
                        assert_eq!(run(set), expected, "{set:?}, {rows} rows, {columns} columns, {blocks} blocks");
                    }
                }
            }
        }
    }
}
