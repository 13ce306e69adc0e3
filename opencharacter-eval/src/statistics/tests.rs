use opencharacter_core::KeyedRandom;
use proptest::prelude::*;

use super::*;

fn pair(cluster: usize, base: f64, tuned: f64) -> Pair {
    Pair { cluster: format!("c{cluster:03}"), base: Some(Ratio::value(base)), tuned: Some(Ratio::value(tuned)) }
}

fn base_estimate(pairs: &[Pair], resampling: &Resampling) -> Option<Estimate> {
    estimate(pairs.iter().filter_map(|pair| Some((pair.cluster.as_str(), pair.base?))), resampling)
}

#[test]
fn two_clusters_have_a_known_interval() {
    // Resamples of two clusters give 0, 0.5 and 1 with chances 1/4, 1/2, 1/4. Half a unit is widened by the quantile of
    // t with one degree of freedom, as in Student's interval for the mean of two values, 0.5 +- 12.7 * 0.5, but for the
    // quantile of the normal distribution in place of the 1.414 standard errors that half a unit is.
    let found = base_estimate(&[pair(0, 0.0, 0.0), pair(1, 1.0, 1.0)], &Resampling::default()).unwrap();
    let reach = 0.5 * 2_f64.sqrt() * 12.706_205 / 1.959_964;
    assert_eq!((found.mean, found.n_items, found.n_characters), (0.5, 2, 2));
    assert!((found.high.unwrap() - (0.5 + reach)).abs() < 1e-9 && (found.low.unwrap() - (0.5 - reach)).abs() < 1e-9);
}

#[test]
fn one_character_has_no_interval_and_none_has_no_value() {
    let pairs = [pair(0, 1.0, 2.0), pair(0, 3.0, 5.0)];
    let found = difference(&pairs, &Resampling::default()).unwrap();
    assert_eq!((found.mean, found.low, found.high, found.p), (1.5, None, None, None));
    assert!(!found.excludes_zero());
    assert_eq!(difference(&[], &Resampling::default()), None);
    assert_eq!(estimate([("a", Ratio { sum: 1.0, weight: 0.0 })], &Resampling::default()), None);
}

#[test]
fn weights_count() {
    let items = [("a", Ratio { sum: 10.0, weight: 4.0 }), ("b", Ratio { sum: 2.0, weight: 2.0 })];
    assert!((estimate(items, &Resampling::default()).unwrap().mean - 2.0).abs() < 1e-12);
}

#[test]
fn items_that_one_model_lacks_are_left_out_of_the_difference() {
    let mut pairs = vec![pair(0, 1.0, 2.0), pair(1, 1.0, 2.0), pair(2, 100.0, 0.0)];
    pairs[2].tuned = None;
    let found = difference(&pairs, &Resampling::default()).unwrap();
    assert_eq!((found.mean, found.n_items, found.n_characters), (1.0, 2, 2));
}

#[test]
fn exact_p_values_are_known() {
    // All ten differences have one sign: only the two extreme arrangements are as large.
    let pairs: Vec<Pair> = (0..10).map(|cluster| pair(cluster, 0.0, 1.0 + cluster as f64)).collect();
    let p = difference(&pairs, &Resampling::default()).unwrap().p.unwrap();
    assert!((p - 2.0 / 1024.0).abs() < 1e-12, "{p}");
    // More characters: by drawing, never 0.
    let pairs: Vec<Pair> = (0..40).map(|cluster| pair(cluster, 0.0, 1.0)).collect();
    let p = difference(&pairs, &Resampling::default()).unwrap().p.unwrap();
    assert!((p - 1.0 / 5001.0).abs() < 1e-12, "{p}");
}

/// Scores with a large part shared within a cluster, as answers by one character have.
fn clustered(random: &mut KeyedRandom, clusters: usize, items: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for cluster in 0..clusters {
        let shared = random.normal();
        pairs.extend((0..items).map(|_| pair(cluster, shared + 0.5 * random.normal(), shared + 0.5 * random.normal())));
    }
    pairs
}

