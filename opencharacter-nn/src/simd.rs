//! Element-wise arithmetic that the compiler turns into vector code.
//!
//! Each routine is written once as plain loops over `f32::mul_add`, and compiled three times: for the machine that
//! every build must run on, for AVX2 with FMA, and for AVX-512; which one is chosen when it runs. A fused
//! multiply-add rounds once wherever it is computed, so all versions give the same bits.

#![expect(
    clippy::inline_always,
    reason = "a helper must become part of the copy that is compiled for newer processors"
)]

/// Whether the processor has the parts of AVX-512 that element-wise loops are compiled for.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected;
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("fma")
}

/// Defines `$name` with copies of its body compiled for AVX2 with FMA and for AVX-512, picked at run time.
macro_rules! vectorised {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    portable($($argument),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    portable($($argument),*)
                }
                if $crate::simd::has_avx512() {
                    // SAFETY: the processor has just been found to have them.
                    return unsafe { avx512($($argument),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has just been found to have both features.
                    return unsafe { avx2($($argument),*) };
                }
            }
            portable($($argument),*)
        }
    };
}
pub(crate) use vectorised;

/// `e^x` to about 2 units in the last place; 0 below -87.
///
/// Range reduction by powers of two and a polynomial of degree 6 (Cephes `expf`), without branches or tables so that
/// loops over it vectorise.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let power = shifted - ROUND;
    let reduced = power.mul_add(-LN_2_HIGH, clamped);
    let reduced = power.mul_add(-LN_2_LOW, reduced);
    let mut polynomial = 1.987_569_1e-4_f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = polynomial.mul_add(reduced, coefficient);
    }
    let value = polynomial.mul_add(reduced * reduced, reduced + 1.0);
    // The integer lies in the last bits. A cast from `power` saturates, which AVX2 has no instruction for: the loop was
    // then done one element at a time (SwiGLU: 3.2% of a decoding step's samples, against 1.4%).
    let scale = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    if x < -87.0 { 0.0 } else { value * scale }
}

/// The largest element; negative infinity for an empty slice.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut chunks = values.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let tail = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    lanes.iter().copied().fold(tail, f32::max)
}

/// The sum, in a fixed order that does not depend on anything but the length.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let mut chunks = values.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    let tail: f32 = chunks.remainder().iter().sum();
    lanes.iter().sum::<f32>() + tail
}

/// The greatest absolute value; no number if there is any that is none.
#[inline(always)]
pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
    // As bits, in which a value that is no number lies above all others: it must show, not vanish.
    let mut largest = 0;
    for value in values {
        largest = largest.max(value.to_bits() & 0x7FFF_FFFF);
    }
    f32::from_bits(largest)
}

/// The nearest integer to `value`, which must be smaller than 2^22.
#[inline(always)]
pub(crate) fn nearest(value: f32) -> i32 {
    // Adding it rounds, and leaves the integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    (value + ROUND).to_bits().cast_signed() - ROUND.to_bits().cast_signed()
}

/// The inner product, in a fixed order.
#[inline(always)]
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let mut left_chunks = left.chunks_exact(16);
    let mut right_chunks = right.chunks_exact(16);
    for (a, b) in (&mut left_chunks).zip(&mut right_chunks) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = a.mul_add(b, *lane);
        }
    }
    let mut total: f32 = lanes.iter().sum();
    for (&a, &b) in left_chunks.remainder().iter().zip(right_chunks.remainder()) {
        total = a.mul_add(b, total);
    }
    total
}

