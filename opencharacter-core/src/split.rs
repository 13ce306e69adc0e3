use std::collections::HashSet;

use crate::KeyedRandom;

/// The ids that were set apart before anything was synthesised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldOut(HashSet<String>);

impl HeldOut {
    /// Whether `id` was set apart.
    pub fn contains(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    /// How many ids were set apart.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was set apart.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sets `count` of `ids` apart: those with the smallest keyed draws under `seed` and `purpose`.
///
/// The choice does not depend on the order of `ids`, and growing the list moves few ids across.
pub fn hold_out<'a>(ids: impl IntoIterator<Item = &'a str>, count: usize, seed: u64, purpose: &str) -> HeldOut {
    let mut ranked: Vec<(u64, &str)> =
        ids.into_iter().map(|id| (KeyedRandom::new(seed, &["held-out", purpose, id]).next_u64(), id)).collect();
    ranked.sort_unstable();
    ranked.dedup();
    HeldOut(ranked.into_iter().take(count).map(|(_, id)| id.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn choice_ignores_order(mut ids in proptest::collection::hash_set("[a-z]{1,6}", 0..40), count in 0_usize..50) {
            let forward: Vec<String> = ids.drain().collect();
            let mut sorted = forward.clone();
            sorted.sort();
            let first = hold_out(forward.iter().map(String::as_str), count, 3, "characters");
            let second = hold_out(sorted.iter().map(String::as_str), count, 3, "characters");
            prop_assert_eq!(first.len(), count.min(forward.len()));
            prop_assert_eq!(first, second);
        }
    }
}