/// How often the interval of 500 simulated data sets holds the true mean, with clusters as they are or ignored.
fn coverage(clusters: usize, ignore_clusters: bool) -> f64 {
    let resampling = Resampling { resamples: 400, ..Resampling::default() };
    let mut random = KeyedRandom::new(1, &["coverage"]);
    let trials = 500;
    let covered = (0..trials)
        .filter(|_| {
            let mut pairs = clustered(&mut random, clusters, 5);
            for (index, pair) in pairs.iter_mut().enumerate().filter(|_| ignore_clusters) {
                pair.cluster = index.to_string();
            }
            let found = base_estimate(&pairs, &resampling).unwrap();
            found.low.unwrap() <= 0.0 && found.high.unwrap() >= 0.0
        })
        .count();
    covered as f64 / f64::from(trials)
}

#[test]
fn intervals_cover_at_about_the_stated_rate() {
    // 500 data sets tell 95% to within 2 (two standard errors); resampling single items covers about 66% here.
    for clusters in [3, 5, 10, 30] {
        let covered = coverage(clusters, false);
        assert!((0.92..=0.98).contains(&covered), "{clusters}: {covered}");
    }
    let ignored = coverage(30, true);
    assert!(ignored < 0.8, "{ignored}");
}

#[test]
fn p_values_are_uniform_under_no_difference() {
    let resampling = Resampling { resamples: 2, permutations: 200, ..Resampling::default() };
    let mut random = KeyedRandom::new(2, &["uniform"]);
    let trials = 400;
    let small = (0..trials)
        .filter(|_| difference(&clustered(&mut random, 20, 3), &resampling).unwrap().p.unwrap() <= 0.1)
        .count();
    let rate = small as f64 / f64::from(trials);
    assert!((0.05..=0.15).contains(&rate), "{rate}");
}

#[test]
fn p_values_are_uniform_by_kolmogorov_and_smirnov() {
    let resampling = Resampling { resamples: 2, permutations: 400, ..Resampling::default() };
    let mut random = KeyedRandom::new(3, &["uniform"]);
    let trials = 500;
    let mut found: Vec<f64> =
        (0..trials).map(|_| difference(&clustered(&mut random, 25, 4), &resampling).unwrap().p.unwrap()).collect();
    found.sort_by(f64::total_cmp);
    let distance = found
        .iter()
        .enumerate()
        .map(|(rank, p)| {
            (p - rank as f64 / f64::from(trials)).abs().max((p - (rank + 1) as f64 / f64::from(trials)).abs())
        })
        .fold(0.0, f64::max);
    // The 1% bound of Kolmogorov and Smirnov: 1.63 / sqrt(500), and 1/401 for the steps of p.
    assert!(distance < 1.63 / f64::from(trials).sqrt() + 1.0 / 401.0, "{distance}");
}

#[test]
fn a_difference_of_the_detectable_size_is_found_four_times_in_five() {
    let resampling = Resampling { resamples: 300, permutations: 300, ..Resampling::default() };
    let mut random = KeyedRandom::new(4, &["power"]);
    // Differences between characters with a spread of 0.3, and 0.5 * sqrt(2) between items.
    let shifted = |random: &mut KeyedRandom, shift: f64| -> Vec<Pair> {
        let mut pairs = clustered(random, 40, 5);
        let effects: Vec<f64> = (0..40).map(|_| shift + 0.3 * random.normal()).collect();
        for (pair, index) in pairs.iter_mut().zip(0..) {
            let tuned = pair.tuned.as_mut().unwrap();
            tuned.sum += effects[index / 5];
        }
        pairs
    };
    let trials = 300;
    let detectable: f64 =
        (0..20).map(|_| difference(&shifted(&mut random, 0.0), &resampling).unwrap().detectable.unwrap()).sum::<f64>()
            / 20.0;
    let found = (0..trials)
        .filter(|_| difference(&shifted(&mut random, detectable), &resampling).unwrap().p.unwrap() < 0.05)
        .count();
    let power = found as f64 / f64::from(trials);
    assert!((0.72..=0.88).contains(&power), "{power} at {detectable}");
}

