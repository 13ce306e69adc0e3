use std::collections::BTreeMap;

use opencharacter_core::KeyedRandom;

use super::{Estimate, Resampling, interval::interval};

/// What several raters said of one item, on an ordinal scale; `None` where a rater said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ratings {
    /// The character's id.
    pub cluster: String,
    /// One entry per rater.
    pub ratings: Vec<Option<u8>>,
}

/// Krippendorff's alpha for ordinal data with missing values (Krippendorff, *Content Analysis*, 2004, chapter 11), its
/// interval by drawing whole characters.
///
/// 1 is perfect agreement, 0 what chance gives, below 0 worse than chance. `None` when fewer than two items have two
/// ratings, or when every rating is the same: then there is nothing to agree about, and a judge that always says 5
/// agrees with itself to no purpose.
pub fn krippendorff_alpha(items: &[Ratings], resampling: &Resampling) -> Option<Estimate> {
    let mut levels: Vec<u8> = items.iter().flat_map(|item| item.ratings.iter().flatten().copied()).collect();
    levels.sort_unstable();
    levels.dedup();
    let mut clusters: BTreeMap<&str, Coincidences> = BTreeMap::new();
    let mut n_items = 0;
    for item in items {
        let ratings: Vec<usize> =
            item.ratings.iter().flatten().filter_map(|rating| levels.binary_search(rating).ok()).collect();
        if ratings.len() >= 2 {
            n_items += 1;
            clusters.entry(&item.cluster).or_insert_with(|| Coincidences::new(levels.len())).add_item(&ratings);
        }
    }
    let clusters: Vec<Coincidences> = clusters.into_values().collect();
    let mean = Coincidences::sum(levels.len(), clusters.iter()).alpha()?;
    let mut draws = Vec::new();
    if clusters.len() >= 2 {
        let mut random = KeyedRandom::new(resampling.seed, &["bootstrap", "alpha"]);
        for _ in 0..resampling.resamples {
            let drawn = (0..clusters.len()).map(|_| &clusters[random.below(clusters.len())]);
            let drawn: Vec<&Coincidences> = drawn.collect();
            draws.extend(Coincidences::sum(levels.len(), drawn.into_iter()).alpha());
        }
    }
    let (low, high) = interval(draws, mean, clusters.len());
    // No agreement is more than perfect.
    let high = high.map(|high| high.min(1.0));
    Some(Estimate { mean, low, high, n_items, n_characters: clusters.len() })
}

/// How often each pair of levels was given to one item; each item counts by its number of ratings.
struct Coincidences {
    levels: usize,
    counts: Vec<f64>,
}

impl Coincidences {
    fn new(levels: usize) -> Self {
        Self { levels, counts: vec![0.0; levels * levels] }
    }

    fn add_item(&mut self, ratings: &[usize]) {
        let weight = 1.0 / (ratings.len() - 1) as f64;
        for (place, &first) in ratings.iter().enumerate() {
            for (other, &second) in ratings.iter().enumerate() {
                if place != other {
                    self.counts[first * self.levels + second] += weight;
                }
            }
        }
    }

    fn sum<'a>(levels: usize, parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut total = Self::new(levels);
        for part in parts {
            for (total, count) in total.counts.iter_mut().zip(&part.counts) {
                *total += count;
            }
        }
        total
    }

    fn alpha(&self) -> Option<f64> {
        if self.levels == 0 {
            return None;
        }
        let totals: Vec<f64> = self.counts.chunks_exact(self.levels).map(|row| row.iter().sum()).collect();
        let all: f64 = totals.iter().sum();
        let (mut observed, mut expected) = (0.0, 0.0);
        for first in 0..self.levels {
            for second in first + 1..self.levels {
                let between: f64 = totals[first..=second].iter().sum();
                let distance = (between - f64::midpoint(totals[first], totals[second])).powi(2);
                observed += self.counts[first * self.levels + second] * distance;
                expected += totals[first] * totals[second] * distance;
            }
        }
        (expected > 0.0).then(|| 1.0 - (all - 1.0) * observed / expected)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        ratings: Vec<Vec<Option<u8>>>,
        alpha: Option<f64>,
    }

    #[test]
    fn agrees_with_the_krippendorff_package() {
        // Written by xtask/golden/make_eval_golden.py.
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/data/krippendorff.json")).unwrap();
        assert!(cases.len() > 50);
        for case in &cases {
            let items: Vec<Ratings> = case
                .ratings
                .iter()
                .enumerate()
                .map(|(index, ratings)| Ratings { cluster: index.to_string(), ratings: ratings.clone() })
                .collect();
            let resampling = Resampling { resamples: 20, ..Resampling::default() };
            let found = krippendorff_alpha(&items, &resampling).map(|estimate| estimate.mean);
            match (found, case.alpha) {
                (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-9, "{found} {expected}"),
                (found, expected) => assert_eq!(found, expected, "{:?}", case.ratings),
            }
        }
    }

    #[test]
    fn one_rater_or_one_level_has_no_agreement() {
        let rated = |ratings: &[Option<u8>]| Ratings { cluster: "a".into(), ratings: ratings.to_vec() };
        assert_eq!(krippendorff_alpha(&[], &Resampling::default()), None);
        assert_eq!(krippendorff_alpha(&[rated(&[Some(3), None])], &Resampling::default()), None);
        let always_five = vec![rated(&[Some(5), Some(5)]); 30];
        assert_eq!(krippendorff_alpha(&always_five, &Resampling::default()), None);
    }
}
