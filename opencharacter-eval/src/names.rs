use std::collections::HashMap;
use std::ops::Range;

use opencharacter_core::Character;

use crate::words::{normalise, spans};

/// What a masked name becomes.
const SOMEONE: &str = "someone";

/// Parts of names that give nobody away.
const NOT_NAMES: &[&str] = &[
    "al",
    "and",
    "bin",
    "bint",
    "captain",
    "da",
    "de",
    "del",
    "der",
    "di",
    "doctor",
    "dos",
    "dr",
    "du",
    "el",
    "father",
    "ibn",
    "jr",
    "king",
    "la",
    "lady",
    "le",
    "lord",
    "miss",
    "mister",
    "mr",
    "mrs",
    "ms",
    "of",
    "old",
    "prince",
    "princess",
    "prof",
    "professor",
    "queen",
    "saint",
    "san",
    "sir",
    "sister",
    "sr",
    "st",
    "the",
    "van",
    "von",
    "y",
];

/// Names that are common words too: masked only where written with a capital, or "I will" would become
/// "I someone".
const ALSO_WORDS: &[&str] = &[
    "amber", "angel", "art", "bill", "brown", "chase", "clay", "cliff", "cook", "dawn", "drew", "faith", "fisher",
    "grace", "grant", "gray", "green", "hall", "hill", "hope", "ivy", "jack", "joy", "june", "king", "long", "mark",
    "may", "mercy", "moon", "page", "pat", "price", "ray", "reed", "rich", "rob", "rose", "ruby", "sky", "stone",
    "sue", "summer", "trace", "ward", "white", "will", "winter", "wood", "woods", "young",
];

/// Replaces the names of characters by "someone", so that identification cannot rest on an answer that begins
/// "I am Ada Holm".
///
/// Masked, whole words only and in any case: every full name, and every part of one that is neither title nor
/// particle. Nicknames and names in scripts without spaces are not found.
#[derive(Debug, Clone)]
pub struct NameMask {
    /// Names as sequences of lower-cased words, by first word, longest first.
    names: HashMap<String, Vec<Vec<String>>>,
}

impl NameMask {
    /// A mask for the names of all `characters`.
    pub fn new(characters: &[Character]) -> Self {
        let mut names: HashMap<String, Vec<Vec<String>>> = HashMap::new();
        for character in characters {
            let name = &character.profile.name;
            let full: Vec<String> = spans(name, false).into_iter().map(|span| normalise(&name[span])).collect();
            let untitled = full.iter().position(|part| is_telling(part)).unwrap_or(full.len());
            let full = &full[untitled..];
            let parts = full.iter().filter(|part| is_telling(part)).map(|part| vec![part.clone()]);
            for sequence in parts.chain((full.len() > 1).then(|| full.to_vec())) {
                names.entry(sequence[0].clone()).or_default().push(sequence);
            }
        }
        for sequences in names.values_mut() {
            sequences.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
            sequences.dedup();
        }
        Self { names }
    }

    /// `text` with every name replaced; names that follow one another become one "someone".
    pub fn apply(&self, text: &str) -> String {
        let found = spans(text, false);
        let normalised: Vec<String> = found.iter().map(|span| normalise(&text[span.clone()])).collect();
        let mut masked = String::with_capacity(text.len());
        let mut copied = 0;
        let mut position = 0;
        while position < found.len() {
            let length = self.length_at(text, &found, &normalised, position);
            if length == 0 {
                position += 1;
                continue;
            }
            let between = &text[copied..found[position].start];
            if !(masked.ends_with(SOMEONE) && copied > 0 && between.trim().is_empty()) {
                masked.push_str(between);
                masked.push_str(SOMEONE);
            }
            position += length;
            copied = found[position - 1].end;
        }
        masked.push_str(&text[copied..]);
        masked
    }

    /// Words of the longest name that begins at `position`; 0 where none does.
    fn length_at(&self, text: &str, found: &[Range<usize>], normalised: &[String], position: usize) -> usize {
        let Some(sequences) = self.names.get(&normalised[position]) else { return 0 };
        let capital = text[found[position].clone()].starts_with(|c: char| !c.is_lowercase());
        let fits = |name: &&Vec<String>| {
            normalised[position..].starts_with(name) && (name.len() > 1 || capital || !needs_capital(&name[0]))
        };
        sequences.iter().find(fits).map_or(0, Vec::len)
    }
}

fn is_telling(part: &str) -> bool {
    part.chars().count() > 1 && !NOT_NAMES.contains(&part)
}

fn needs_capital(part: &str) -> bool {
    part.chars().count() < 3 || ALSO_WORDS.contains(&part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(names: &[&str], text: &str) -> String {
        let characters: Vec<Character> = names.iter().map(|name| Character::from_name(name, "", "")).collect();
        NameMask::new(&characters).apply(text)
    }

    #[test]
    fn full_and_given_names_become_someone() {
        assert_eq!(
            mask(&["Ada Holm"], "I am Ada Holm. ADA's light, Adamant!"),
            "I am someone. someone's light, Adamant!"
        );
        assert_eq!(mask(&["Ada Holm"], "ada"), "someone");
        assert_eq!(mask(&["Dr. Juan de la Cruz"], "Juan de la Cruz; dr. Cruz"), "someone; dr. someone");
    }

    #[test]
    fn names_that_are_words_need_a_capital() {
        assert_eq!(mask(&["Will Stone"], "I will cut stone, says Will."), "I will cut stone, says someone.");
    }

    #[test]
    fn text_without_names_is_untouched() {
        assert_eq!(mask(&["Ada Holm", ""], "Ein Licht\n\nüber 海."), "Ein Licht\n\nüber 海.");
    }
}
