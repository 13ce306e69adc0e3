//! Quantised weights on their way into bfloat16.
//!
//! A lane's 32-bit word of 4-bit quants holds 8 inputs in their order, so its two halves hold inputs 4 apart: those are the
//! pairs, and all 32 halves of a register are worked on at once. A quant is put into the fraction of a number from 1 to 2, and
//! one fused multiply-add in half precision makes a weight of it. A half-precision number is a bfloat16 one but for three
//! bits of its fraction, which are rounded away, and three more of the exponent: shifted in, they lower it by 2^112.

use std::arch::x86_64::{
    __m512, __m512h, __m512i, _mm256_loadu_si256, _mm512_and_si512, _mm512_castph_si512, _mm512_castsi512_ph,
    _mm512_cvtepi16_ph, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_cvtps_ph, _mm512_fmadd_ph, _mm512_fmadd_ps,
    _mm512_loadu_si512, _mm512_mul_ph, _mm512_mul_ps, _mm512_mulhrs_epi16, _mm512_or_si512, _mm512_roundscale_ps,
    _mm512_set1_epi16, _mm512_set1_ps, _mm512_setzero_ph, _mm512_slli_epi16, _mm512_slli_epi32, _mm512_srai_epi16,
    _mm512_srli_epi16, _mm512_store_si512, _mm512_ternarylogic_epi32,
};

use super::super::{
    PANEL,
    block_tile::{Q4_1, Q8_0},
    blocks::{BLOCK, BlockFormat, GROUP},
};

/// What weights of one unit become, the least that are not nothing: 2^-14, the least normal number of half precision.
const UNIT: f32 = 1.0 / 16_384.0;
/// `first & second | third`, as a table of its results.
const AND_OR: i32 = 0xEA;

/// Pairs of a block's inputs.
pub(super) const PAIRS: usize = BLOCK / 2;
/// Pairs of a group.
pub(super) const PAIRS_OF_GROUP: usize = GROUP / 2;

/// One block's pairs of weights for the 16 outputs of a panel, as a tile is loaded: `[pairs][16][2]`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Step(pub(super) [[u16; 2 * PANEL]; PAIRS]);

/// What makes the quants of a panel's block into weights, for both members of 16 pairs.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    scale: __m512h,
    offset: __m512h,
}

/// Unpacks a panel's block.
///
/// # Safety
/// As [`unpack_group`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
pub(super) unsafe fn unpack<const FORMAT: u8>(block: *const u8, affine: Affine, out: *mut Step) {
    for group in 0..BLOCK / GROUP {
        // SAFETY: the caller's promise.
        unsafe { unpack_group::<FORMAT>(block, group, affine, out) };
    }
}

/// Unpacks a group of 8 inputs of a panel's block.
///
/// # Safety
/// As [`affine`]; `out` is writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
pub(super) unsafe fn unpack_group<const FORMAT: u8>(block: *const u8, group: usize, affine: Affine, out: *mut Step) {
    // SAFETY: the caller's promise; a step has a line for each pair.
    unsafe {
        let quants = quants::<FORMAT>(block, group);
        for place in 0..PAIRS_OF_GROUP {
            let line = (&raw mut (*out).0[group * PAIRS_OF_GROUP + place]).cast();
            _mm512_store_si512(line, weights::<FORMAT>(quants, place, affine));
        }
    }
}

