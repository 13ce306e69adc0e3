use std::collections::BTreeMap;

use opencharacter_core::KeyedRandom;

use super::{Ratio, Resampling};

/// Up to this many clusters, all sign flips are tried.
const EXACT_CLUSTERS: usize = 12;

/// Sums by cluster: `width` ratios each, in the order of cluster ids.
pub(super) struct Clusters {
    width: usize,
    /// Cluster after cluster.
    sums: Vec<Ratio>,
    n_items: usize,
}

impl Clusters {
    /// Adds up `items`: a cluster, and what the item adds to which columns.
    ///
    /// Within a cluster values are added in order of size, so that the order of items cannot change the last bit.
    pub(super) fn new<'a>(width: usize, items: impl IntoIterator<Item = (&'a str, Vec<(usize, Ratio)>)>) -> Self {
        let mut by_cluster: BTreeMap<&str, Vec<Vec<Ratio>>> = BTreeMap::new();
        let mut n_items = 0;
        for (cluster, values) in items {
            n_items += 1;
            let columns = by_cluster.entry(cluster).or_insert_with(|| vec![Vec::new(); width]);
            for (column, value) in values {
                columns[column].push(value);
            }
        }
        Self { width, sums: by_cluster.into_values().flatten().map(sum).collect(), n_items }
    }

    pub(super) fn len(&self) -> usize {
        self.sums.len() / self.width.max(1)
    }

    pub(super) fn n_items(&self) -> usize {
        self.n_items
    }

    /// The ratio of each column over all clusters, or `None` where one has no weight.
    pub(super) fn ratios(&self) -> Option<Vec<f64>> {
        let mut totals = vec![Ratio::default(); self.width];
        self.clusters().for_each(|cluster| add(&mut totals, cluster));
        ratios_of(&totals)
    }

    /// The statistic over each resample; empty with fewer than two clusters.
    pub(super) fn bootstrap(&self, resampling: &Resampling, statistic: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        if self.len() < 2 {
            return Vec::new();
        }
        let mut random = KeyedRandom::new(resampling.seed, &["bootstrap"]);
        let draw = |_| {
            let mut totals = vec![Ratio::default(); self.width];
            for _ in 0..self.len() {
                add(&mut totals, self.cluster(random.below(self.len())));
            }
            // A resample in which a column is empty has no ratio; it is left out.
            ratios_of(&totals).map(|ratios| statistic(&ratios))
        };
        (0..resampling.resamples).filter_map(draw).collect()
    }

    /// If tuning changed nothing, base (the first half of the columns) and tuned (the second) could be exchanged
    /// within any character. The p-value is the share of such exchanges with a difference at least as large as the
    /// one seen.
    pub(super) fn sign_flip_p(&self, resampling: &Resampling, statistic: impl Fn(&[f64]) -> f64) -> Option<f64> {
        if self.len() < 2 {
            return None;
        }
        let exchanged = |flip: &dyn Fn(usize) -> bool| self.exchanged(flip).map(|ratios| statistic(&ratios).abs());
        let seen = exchanged(&|_| false)?;
        // A hair's breadth for sums that differ only by rounding.
        let as_large = |value: Option<f64>| value.is_some_and(|value| value >= seen * (1.0 - 1e-9));
        if self.len() <= EXACT_CLUSTERS {
            let flips = 1_usize << self.len();
            let count = (0..flips).filter(|flips| as_large(exchanged(&|index| flips >> index & 1 == 1))).count();
            return Some(count as f64 / flips as f64);
        }
        let mut random = KeyedRandom::new(resampling.seed, &["sign-flip"]);
        let count = (0..resampling.permutations)
            .filter(|_| {
                let flips: Vec<bool> = (0..self.len()).map(|_| random.next_u64() >> 63 == 1).collect();
                as_large(exchanged(&|index| flips[index]))
            })
            .count();
        // The arrangement seen is one of the possible ones, so p is never 0.
        Some((count + 1) as f64 / (resampling.permutations + 1) as f64)
    }

    fn exchanged(&self, flip: &dyn Fn(usize) -> bool) -> Option<Vec<f64>> {
        let half = self.width / 2;
        let mut totals = vec![Ratio::default(); self.width];
        for (index, cluster) in self.clusters().enumerate() {
            if flip(index) {
                let (base, tuned) = cluster.split_at(half);
                let (first, second) = totals.split_at_mut(half);
                add(first, tuned);
                add(second, base);
            } else {
                add(&mut totals, cluster);
            }
        }
        ratios_of(&totals)
    }

    fn clusters(&self) -> impl Iterator<Item = &[Ratio]> {
        self.sums.chunks_exact(self.width.max(1))
    }

    fn cluster(&self, index: usize) -> &[Ratio] {
        &self.sums[index * self.width..(index + 1) * self.width]
    }
}

fn sum(mut values: Vec<Ratio>) -> Ratio {
    values.sort_by(|a, b| a.sum.total_cmp(&b.sum).then(a.weight.total_cmp(&b.weight)));
    let mut total = [Ratio::default()];
    for value in values {
        add(&mut total, &[value]);
    }
    total[0]
}

fn add(totals: &mut [Ratio], values: &[Ratio]) {
    for (total, value) in totals.iter_mut().zip(values) {
        total.sum += value.sum;
        total.weight += value.weight;
    }
}

fn ratios_of(totals: &[Ratio]) -> Option<Vec<f64>> {
    let ratio = |total: &Ratio| (total.weight > 0.0).then(|| total.sum / total.weight);
    if totals.is_empty() { None } else { totals.iter().map(ratio).collect() }
}
