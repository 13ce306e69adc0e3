//! Intervals and p-values for observations that come in clusters.
//!
//! The unit is the character. Answers by one character share a profile and rise and fall together, so resampling
//! single answers would give intervals that are too narrow. Whole characters are drawn with replacement instead
//! (cluster bootstrap, percentile interval, 95%). With fewer than about ten characters the percentile interval covers
//! less than it says; with fewer than two there is none.
//!
//! Every quantity is a ratio of sums: a mean over items is the sum of values over the number of items, a loss per
//! token the sum of losses over the number of tokens.

use std::collections::BTreeMap;

use opencharacter_core::KeyedRandom;
use serde::{Deserialize, Serialize};

/// Up to this many clusters, all sign flips are tried.
const EXACT_CLUSTERS: usize = 12;

/// How much to resample. Results are a function of these numbers and the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// Keys the draws.
    pub seed: u64,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Random sign flips where there are too many characters to try all.
    pub permutations: usize,
}

impl Default for Resampling {
    fn default() -> Self {
        Self { seed: 0, resamples: 2000, permutations: 5000 }
    }
}

/// A part of a ratio: what an item adds above and below the line.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ratio {
    /// Added to the numerator.
    pub sum: f64,
    /// Added to the denominator; not negative.
    pub weight: f64,
}

impl Ratio {
    /// An item of a plain mean.
    pub fn value(value: f64) -> Self {
        Self { sum: value, weight: 1.0 }
    }
}

/// One item under both models; `None` where the model has no value.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The character's id.
    pub cluster: String,
    /// The base model's value.
    pub base: Option<Ratio>,
    /// The tuned model's value.
    pub tuned: Option<Ratio>,
}

/// A value with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The ratio over all items.
    pub mean: f64,
    /// Lower end; `None` with fewer than two characters.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Items behind it.
    pub n_items: usize,
    /// Characters behind it.
    pub n_characters: usize,
}

/// Tuned minus base on the same items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The difference of the two ratios.
    pub mean: f64,
    /// Lower end of the 95% interval; `None` with fewer than two characters.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Two-sided, by exchanging base and tuned character by character; `None` with fewer than two characters. With c
    /// characters it cannot be below 2 / 2^c.
    pub p: Option<f64>,
    /// Items that both models have.
    pub n_items: usize,
    /// Characters behind them.
    pub n_characters: usize,
}

impl Difference {
    /// Whether the interval leaves zero out; false where there is none.
    pub fn excludes_zero(&self) -> bool {
        match (self.low, self.high) {
            (Some(low), Some(high)) => low > 0.0 || high < 0.0,
            _ => false,
        }
    }
}

/// The ratio over `items` (cluster and value), or `None` when their weights add up to nothing.
pub fn estimate<'a>(items: impl IntoIterator<Item = (&'a str, Ratio)>, resampling: &Resampling) -> Option<Estimate> {
    let items: Vec<(&str, [Ratio; 1])> = items.into_iter().map(|(cluster, value)| (cluster, [value])).collect();
    let clusters = by_cluster(&items);
    let mean = ratios(&clusters)?[0];
    let (low, high) = interval(&clusters, resampling, |[value]| value);
    Some(Estimate { mean, low, high, n_items: items.len(), n_characters: clusters.len() })
}

/// Tuned minus base over the pairs that have both, or `None` when there are none.
pub fn difference(pairs: &[Pair], resampling: &Resampling) -> Option<Difference> {
    let items: Vec<(&str, [Ratio; 2])> =
        pairs.iter().filter_map(|pair| Some((pair.cluster.as_str(), [pair.base?, pair.tuned?]))).collect();
    let clusters = by_cluster(&items);
    let subtract = |[base, tuned]: [f64; 2]| tuned - base;
    let mean = subtract(ratios(&clusters)?);
    let (low, high) = interval(&clusters, resampling, subtract);
    let p = sign_flip_p(&clusters, resampling);
    Some(Difference { mean, low, high, p, n_items: items.len(), n_characters: clusters.len() })
}

