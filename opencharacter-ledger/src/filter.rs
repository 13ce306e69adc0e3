//! A Bloom filter over keys: says that a segment does not hold a key without reading it.

use crate::CallKey;

/// At seven probes, 0.8 % of keys that a segment does not hold pass.
const BITS_PER_KEY: usize = 10;
const PROBES: u64 = 7;

/// Which keys may be there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter(Vec<u8>);

impl Filter {
    pub(crate) fn of<'a>(keys: impl ExactSizeIterator<Item = &'a CallKey>) -> Self {
        let mut bits = vec![0; (keys.len() * BITS_PER_KEY).div_ceil(8).max(8)];
        let count = 8 * bits.len() as u64;
        for place in keys.flat_map(|key| places(key, count)) {
            bits[place / 8] |= 1 << (place % 8);
        }
        Self(bits)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_owned())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// False if the key is certainly not there.
    pub(crate) fn may_hold(&self, key: &CallKey) -> bool {
        places(key, 8 * self.0.len() as u64).all(|place| self.0[place / 8] & (1 << (place % 8)) != 0)
    }
}

/// The bits of `key` among `count`. A key is a cryptographic hash: its bytes are random as they are.
fn places(key: &CallKey, count: u64) -> impl Iterator<Item = usize> {
    let word = |at: usize| key.0[at..at + 8].iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let (first, step) = (word(8), word(16) | 1);
    // The upper half of the product maps 64 random bits to 0..count without a division.
    (0..PROBES).map(move |probe| {
        ((u128::from(first.wrapping_add(probe.wrapping_mul(step))) * u128::from(count)) >> 64) as usize
    })
}

#[cfg(test)]
mod tests {
    use opencharacter_core::content_hash;

    use super::*;

    #[test]
    fn holds_every_key_and_few_others() {
        let key = |number: u32| CallKey(content_hash(&[number.to_string()]));
        let keys: Vec<_> = (0..20_000).map(key).collect();
        let filter = Filter::of(keys.iter());
        assert!(keys.iter().all(|key| filter.may_hold(key)));
        let false_positives = (20_000..120_000).filter(|number| filter.may_hold(&key(*number))).count();
        assert!((500..1_200).contains(&false_positives), "{false_positives} of 100,000; 819 are expected");
    }
}