/// A panel's block's scales and offsets as halves, in multiples of their outputs' units: so is each weight, rounded as it
/// may be, which keeps the least of them above the least that is a normal number.
///
/// # Safety
/// A block of the format lies at `block`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
pub(super) unsafe fn affine<const FORMAT: u8>(block: *const u8, inverse: __m512) -> Affine {
    // SAFETY: the caller's promise.
    let (scale, offset) = unsafe {
        let scale = multiples(block, inverse);
        let offset = match FORMAT {
            Q4_1 => multiples(block.add(2 * PANEL), inverse),
            _ => _mm512_mul_ps(scale, _mm512_set1_ps(-8.0)),
        };
        (scale, offset)
    };
    if FORMAT == Q8_0 {
        return Affine { scale: twice(_mm512_mul_ps(scale, _mm512_set1_ps(UNIT))), offset: _mm512_setzero_ph() };
    }
    // A quant is `16 v - 16`, where `v` is the number from 1 to 2 that it is made into.
    let offset = _mm512_fmadd_ps(scale, _mm512_set1_ps(-16.0), offset);
    Affine {
        scale: twice(_mm512_mul_ps(scale, _mm512_set1_ps(16.0 * UNIT))),
        offset: twice(_mm512_mul_ps(offset, _mm512_set1_ps(UNIT))),
    }
}

/// 16 halves as whole multiples of units.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn multiples(source: *const u8, inverse: __m512) -> __m512 {
    // SAFETY: the caller's promise.
    let halves = unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(source.cast())) };
    _mm512_roundscale_ps::<0>(_mm512_mul_ps(halves, inverse))
}

/// Each of 16 values in half precision, for both members of a pair.
#[inline]
#[target_feature(enable = "avx512f,avx512fp16")]
fn twice(values: __m512) -> __m512h {
    let halves = _mm512_cvtepu16_epi32(_mm512_cvtps_ph::<0>(values));
    _mm512_castsi512_ph(_mm512_or_si512(halves, _mm512_slli_epi32::<16>(halves)))
}

/// The quants of a group of 8 inputs, in one register, or in two where they have 8 bits.
///
/// # Safety
/// As [`affine`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn quants<const FORMAT: u8>(block: *const u8, group: usize) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        if FORMAT == Q8_0 {
            let source = block.add(BlockFormat::Q8_0.halves_bytes() + group * GROUP * PANEL);
            return [_mm512_loadu_si512(source.cast()), _mm512_loadu_si512(source.add(64).cast())];
        }
        let format = if FORMAT == Q4_1 { BlockFormat::Q4_1 } else { BlockFormat::Q4_0 };
        let source = block.add(format.halves_bytes() + group * GROUP * PANEL / 2);
        [_mm512_loadu_si512(source.cast()); 2]
    }
}

/// A pair of inputs' weights, `[16][2]`, in bfloat16: inputs `place` and `place + 4` of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
fn weights<const FORMAT: u8>(quants: [__m512i; 2], place: usize, affine: Affine) -> __m512i {
    let weights = if FORMAT == Q8_0 {
        // The even inputs' bytes, then the odd ones'.
        let bytes = quants[place % 2];
        let low = if place < 2 { _mm512_slli_epi16::<8>(bytes) } else { bytes };
        _mm512_mul_ph(_mm512_cvtepi16_ph(_mm512_srai_epi16::<8>(low)), affine.scale)
    } else {
        let shifted = match place {
            0 => _mm512_slli_epi16::<6>(quants[0]),
            1 => _mm512_slli_epi16::<2>(quants[0]),
            2 => _mm512_srli_epi16::<2>(quants[0]),
            _ => _mm512_srli_epi16::<6>(quants[0]),
        };
        let (fraction, one) = (_mm512_set1_epi16(0x03C0), _mm512_set1_epi16(0x3C00));
        let value = _mm512_castsi512_ph(_mm512_ternarylogic_epi32::<AND_OR>(shifted, fraction, one));
        _mm512_fmadd_ph(value, affine.scale, affine.offset)
    };
    // A shift by three bits that rounds, half-way cases up: the upper half of a product, doubled. The sign's copies are taken
    // away.
    let shifted = _mm512_mulhrs_epi16(_mm512_castph_si512(weights), _mm512_set1_epi16(1 << 12));
    _mm512_and_si512(shifted, _mm512_set1_epi16(0x8FFF_u16.cast_signed()))
}
