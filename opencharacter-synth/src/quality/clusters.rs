use std::collections::{BTreeMap, BTreeSet, HashMap};

use opencharacter_core::{HeldOut, KeyedRandom, hold_out};
use opencharacter_similarity::Similarity;

/// Characters set apart in whole clusters, so that none that resembles them is left for training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOutClusters {
    /// The ids that were set apart.
    pub ids: HeldOut,
    /// How many clusters they are.
    pub clusters: usize,
    /// How many clusters there are in all; as many as texts, where no two texts are similar.
    pub all_clusters: usize,
    /// Members of the largest cluster, held out or not.
    pub largest: usize,
}

/// Sets at least `want` of `personas` (id and text) apart, and no cluster more than that takes.
///
/// Clusters are what chains of similar texts connect; rows of one id are one cluster too, and a text without a word is
/// one by itself. They are taken in the order
/// of keyed draws under `seed`, each if it still fits into `want`. So which are taken depends on the personas, not on
/// their order, and a cluster larger than what is missing is passed over as long as others do. Where none does, as
/// when everything is one giant cluster, the smallest is taken whole: then more than `want` are held out, at worst all
/// of them. [`HeldOutClusters::largest`] shows it coming; a higher threshold or longer shingles divide such a cluster.
///
/// No held-out text is similar to one that is left (but for [`Similarity::miss_probability`]).
pub fn hold_out_clusters(personas: &[(&str, &str)], want: usize, seed: u64, similarity: Similarity) -> HeldOutClusters {
    let clusters = clusters_of_ids(personas, similarity);
    let mut drawn: Vec<(u64, &BTreeSet<&str>)> =
        clusters.iter().map(|cluster| (draw(seed, cluster), cluster)).collect();
    drawn.sort_unstable();
    let taken = take(drawn.into_iter().map(|(_, cluster)| cluster).collect(), want);
    let ids: Vec<&str> = taken.iter().flat_map(|cluster| cluster.iter().copied()).collect();
    HeldOutClusters {
        ids: hold_out(ids.iter().copied(), ids.len(), seed, "clusters"),
        clusters: taken.len(),
        all_clusters: clusters.len(),
        largest: clusters.iter().map(BTreeSet::len).max().unwrap_or(0),
    }
}

/// A cluster is drawn by its least id, so that its size does not change its chance.
fn draw(seed: u64, cluster: &BTreeSet<&str>) -> u64 {
    let least = cluster.first().copied().unwrap_or_default();
    KeyedRandom::new(seed, &["held-out", "clusters", least]).next_u64()
}

/// The ids of each cluster.
fn clusters_of_ids<'a>(personas: &[(&'a str, &str)], similarity: Similarity) -> Vec<BTreeSet<&'a str>> {
    let texts: Vec<&str> = personas.iter().map(|(_, text)| *text).collect();
    let mut cluster_of = similarity.clusters(&texts);
    let mut first_of_id: HashMap<&str, usize> = HashMap::new();
    for (place, (id, text)) in personas.iter().enumerate() {
        // Texts without a word are equal, but nothing is known of them that could be alike.
        if !text.chars().any(char::is_alphanumeric) {
            cluster_of[place] = place;
        }
        let (this, other) = (cluster_of[place], cluster_of[*first_of_id.entry(*id).or_insert(place)]);
        if this != other {
            cluster_of.iter_mut().filter(|cluster| **cluster == this).for_each(|cluster| *cluster = other);
        }
    }
    let mut clusters: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for ((id, _), cluster) in personas.iter().zip(cluster_of) {
        clusters.entry(cluster).or_default().insert(id);
    }
    clusters.into_values().collect()
}

