//! Every result against comparing every text with every other, on sets of strings.

#![expect(clippy::unwrap_used, reason = "a test that fails here should stop here")]

mod brute_force;
mod perturbed;

use opencharacter_similarity::{Duplicate, Index, Pair, Reference, Similarity};
use proptest::prelude::*;

/// The pairs, clusters and duplicates of `texts` are those of brute force.
fn check(similarity: Similarity, texts: &[String]) {
    let expected = brute_force::pairs(similarity, texts);
    assert_eq!(similarity.pairs(texts), expected);
    assert_eq!(similarity.clusters(texts), brute_force::clusters(texts.len(), &expected));
    let mut index = Index::new(similarity);
    let found = index.insert_all(texts);
    let found_plain: Vec<Option<(usize, f64)>> =
        found.iter().map(|found| found.map(|Duplicate { of, similarity, .. }| (of, similarity))).collect();
    assert_eq!(found_plain, brute_force::duplicates(texts.len(), &expected));
    assert_eq!(index.kept(), found.iter().filter(|found| found.is_none()).count());
}

proptest! {
    #[test]
    fn small_texts_give_what_brute_force_gives(
        texts in proptest::collection::vec("[ab]?( [abcd]){0,9}", 0..30),
        shingle in 1_usize..4,
        threshold in 0.2_f64..=1.0,
    ) {
        check(Similarity::new(shingle, threshold).unwrap(), &texts);
    }

    #[test]
    fn similarity_is_symmetric(first in "[ab]?( [abcd]){0,9}", second in "\\PC{0,20}", shingle in 1_usize..4) {
        let similarity = Similarity::new(shingle, 0.5).unwrap();
        prop_assert_eq!(similarity.of(&first, &second), similarity.of(&second, &first));
        prop_assert_eq!(similarity.of(&first, &first), 1.0);
        prop_assert_eq!(similarity.of(&second, &second), 1.0);
    }

    #[test]
    fn what_is_named_was_kept(texts in proptest::collection::vec("[ab]?( [ab]){0,5}", 0..40)) {
        let mut index = Index::new(Similarity::new(1, 0.5).unwrap());
        let found = index.insert_all(&texts);
        for duplicate in found.iter().flatten() {
            prop_assert_eq!(found[duplicate.of], None);
        }
    }
}

#[test]
fn perturbed_personas_give_what_brute_force_gives() {
    let texts = perturbed::personas(2_000);
    for (shingle, threshold) in [(3, 0.8), (3, 0.5), (2, 0.6), (1, 0.7), (3, 0.9), (3, 1.0)] {
        let similarity = Similarity::new(shingle, threshold).unwrap();
        let pairs = brute_force::pairs(similarity, &texts);
        assert!(pairs.len() > 100, "{}: nothing to find at {threshold}", pairs.len());
        check(similarity, &texts);
    }
}

#[test]
fn exact_is_about_words_and_their_order() {
    let mut index = Index::new(Similarity::new(1, 0.5).unwrap());
    assert_eq!(index.insert("Don't go home!"), None);
    assert_eq!(index.insert("dont  GO, home"), Some(Duplicate { of: 0, similarity: 1.0, exact: true }));
    assert_eq!(index.insert("home, don’t go"), Some(Duplicate { of: 0, similarity: 1.0, exact: false }));
    assert_eq!(index.insert("..."), None);
    assert_eq!(index.insert("???"), Some(Duplicate { of: 3, similarity: 1.0, exact: true }));
    // An equal text goes before one that is merely as similar.
    let reference = Reference::new(Similarity::new(1, 1.0).unwrap(), 13, &["b a", "a b"]).unwrap();
    assert_eq!(reference.overlap("A. B.").map(|found| found.index), Some(1));
}

#[test]
fn pairs_name_the_earlier_text_first() {
    let texts = ["x y z", "other", "X Y Z."];
    assert_eq!(Similarity::default().pairs(&texts), [Pair { first: 0, second: 2, similarity: 1.0 }]);
    assert_eq!(Similarity::default().clusters(&texts), [0, 1, 0]);
}

const LONG: &str =
    "If a lighthouse keeper saw a ship in distress during the storm of the century what would be her first thought";
const SHORT: &str = "what do you cook when the whole family comes";
const PHRASE: &str = "Who are you?";

/// Text, and the place and kind of what it overlaps with.
#[test]
fn overlaps_are_exact_near_or_quoted() {
    let reference = Reference::new(Similarity::default(), Reference::DEFAULT_RUN, &[LONG, SHORT, PHRASE]).unwrap();
    let quoted =
        format!("I was asked this yesterday, and had no answer at all. {LONG}? I really do not know, my friend.");
    let from_thirteenth: String = LONG.split(' ').skip(7).take(13).collect::<Vec<_>>().join(" ");
    let twelve: String = LONG.split(' ').skip(7).take(12).collect::<Vec<_>>().join(" ");
    let near = format!("{LONG} now");
    let cases = [
        (LONG.to_uppercase(), Some((0, "exact"))),
        ("who are YOU".into(), Some((2, "exact"))),
        (near, Some((0, "near"))),
        (quoted, Some((0, "contains"))),
        (format!("Tell me: {from_thirteenth}?"), Some((0, "contains"))),
        (format!("Tell me: {twelve}?"), None),
        (format!("So, {SHORT}: what is on the table then, and who brings the bread?"), Some((1, "contains"))),
        ("Tell me, who are you, and what do you want from the people of this town?".into(), None),
        (String::new(), None),
    ];
    let texts: Vec<&str> = cases.iter().map(|(text, _)| text.as_str()).collect();
    for ((text, expected), found) in cases.iter().zip(reference.overlaps(&texts)) {
        let kind = |found| serde_json::to_value(found).unwrap()["kind"].as_str().unwrap().to_owned();
        let found = found.map(|found| (found.index, kind(found)));
        assert_eq!(found.as_ref().map(|(index, kind)| (*index, kind.as_str())), *expected, "{text}");
    }
}

#[test]
fn runs_too_short_are_refused() {
    let error = Reference::new(Similarity::default(), 4, &[LONG]).err().unwrap();
    assert!(error.to_string().contains("expected at least 5 words"));
}
