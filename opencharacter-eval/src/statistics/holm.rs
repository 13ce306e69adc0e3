/// Holm's correction (1979): p-values such that rejecting those below 0.05 makes any false rejection at most as likely
/// as 0.05, however the tests depend on one another. `None` stays `None` and is no test.
pub fn holm(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut ranked: Vec<(usize, f64)> =
        p_values.iter().enumerate().filter_map(|(index, p)| Some((index, (*p)?))).collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
    let tests = ranked.len();
    let mut corrected = vec![None; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, (index, p)) in ranked.into_iter().enumerate() {
        largest = largest.max(p * (tests - rank) as f64).min(1.0);
        corrected[index] = Some(largest);
    }
    corrected
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_textbook_example() {
        // By hand: 4 x 0.005, 3 x 0.01, 2 x 0.03 and, not below its forerunner, 0.06.
        let corrected = holm(&[Some(0.01), Some(0.04), None, Some(0.03), Some(0.005)]);
        let expected = [Some(0.03), Some(0.06), None, Some(0.06), Some(0.02)];
        for (found, expected) in corrected.iter().zip(expected) {
            match (found, expected) {
                (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-12),
                (found, expected) => assert_eq!(*found, expected),
            }
        }
    }

    proptest! {
        #[test]
        fn never_smaller_than_before_nor_larger_than_bonferroni(p in proptest::collection::vec(0.0_f64..1.0, 1..12)) {
            let given: Vec<Option<f64>> = p.iter().copied().map(Some).collect();
            for (before, after) in p.iter().zip(holm(&given)) {
                let after = after.unwrap();
                prop_assert!(after >= *before && after <= (before * p.len() as f64).min(1.0) + 1e-12);
            }
        }
    }
}
