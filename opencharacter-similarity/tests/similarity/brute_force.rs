//! The definitions, word for word, without hashes.

use std::collections::BTreeSet;

use opencharacter_similarity::{Pair, Similarity};

fn shingles(text: &str, length: usize) -> BTreeSet<String> {
    let lower = text.to_lowercase().replace(['\'', '’'], "");
    let words: Vec<&str> =
        lower.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return BTreeSet::new();
    }
    if words.len() < length {
        return BTreeSet::from([words.join(" ")]);
    }
    words.windows(length).map(|window| window.join(" ")).collect()
}

/// All similar pairs. Shingles are numbered first, or comparing strings would take minutes.
pub fn pairs(similarity: Similarity, texts: &[String]) -> Vec<Pair> {
    let sets: Vec<BTreeSet<String>> = texts.iter().map(|text| shingles(text, similarity.shingle())).collect();
    let all: Vec<&String> = sets.iter().flatten().collect::<BTreeSet<_>>().into_iter().collect();
    let numbered: Vec<BTreeSet<usize>> = sets
        .iter()
        .map(|set| set.iter().map(|shingle| all.partition_point(|other| *other < shingle)).collect())
        .collect();
    let mut pairs = Vec::new();
    for (second, later) in numbered.iter().enumerate() {
        for (first, earlier) in numbered[..second].iter().enumerate() {
            let shared = later.intersection(earlier).count();
            let either = later.len() + earlier.len() - shared;
            let similar = if either == 0 { 1.0 } else { shared as f64 / either as f64 };
            if similar >= similarity.threshold() {
                pairs.push(Pair { first, second, similarity: similar });
            }
        }
    }
    pairs.sort_by_key(|pair| (pair.first, pair.second));
    pairs
}

/// For each of `count` texts the first text that a chain of pairs leads to.
pub fn clusters(count: usize, pairs: &[Pair]) -> Vec<usize> {
    let mut first: Vec<usize> = (0..count).collect();
    loop {
        let before = first.clone();
        for pair in pairs {
            let least = first[pair.first].min(first[pair.second]);
            first[pair.first] = least;
            first[pair.second] = least;
        }
        if first == before {
            return first;
        }
    }
}

/// For each text the kept one that it resembles most, with the similarity.
pub fn duplicates(count: usize, pairs: &[Pair]) -> Vec<Option<(usize, f64)>> {
    let mut found: Vec<Option<(usize, f64)>> = Vec::new();
    for text in 0..count {
        let mut best: Option<(usize, f64)> = None;
        for pair in pairs.iter().filter(|pair| pair.second == text && found[pair.first].is_none()) {
            if best.is_none_or(|(_, similarity)| pair.similarity > similarity) {
                best = Some((pair.first, pair.similarity));
            }
        }
        found.push(best);
    }
    found
}