/// Asks memory for `values`, which are about to be read.
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of_val(values)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address does nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().cast::<i8>().wrapping_add(line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

vectorised! {
    /// Replaces scores by `e^(scale * score - maximum)` and returns the scaled maximum and the sum.
    pub(crate) fn exponentiate(scores: &mut [f32], scale: f32) -> (f32, f32) {
        let maximum = max(scores) * scale;
        for score in scores.iter_mut() {
            *score = exp(score.mul_add(scale, -maximum));
        }
        (maximum, sum(scores))
    }
}

vectorised! {
    /// Multiplies every element by `factor`.
    pub(crate) fn scale(values: &mut [f32], factor: f32) {
        for value in values.iter_mut() {
            *value *= factor;
        }
    }
}

vectorised! {
    /// Rounds `values` to integers from `-most` to `most`, at most 32,767, times the scale that it returns: the largest
    /// one's share. The scale is no number if any value is none or infinite, so that it shows in every product.
    pub(crate) fn quantise(values: &[f32], most: f32, quants: &mut [i16]) -> f32 {
        quantise_by(largest_magnitude(values), values, most, quants)
    }
}

/// [`quantise`], given the largest magnitude.
#[inline(always)]
fn quantise_by(largest: f32, values: &[f32], most: f32, quants: &mut [i16]) -> f32 {
    let scale = largest / most;
    if !scale.is_finite() {
        quants.fill(0);
        return f32::NAN;
    }
    // Below that, the inverse would overflow; the values are as good as zero.
    let inverse = if largest < 1e-33 { 0.0 } else { most / largest };
    for (quant, value) in quants.iter_mut().zip(values) {
        *quant = nearest(value * inverse) as i16;
    }
    scale
}

vectorised! {
    /// The probabilities of scores times `scale`, each times the factor at its place in `by`, in integers of at most `most`;
    /// returns what one of them stands for. Leaves anything in `scores`.
    pub(crate) fn weigh(scores: &mut [f32], scale: f32, by: &[f32], most: f32, quants: &mut [i16]) -> f32 {
        const LANES: usize = 16;
        let maximum = max(scores) * scale;
        let (mut sums, mut largest) = ([0.0_f32; LANES], [0_u32; LANES]);
        let (chunks, tail) = scores.as_chunks_mut::<LANES>();
        let (by_chunks, by_tail) = by.as_chunks::<LANES>();
        for (scores, by) in chunks.iter_mut().zip(by_chunks) {
            for (((score, by), sum), largest) in scores.iter_mut().zip(by).zip(&mut sums).zip(&mut largest) {
                let probability = exp(score.mul_add(scale, -maximum));
                *sum += probability;
                *score = probability * by;
                *largest = (score.to_bits() & 0x7FFF_FFFF).max(*largest);
            }
        }
        let mut tail_sum = 0.0;
        for (score, by) in tail.iter_mut().zip(by_tail) {
            let probability = exp(score.mul_add(scale, -maximum));
            tail_sum += probability;
            *score = probability * by;
            largest[0] = (score.to_bits() & 0x7FFF_FFFF).max(largest[0]);
        }
        let total = sums.iter().sum::<f32>() + tail_sum;
        let largest = f32::from_bits(largest.into_iter().fold(0, u32::max));
        quantise_by(largest, scores, most, quants) / total
    }
}

vectorised! {
    /// The largest element and the logarithm of the sum of exponentials of all of them.
    pub(crate) fn log_sum_exp(values: &[f32]) -> f32 {
        let maximum = max(values);
        let mut lanes = [0.0_f32; 16];
        let mut chunks = values.chunks_exact(16);
        for chunk in &mut chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane += exp(value - maximum);
            }
        }
        let tail: f32 = chunks.remainder().iter().map(|&value| exp(value - maximum)).sum();
        maximum + (lanes.iter().sum::<f32>() + tail).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_standard_library() {
        let mut x = -86.0_f32;
        while x < 87.0 {
            let expected = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(relative < 3e-7, "exp({x}): relative error {relative}");
            x += 0.013;
        }
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn quants_are_within_half_a_step_and_what_is_no_number_shows() {
        let values: Vec<f32> = (0..77).map(|place| (place as f32 * 0.7).sin() * 3.0).collect();
        for most in [127.0, 32_767.0] {
            let mut quants = [0; 77];
            let scale = quantise(&values, most, &mut quants);
            assert_eq!(quants.iter().map(|quant| quant.unsigned_abs()).max(), Some(most as u16));
            for (value, quant) in values.iter().zip(quants) {
                assert!((value - scale * f32::from(quant)).abs() <= scale * 0.501, "{value} as {quant} x {scale}");
            }
        }
        let mut quants = [7; 3];
        assert_eq!((quantise(&[0.0; 3], 127.0, &mut quants), quants), (0.0, [0; 3]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut quants = [7; 3];
            assert!(quantise(&[1.0, bad, 2.0], 127.0, &mut quants).is_nan(), "{bad}");
            assert_eq!(quants, [0; 3]);
        }
    }

    #[test]
    fn weighing_is_its_steps_one_after_the_other() {
        for length in [1, 15, 16, 77] {
            let scores: Vec<f32> = (0..length).map(|place| (place as f32 * 0.7).sin() * 9.0).collect();
            let by: Vec<f32> = (0..length).map(|place| 0.5 + (place as f32 * 0.3).cos()).collect();
            let (mut quants, mut expected) = (vec![0; length], vec![0; length]);
            let scale = weigh(&mut scores.clone(), 0.6, &by, 32_767.0, &mut quants);
            let mut steps = scores;
            let (_, total) = exponentiate(&mut steps, 0.6);
            steps.iter_mut().zip(&by).for_each(|(value, by)| *value *= by);
            let expected_scale = quantise(&steps, 32_767.0, &mut expected) / total;
            assert_eq!((scale.to_bits(), quants), (expected_scale.to_bits(), expected), "{length} scores");
        }
    }

    #[test]
    fn log_sum_exp_of_equal_values() {
        let values = vec![3.0_f32; 100];
        assert!((log_sum_exp(&values) - (3.0 + 100.0_f32.ln())).abs() < 1e-5);
    }
}
