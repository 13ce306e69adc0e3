use crate::content_hash;

/// A stream of random numbers that is a pure function of a seed and a key.
///
/// The key names what the draw is for, for example `&["characters", instruction_id]`. The generator is
/// SplitMix64 in counter mode (Steele, Lea and Flood, 2014): the state is a counter, so draws need no history.
#[derive(Debug, Clone)]
pub struct KeyedRandom {
    key: u64,
    counter: u64,
}

impl KeyedRandom {
    /// The stream of `seed` for `key`.
    pub fn new(seed: u64, key: &[&str]) -> Self {
        let seed_bytes = seed.to_le_bytes();
        let mut parts: Vec<&[u8]> = vec![&seed_bytes];
        parts.extend(key.iter().map(|part| part.as_bytes()));
        let hash = content_hash(&parts);
        let mut first = [0_u8; 8];
        first.copy_from_slice(&hash[..8]);
        Self { key: u64::from_le_bytes(first), counter: 0 }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut z = self.key.wrapping_add(self.counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)` with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // Multiply-shift: the bias is below bound / 2^64, far under anything measurable here.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A standard normal draw (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// `count` different indices out of `0..population` in random order; all of them when `count` is larger.
    pub fn sample(&mut self, population: usize, count: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..population).collect();
        let count = count.min(population);
        for position in 0..count {
            let other = position + self.below(population - position);
            indices.swap(position, other);
        }
        indices.truncate(count);
        indices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn streams_depend_on_seed_and_key_alone() {
        let draw = |seed, key: &[&str]| KeyedRandom::new(seed, key).next_u64();
        assert_eq!(draw(1, &["a"]), draw(1, &["a"]));
        assert_ne!(draw(1, &["a"]), draw(2, &["a"]));
        assert_ne!(draw(1, &["a"]), draw(1, &["b"]));
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut random = KeyedRandom::new(7, &["normal"]);
        let draws: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
    }

    proptest! {
        #[test]
        fn samples_are_distinct_and_in_range(seed: u64, population in 0_usize..50, count in 0_usize..60) {
            let mut sample = KeyedRandom::new(seed, &["sample"]).sample(population, count);
            prop_assert_eq!(sample.len(), count.min(population));
            sample.sort_unstable();
            sample.dedup();
            prop_assert_eq!(sample.len(), count.min(population));
            prop_assert!(sample.iter().all(|&index| index < population));
        }
    }
}