#[test]
fn differences_between_two_models_are_covered() {
    let resampling = Resampling { resamples: 400, permutations: 2, ..Resampling::default() };
    let mut random = KeyedRandom::new(6, &["coverage of differences"]);
    let trials = 400;
    let covered = (0..trials)
        .filter(|_| {
            let mut pairs = clustered(&mut random, 30, 5);
            let effects: Vec<f64> = (0..30).map(|_| 0.2 + 0.4 * random.normal()).collect();
            for (pair, index) in pairs.iter_mut().zip(0..) {
                pair.tuned.as_mut().unwrap().sum += effects[index / 5];
            }
            let found = difference(&pairs, &resampling).unwrap();
            found.low.unwrap() <= 0.2 && 0.2 <= found.high.unwrap()
        })
        .count();
    let rate = covered as f64 / f64::from(trials);
    assert!((0.92..=0.98).contains(&rate), "{rate}");
}

#[test]
fn every_task_counts_alike() {
    // Three values of 1 in the first task, one of 5 in the second: 3, not 2.
    let items = [(0, "a", 1.0), (0, "b", 1.0), (0, "c", 1.0), (1, "a", 5.0)]
        .map(|(task, cluster, value)| (task, cluster, Ratio::value(value)));
    let found = mean_of_tasks(items, 2, &Resampling::default()).unwrap();
    assert!((found.mean - 3.0).abs() < 1e-12);
    assert_eq!((found.n_items, found.n_characters), (4, 3));
    assert_eq!(mean_of_tasks(items, 3, &Resampling::default()), None);
}

#[test]
fn too_few_characters_can_show_nothing() {
    let pairs: Vec<Pair> = (0..5).map(|cluster| pair(cluster, 0.0, 1.0 + cluster as f64)).collect();
    assert_eq!(difference(&pairs, &Resampling::default()).unwrap().detectable, None);
}

fn any_pairs() -> impl Strategy<Value = Vec<Pair>> {
    proptest::collection::vec((0_usize..6, -1.0e3..1.0e3, -1.0e3..1.0e3), 1..30)
        .prop_map(|rows| rows.into_iter().map(|(cluster, base, tuned)| pair(cluster, base, tuned)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn intervals_hold_the_mean(pairs in any_pairs()) {
        let found = base_estimate(&pairs, &Resampling { resamples: 500, ..Resampling::default() }).unwrap();
        if let (Some(low), Some(high)) = (found.low, found.high) {
            prop_assert!(low <= high);
            prop_assert!(low <= found.mean + 1e-9 && found.mean <= high + 1e-9, "{found:?}");
        }
    }

    #[test]
    fn identical_data_differ_by_exactly_nothing(pairs in any_pairs()) {
        let same: Vec<Pair> = pairs.into_iter().map(|pair| Pair { tuned: pair.base, ..pair }).collect();
        let found = difference(&same, &Resampling { resamples: 50, permutations: 50, ..Resampling::default() }).unwrap();
        prop_assert!(found.mean.abs() <= 0.0);
        if found.n_characters > 1 {
            prop_assert_eq!((found.low, found.high, found.p), (Some(0.0), Some(0.0), Some(1.0)));
        }
    }

    #[test]
    fn order_of_items_changes_nothing(pairs in any_pairs(), seed: u64) {
        let order = KeyedRandom::new(seed, &["order"]).sample(pairs.len(), pairs.len());
        let shuffled: Vec<Pair> = order.into_iter().map(|index| pairs[index].clone()).collect();
        let resampling = Resampling { resamples: 50, permutations: 50, ..Resampling::default() };
        prop_assert_eq!(difference(&pairs, &resampling), difference(&shuffled, &resampling));
        prop_assert_eq!(base_estimate(&pairs, &resampling), base_estimate(&shuffled, &resampling));
    }
}
