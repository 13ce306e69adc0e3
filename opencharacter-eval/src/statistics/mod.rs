//! Intervals, p-values, agreement and rankings for observations that come in clusters.
//!
//! The unit is the character. Answers by one character share a profile and rise and fall together, so resampling
//! single answers would give intervals that are too narrow. Whole characters are drawn with replacement instead
//! (cluster bootstrap, 95%, percentiles widened for few characters). With fewer than two there is no interval.
//!
//! Every quantity is a ratio of sums: a mean over items is the sum of values over the number of items, a loss per
//! token the sum of losses over the number of tokens. A score over several tasks is the mean of such ratios, one per
//! task ([`mean_of_tasks`]), so that a task with more questions does not count for more.

mod agreement;
mod bradley_terry;
mod clusters;
mod holm;
mod interval;

use serde::{Deserialize, Serialize};

pub use agreement::{Ratings, krippendorff_alpha};
pub use bradley_terry::{Game, Strength, bradley_terry};
use clusters::Clusters;
pub use holm::holm;
use interval::{NORMAL, interval};

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

    /// An item of a weighted mean.
    pub fn weighted(value: f64, weight: f64) -> Self {
        Self { sum: value * weight, weight }
    }
}

/// One item under both models; `None` where the model has no value.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The character's id, or that of the group of near-equal characters that it belongs to.
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
    /// The smallest true difference that a run like this one finds (p below 0.05) four times out of five; `None` with
    /// fewer than six characters, where p cannot fall below 0.05. It follows from the spread between characters, not
    /// from the difference found.
    #[serde(default)]
    pub detectable: Option<f64>,
    /// Items that both models have.
    pub n_items: usize,
    /// Their characters.
    pub n_characters: usize,
}

impl Difference {
    /// Whether the interval lies on one side of zero.
    pub fn excludes_zero(&self) -> bool {
        match (self.low, self.high) {
            (Some(low), Some(high)) => low > 0.0 || high < 0.0,
            _ => false,
        }
    }
}

/// The ratio over `items` (cluster and value), or `None` when their weights add up to nothing.
pub fn estimate<'a>(items: impl IntoIterator<Item = (&'a str, Ratio)>, resampling: &Resampling) -> Option<Estimate> {
    let items = items.into_iter().map(|(cluster, value)| (0, cluster, value));
    mean_of_tasks(items, 1, resampling)
}

/// The mean over `tasks` ratios of `items` (task counting from 0, cluster and value), each task counting alike, or
/// `None` when a task has no weight.
pub fn mean_of_tasks<'a>(
    items: impl IntoIterator<Item = (usize, &'a str, Ratio)>,
    tasks: usize,
    resampling: &Resampling,
) -> Option<Estimate> {
    let clusters = Clusters::new(tasks, items.into_iter().map(|(task, cluster, value)| (cluster, vec![(task, value)])));
    let mean = mean_of(&clusters.ratios()?);
    let draws = clusters.bootstrap(resampling, mean_of);
    let (low, high) = interval(draws, mean, clusters.len());
    Some(Estimate { mean, low, high, n_items: clusters.n_items(), n_characters: clusters.len() })
}

/// Tuned minus base over the pairs that have both, or `None` when there are none.
pub fn difference(pairs: &[Pair], resampling: &Resampling) -> Option<Difference> {
    difference_of_tasks(pairs.iter().map(|pair| (0, pair)), 1, resampling)
}

/// Tuned minus base of the mean over `tasks` ratios (see [`mean_of_tasks`]), over the pairs that have both.
pub fn difference_of_tasks<'a>(
    pairs: impl IntoIterator<Item = (usize, &'a Pair)>,
    tasks: usize,
    resampling: &Resampling,
) -> Option<Difference> {
    let both = pairs.into_iter().filter_map(|(task, pair)| {
        Some((pair.cluster.as_str(), vec![(task, pair.base?), (tasks + task, pair.tuned?)]))
    });
    let clusters = Clusters::new(2 * tasks, both);
    let subtract = |ratios: &[f64]| mean_of(&ratios[tasks..]) - mean_of(&ratios[..tasks]);
    let mean = subtract(&clusters.ratios()?);
    let draws = clusters.bootstrap(resampling, subtract);
    let detectable = detectable(&draws, clusters.len());
    let (low, high) = interval(draws, mean, clusters.len());
    let p = clusters.sign_flip_p(resampling, subtract);
    Some(Difference { mean, low, high, p, detectable, n_items: clusters.n_items(), n_characters: clusters.len() })
}

fn mean_of(ratios: &[f64]) -> f64 {
    ratios.iter().sum::<f64>() / ratios.len() as f64
}

/// With so few characters no p-value of the sign-flip test is below 0.05.
const FEWEST_FOR_SIGNIFICANCE: usize = 6;

/// The sum of the normal quantiles of 0.975 (two-sided 5%) and 0.8 (power 80%), times the standard error.
fn detectable(draws: &[f64], clusters: usize) -> Option<f64> {
    const QUANTILES: f64 = NORMAL + 0.841_621;
    if clusters < FEWEST_FOR_SIGNIFICANCE || draws.len() < 2 {
        return None;
    }
    let mean = mean_of(draws);
    let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / (draws.len() - 1) as f64;
    // Resampling n clusters understates the variance by (n - 1) / n.
    let correction = clusters as f64 / (clusters - 1) as f64;
    Some(QUANTILES * (variance * correction).sqrt())
}

#[cfg(test)]
mod tests;