/// Sums by cluster, in the order of cluster ids. Within a cluster values are added in order of size, so that the order
/// of items cannot change the last bit.
fn by_cluster<const N: usize>(items: &[(&str, [Ratio; N])]) -> Vec<[Ratio; N]> {
    let mut clusters: BTreeMap<&str, Vec<[Ratio; N]>> = BTreeMap::new();
    for &(cluster, values) in items {
        clusters.entry(cluster).or_default().push(values);
    }
    clusters
        .into_values()
        .map(|values| std::array::from_fn(|side| sum(values.iter().map(|value| value[side]))))
        .collect()
}

fn sum(values: impl Iterator<Item = Ratio>) -> Ratio {
    let mut values: Vec<Ratio> = values.collect();
    values.sort_by(|a, b| a.sum.total_cmp(&b.sum).then(a.weight.total_cmp(&b.weight)));
    values.into_iter().fold(Ratio::default(), |total, value| Ratio {
        sum: total.sum + value.sum,
        weight: total.weight + value.weight,
    })
}

fn ratios<'a, const N: usize>(clusters: impl IntoIterator<Item = &'a [Ratio; N]>) -> Option<[f64; N]> {
    let mut totals = [Ratio::default(); N];
    for cluster in clusters {
        for (total, value) in totals.iter_mut().zip(cluster) {
            total.sum += value.sum;
            total.weight += value.weight;
        }
    }
    let all_weighted = totals.iter().all(|total| total.weight > 0.0);
    all_weighted.then(|| totals.map(|total| total.sum / total.weight))
}

fn interval<const N: usize>(
    clusters: &[[Ratio; N]],
    resampling: &Resampling,
    statistic: impl Fn([f64; N]) -> f64,
) -> (Option<f64>, Option<f64>) {
    if clusters.len() < 2 {
        return (None, None);
    }
    let mut random = KeyedRandom::new(resampling.seed, &["bootstrap"]);
    let mut draws: Vec<f64> = Vec::with_capacity(resampling.resamples);
    for _ in 0..resampling.resamples {
        let drawn: Vec<&[Ratio; N]> = clusters.iter().map(|_| &clusters[random.below(clusters.len())]).collect();
        // A resample of empty clusters only has no ratio; it is left out.
        draws.extend(ratios(drawn).map(&statistic));
    }
    draws.sort_by(f64::total_cmp);
    (quantile(&draws, 0.025), quantile(&draws, 0.975))
}

/// Linear interpolation between order statistics of `sorted` (type 7).
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let position = share * sorted.len().checked_sub(1)? as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    Some(below + (above - below) * position.fract())
}

/// If tuning changed nothing, base and tuned could be exchanged within any character. The p-value is the share of
/// such exchanges with a difference at least as large as the one seen.
fn sign_flip_p(clusters: &[[Ratio; 2]], resampling: &Resampling) -> Option<f64> {
    if clusters.len() < 2 {
        return None;
    }
    let seen = exchanged(clusters, |_| false)?.abs();
    // A hair's breadth for sums that differ only by rounding.
    let as_large = |value: Option<f64>| value.is_some_and(|value| value.abs() >= seen * (1.0 - 1e-9));
    if clusters.len() <= EXACT_CLUSTERS {
        let flips = 1_usize << clusters.len();
        let count = (0..flips).filter(|flip| as_large(exchanged(clusters, |index| flip >> index & 1 == 1))).count();
        return Some(count as f64 / flips as f64);
    }
    let mut random = KeyedRandom::new(resampling.seed, &["sign-flip"]);
    let count = (0..resampling.permutations)
        .filter(|_| {
            let flips: Vec<bool> = clusters.iter().map(|_| random.next_u64() >> 63 == 1).collect();
            as_large(exchanged(clusters, |index| flips[index]))
        })
        .count();
    // The arrangement seen is one of the possible ones, so p is never 0.
    Some((count + 1) as f64 / (resampling.permutations + 1) as f64)
}

fn exchanged(clusters: &[[Ratio; 2]], flip: impl Fn(usize) -> bool) -> Option<f64> {
    let exchanged: Vec<[Ratio; 2]> = clusters
        .iter()
        .enumerate()
        .map(|(index, &[base, tuned])| if flip(index) { [tuned, base] } else { [base, tuned] })
        .collect();
    ratios(&exchanged).map(|[base, tuned]| tuned - base)
}

#[cfg(test)]
#[path = "statistics_tests.rs"]
mod tests;
