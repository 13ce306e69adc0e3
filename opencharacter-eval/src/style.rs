use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    EvalItem, Unit,
    statistics::{Estimate, Ratio, Resampling, estimate},
    words,
};

/// Does each character sound different?
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StyleDistance {
    /// Share of characters whose second half of answers is nearer to their own first half than to anybody else's.
    pub traced: Option<Estimate>,
    /// What guessing reaches: one in so many characters.
    pub chance: f64,
    /// Mean distance between the halves of two characters (Burrows's Delta).
    pub between: Option<Estimate>,
    /// Mean distance between the two halves of one character: what the same voice differs by from itself.
    pub within: Option<Estimate>,
}

/// Words counted: the most frequent ones, which are nearly all function words.
const MOST_WORDS: usize = 150;
/// A character with fewer words says too little to have a style.
const LEAST_WORDS: usize = 100;

/// How far apart the characters' styles are, by Burrows's Delta (*Delta: a measure of stylistic difference*, 2002): the
/// mean absolute difference of the standardised frequencies of the most frequent words.
///
/// Each character's answers are dealt into two halves in turn. It shows that characters differ in how often they use the
/// words that everybody uses, hence in grammar and manner more than in subject. It cannot show that a voice is the right
/// one, and it needs some hundred words of each; characters with fewer than 100 are left out. Ask all characters the same
/// questions, or the questions' style is measured with theirs. `None` with fewer than two characters.
pub fn style_distance(items: &[EvalItem], resampling: &Resampling) -> Option<StyleDistance> {
    let halves = halves(items);
    let characters = halves.len();
    if characters < 2 {
        return None;
    }
    let profiles = standardised(&halves);
    let distance = |first: usize, second: usize| delta(&profiles[first], &profiles[second]);
    let (mut traced, mut between, mut within) = (Vec::new(), Vec::new(), Vec::new());
    for (place, half) in halves.iter().enumerate() {
        let cluster = half.cluster.as_str();
        let own = distance(2 * place + 1, 2 * place);
        let others = (0..characters).filter(|&other| other != place).map(|other| distance(2 * place + 1, 2 * other));
        let others: Vec<f64> = others.collect();
        let nearer = others.iter().filter(|distance| **distance < own).count();
        let equal = others.iter().filter(|distance| **distance == own).count();
        let credit = if nearer == 0 { 1.0 / (equal + 1) as f64 } else { 0.0 };
        traced.push((cluster, Ratio::value(credit)));
        within.push((cluster, Ratio::value(own)));
        between.push((cluster, Ratio::value(others.iter().sum::<f64>() / others.len() as f64)));
    }
    Some(StyleDistance {
        traced: estimate(traced, resampling).map(|estimate| Unit::Share.within_range(estimate)),
        chance: 1.0 / characters as f64,
        between: estimate(between, resampling),
        within: estimate(within, resampling),
    })
}

/// A character's words in two halves.
struct Halves {
    cluster: String,
    words: [Vec<String>; 2],
}

fn halves(items: &[EvalItem]) -> Vec<Halves> {
    let mut by_character: BTreeMap<&str, (usize, Halves)> = BTreeMap::new();
    for item in items {
        let Some(answer) = item.answer_text() else { continue };
        let empty = || (0, Halves { cluster: item.cluster.clone(), words: [Vec::new(), Vec::new()] });
        let (count, halves) = by_character.entry(&item.character_id).or_insert_with(empty);
        halves.words[*count % 2].extend(words(answer));
        *count += 1;
    }
    let halves = by_character.into_values().map(|(_, halves)| halves);
    halves.filter(|halves| halves.words.iter().all(|half| half.len() >= LEAST_WORDS / 2)).collect()
}

/// For each half, in order, the standardised frequencies of the most frequent words of all.
fn standardised(halves: &[Halves]) -> Vec<Vec<f64>> {
    let texts: Vec<&Vec<String>> = halves.iter().flat_map(|halves| &halves.words).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in texts.iter().flat_map(|text| text.iter()) {
        *counts.entry(word).or_default() += 1;
    }
    let mut ranked: Vec<(&str, usize)> = counts.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let places: HashMap<&str, usize> =
        ranked.iter().take(MOST_WORDS).zip(0..).map(|((word, _), at)| (*word, at)).collect();
    let mut profiles: Vec<Vec<f64>> = texts
        .iter()
        .map(|text| {
            let mut shares = vec![0.0; places.len()];
            for place in text.iter().filter_map(|word| places.get(word.as_str())) {
                shares[*place] += 1.0 / text.len() as f64;
            }
            shares
        })
        .collect();
    for word in 0..places.len() {
        let column: Vec<f64> = profiles.iter().map(|profile| profile[word]).collect();
        let mean = column.iter().sum::<f64>() / column.len() as f64;
        let deviation = (column.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / column.len() as f64).sqrt();
        for profile in &mut profiles {
            profile[word] = if deviation > 0.0 { (profile[word] - mean) / deviation } else { 0.0 };
        }
    }
    profiles
}

fn delta(first: &[f64], second: &[f64]) -> f64 {
    let sum: f64 = first.iter().zip(second).map(|(a, b)| (a - b).abs()).sum();
    sum / first.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use opencharacter_core::{Character, KeyedRandom};

    use super::*;
    use crate::Reply;

    /// Answers whose words are drawn by `who`'s own habits.
    fn answers(characters: usize, has_habits: bool) -> Vec<EvalItem> {
        let vocabulary = ["the", "a", "well", "sir", "aye", "indeed", "you", "know", "like", "so", "and", "but"];
        let mut items = Vec::new();
        for who in 0..characters {
            let character = Character::from_name(&format!("c{who}"), "", "");
            for answer in 0..10 {
                let mut random = KeyedRandom::new(who as u64, &["style", &answer.to_string()]);
                let word = |random: &mut KeyedRandom| {
                    let favourite = has_habits && random.uniform() < 0.4;
                    vocabulary[if favourite { who % vocabulary.len() } else { random.below(vocabulary.len()) }]
                };
                let text: Vec<&str> = (0..60).map(|_| word(&mut random)).collect();
                let id = format!("{who}-{answer}");
                let mut item = EvalItem::new(id, "t", &character, String::new(), None, "Why?");
                item.answer = Reply::Answered { text: text.join(" "), cut_off: false };
                items.push(item);
            }
        }
        items
    }

    #[test]
    fn voices_are_traced_where_there_are_any() {
        let found = style_distance(&answers(8, true), &Resampling::default()).unwrap();
        assert_eq!((found.traced.unwrap().mean, found.chance), (1.0, 0.125));
        assert!(found.between.unwrap().mean > 1.3 * found.within.unwrap().mean, "{found:?}");
        let found = style_distance(&answers(8, false), &Resampling::default()).unwrap();
        assert!(found.traced.unwrap().mean < 0.5, "{found:?}");
        assert!((found.between.unwrap().mean / found.within.unwrap().mean - 1.0).abs() < 0.15, "{found:?}");
    }

    #[test]
    fn nobody_and_one_alone_have_no_distance() {
        assert_eq!(style_distance(&[], &Resampling::default()), None);
        assert_eq!(style_distance(&answers(1, true), &Resampling::default()), None);
        let mut short = answers(3, true);
        for item in &mut short {
            item.answer = Reply::Answered { text: "Yes.".into(), cut_off: false };
        }
        assert_eq!(style_distance(&short, &Resampling::default()), None);
    }
}