/// Of `clusters`, those that hold `want` ids, in order while they fit; no taken one could be left out.
fn take<'c, 'i>(clusters: Vec<&'c BTreeSet<&'i str>>, want: usize) -> Vec<&'c BTreeSet<&'i str>> {
    let mut missing = want;
    let (mut taken, passed): (Vec<_>, Vec<_>) = clusters.into_iter().partition(|cluster| {
        let fits = cluster.len() <= missing;
        missing -= if fits { cluster.len() } else { 0 };
        fits
    });
    if missing > 0
        && let Some(smallest) = passed.into_iter().min_by_key(|cluster| cluster.len())
    {
        let mut surplus = smallest.len().saturating_sub(missing);
        taken.retain(|cluster| {
            let needed = cluster.len() > surplus;
            surplus -= if needed { 0 } else { cluster.len() };
            needed
        });
        taken.push(smallest);
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Personas of few words, so that chains of similar ones are long.
    fn personas() -> impl Strategy<Value = Vec<(String, String)>> {
        let text = proptest::collection::vec(0_u8..12, 1..7);
        proptest::collection::vec(text, 0..40).prop_map(|texts| {
            let words = |text: Vec<u8>| text.iter().map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ");
            texts.into_iter().enumerate().map(|(place, text)| (format!("id{place}"), words(text))).collect()
        })
    }

    fn borrowed(personas: &[(String, String)]) -> Vec<(&str, &str)> {
        personas.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect()
    }

    proptest! {
        #[test]
        fn nothing_held_out_is_similar_to_what_is_left(personas in personas(), want in 0_usize..20, seed: u64) {
            let similarity = Similarity::new(1, 0.5).unwrap();
            let held_out = hold_out_clusters(&borrowed(&personas), want, seed, similarity);
            prop_assert!(held_out.ids.len() >= want.min(personas.len()));
            for (id, text) in personas.iter().filter(|(id, _)| held_out.ids.contains(id)) {
                for (other_id, other) in personas.iter().filter(|(id, _)| !held_out.ids.contains(id)) {
                    prop_assert!(similarity.of(text, other) < 0.5, "{id} {text} / {other_id} {other}");
                }
            }
        }

        #[test]
        fn the_order_of_personas_changes_nothing(personas in personas(), want in 0_usize..20, seed: u64) {
            let similarity = Similarity::new(1, 0.5).unwrap();
            let forward = hold_out_clusters(&borrowed(&personas), want, seed, similarity);
            let mut reversed = personas.clone();
            reversed.reverse();
            prop_assert_eq!(forward, hold_out_clusters(&borrowed(&reversed), want, seed, similarity));
        }

        #[test]
        fn no_cluster_more_than_needed_is_taken(sizes in proptest::collection::vec(1_usize..9, 0..12), want in 0_usize..30) {
            let ids: Vec<Vec<String>> = sizes.iter().enumerate().map(|(cluster, size)| (0..*size).map(|member| format!("{cluster}.{member}")).collect()).collect();
            let clusters: Vec<BTreeSet<&str>> = ids.iter().map(|cluster| cluster.iter().map(String::as_str).collect()).collect();
            let taken: Vec<usize> = take(clusters.iter().collect(), want).iter().map(|cluster| cluster.len()).collect();
            let total: usize = taken.iter().sum();
            prop_assert!(total >= want.min(sizes.iter().sum()));
            prop_assert!(taken.iter().all(|size| total - size < want), "{taken:?} for {want}");
        }
    }

    #[test]
    fn a_giant_cluster_is_taken_only_if_nothing_else_does() {
        let similar = "A keeper of a lighthouse by the cold grey sea in the north";
        let mut personas: Vec<(String, String)> =
            (0..10).map(|place| (format!("giant{place}"), format!("{similar} {place}"))).collect();
        personas.push(("baker".into(), "A baker in Lyon who sings to his bread at night".into()));
        personas.push(("diver".into(), "Retired pearl diver with a fear of shallow water".into()));
        let held_out = |want| hold_out_clusters(&borrowed(&personas), want, 1, Similarity::default());
        let two = held_out(2);
        assert!(two.ids.contains("baker") && two.ids.contains("diver"));
        assert_eq!((two.ids.len(), two.clusters, two.all_clusters, two.largest), (2, 2, 3, 10));
        // Three cannot be had without the giant, and with it the two others are not needed.
        assert_eq!((held_out(3).ids.len(), held_out(3).clusters), (10, 1));
        assert_eq!(held_out(100).ids.len(), 12);
        assert!(held_out(0).ids.is_empty());
    }

    #[test]
    fn characters_of_whom_nothing_is_known_are_not_alike() {
        let rows = [("a", ""), ("b", " "), ("c", "...")];
        let held_out = hold_out_clusters(&rows, 1, 1, Similarity::default());
        assert_eq!((held_out.ids.len(), held_out.all_clusters), (1, 3));
    }

    #[test]
    fn rows_of_one_id_stay_together() {
        let rows = [("a", "one two three"), ("b", "four five six"), ("a", "four five six"), ("c", "seven")];
        for seed in 0..20 {
            let ids = hold_out_clusters(&rows, 1, seed, Similarity::default()).ids;
            assert_eq!(ids.contains("a"), ids.contains("b"));
        }
    }
}
