use opencharacter_core::KeyedRandom;

/// How signatures are cut: two texts are candidates if all `rows` minima of one of `bands` bands agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Banding {
    pub(crate) rows: usize,
    pub(crate) bands: usize,
}

/// The greatest probability that a pair at the threshold is no candidate.
const MISSED: f64 = 1e-6;
/// Texts of a fifth of the threshold's similarity are unrelated. Few of them should be compared: at most this share.
const UNRELATED: f64 = 0.02;
/// Each band costs memory; more than these are never taken.
const MOST_BANDS: usize = 64;

impl Banding {
    /// As few rows as keep unrelated pairs from being compared, and the bands that these rows need.
    ///
    /// At 0.8: 27 bands of 4 rows. `threshold` is at least 0.2, for which one row needs 62 bands.
    pub(crate) fn for_threshold(threshold: f64) -> Self {
        let mut chosen = Self::with_rows(1, threshold);
        while chosen.candidate_probability(threshold / 5.0) > UNRELATED {
            let next = Self::with_rows(chosen.rows + 1, threshold);
            if next.bands > MOST_BANDS {
                break;
            }
            chosen = next;
        }
        chosen
    }

    fn with_rows(rows: usize, threshold: f64) -> Self {
        // The logarithm of "this band does not agree"; minus infinity at threshold 1, where one band is enough.
        let disagree = (-threshold.powi(rows as i32)).ln_1p();
        Self { rows, bands: (MISSED.ln() / disagree).ceil().max(1.0) as usize }
    }

    /// 1 - (1 - s^rows)^bands.
    fn candidate_probability(self, similarity: f64) -> f64 {
        1.0 - self.miss_probability(similarity)
    }

    /// (1 - s^rows)^bands.
    pub(crate) fn miss_probability(self, similarity: f64) -> f64 {
        (1.0 - similarity.powi(self.rows as i32)).powi(self.bands as i32)
    }
}

/// Computes the bands' keys of shingle sets.
#[derive(Debug, Clone)]
pub(crate) struct MinHash {
    banding: Banding,
    /// One function of each row of each band: `hash * multiplier + addend`, modulo 2^64.
    functions: Vec<(u64, u64)>,
}

impl MinHash {
    pub(crate) fn new(banding: Banding) -> Self {
        let mut random = KeyedRandom::new(0, &["similarity", "min-hash"]);
        // An odd multiplier permutes the 64-bit numbers. Shingles are hashes already: a permutation of random numbers
        // is random, so that the least of them falls on each shingle with equal chance.
        let functions = (0..banding.rows * banding.bands).map(|_| (random.next_u64() | 1, random.next_u64())).collect();
        Self { banding, functions }
    }

    pub(crate) fn bands(&self) -> usize {
        self.banding.bands
    }

    /// Appends one key per band of `shingles` to `keys`.
    ///
    /// Texts that share a band's minima share its key; others do by one chance in 2^32, which only costs a comparison.
    pub(crate) fn push_keys(&self, shingles: &[u64], keys: &mut Vec<u32>) {
        keys.extend(self.functions.chunks_exact(self.banding.rows).map(|band| {
            let key = band.iter().fold(0_u64, |key, &(multiplier, addend)| {
                let minimum = least(shingles, multiplier, addend);
                let mixed = (key ^ minimum).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                mixed ^ (mixed >> 32)
            });
            (key >> 32) as u32
        }));
    }
}

fn least(shingles: &[u64], multiplier: u64, addend: u64) -> u64 {
    shingles.iter().fold(u64::MAX, |least, &shingle| least.min(shingle.wrapping_mul(multiplier).wrapping_add(addend)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stated_miss_probability_holds_for_every_threshold() {
        for step in 20..=100 {
            let threshold = f64::from(step) / 100.0;
            let banding = Banding::for_threshold(threshold);
            assert!(banding.miss_probability(threshold) <= MISSED, "{threshold}: {banding:?}");
            assert!(banding.bands <= MOST_BANDS, "{threshold}: {banding:?}");
        }
        assert_eq!(Banding::for_threshold(0.8), Banding { rows: 4, bands: 27 });
    }

    #[test]
    fn minima_agree_as_often_as_sets_are_similar() {
        // One band of one row per function: its keys agree with probability J.
        let min_hash = MinHash::new(Banding { rows: 1, bands: 400 });
        let mut random = KeyedRandom::new(1, &["sets"]);
        for shared in [2, 10, 16, 19] {
            let (mut agreed, pairs) = (0, 200);
            for _ in 0..pairs {
                let common: Vec<u64> = (0..shared).map(|_| random.next_u64()).collect();
                let mut set = || {
                    let mut set = common.clone();
                    set.extend((shared..20).map(|_| random.next_u64()));
                    let mut keys = Vec::new();
                    min_hash.push_keys(&set, &mut keys);
                    keys
                };
                let (first, second) = (set(), set());
                agreed += first.iter().zip(&second).filter(|(left, right)| left == right).count();
            }
            let expected = f64::from(shared) / f64::from(40 - shared);
            let measured = agreed as f64 / f64::from(pairs * 400);
            // Four standard errors, were the 80,000 comparisons independent.
            let error = 4.0 * (expected * (1.0 - expected) / f64::from(pairs * 400)).sqrt();
            assert!((measured - expected).abs() < error, "{measured} for {expected} +- {error}");
        }
    }
}
