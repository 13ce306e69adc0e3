use crate::team;

/// Drops a share of values and scales the others up, so that the mean stays; which ones follows from the key alone, so
/// the way back drops the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dropout {
    /// Share that is dropped, from 0 to below 1.
    pub(crate) probability: f32,
    /// Decides which.
    pub(crate) key: u64,
}

/// Elements per parallel task.
const CHUNK: usize = 16_384;

impl Dropout {
    /// `values` with some zeroed and the others scaled; also what a gradient becomes on its way back.
    pub(crate) fn apply(self, values: &[f32]) -> Vec<f32> {
        let keep = 1.0 / (1.0 - self.probability);
        team::fill(values.len(), CHUNK, |chunk, out| {
            for (place, (out, value)) in out.iter_mut().zip(&values[chunk * CHUNK..]).enumerate() {
                if keyed_uniform(self.key, (chunk * CHUNK + place) as u64) >= self.probability {
                    *out = value * keep;
                }
            }
        })
    }
}

/// Uniform in `[0, 1)` with 24 bits, a pure function of key and place: `SplitMix64` in counter mode.
pub(crate) fn keyed_uniform(key: u64, place: u64) -> f32 {
    let mut z = key.wrapping_add((place + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f32 / (1_u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_dropped_and_the_mean_are_right() {
        let dropout = Dropout { probability: 0.25, key: 7 };
        let out = dropout.apply(&vec![1.0; 100_000]);
        let dropped = out.iter().filter(|value| **value == 0.0).count();
        // Five standard deviations of a binomial of 100,000 draws.
        assert!((dropped as f64 - 25_000.0).abs() < 5.0 * (100_000.0_f64 * 0.25 * 0.75).sqrt(), "{dropped}");
        assert!(out.iter().all(|value| *value == 0.0 || (*value - 4.0 / 3.0).abs() < 1e-6));
        assert_ne!(out, Dropout { key: 8, ..dropout }.apply(&vec![1.0; 100_000]));
    }
}
