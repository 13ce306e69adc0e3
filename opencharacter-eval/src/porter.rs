//! The stemmer of Google's `rouge-score`: Porter's (*An algorithm for suffix stripping*, 1980) with the changes that
//! NLTK makes by default. Other implementations, Snowball's among them, stem some words otherwise and would change
//! scores in the third digit.

/// Words that the rules would get wrong.
const IRREGULAR: &[(&str, &str)] = &[
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Of several suffixes that fit, the first in the list decides, whether or not its condition holds.
const STEP_2: &[(&str, &str)] = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const STEP_3: &[(&str, &str)] =
    &[("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

const STEP_4: &[&str] = &[
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of a word of lower-case ASCII letters and digits.
pub(crate) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let word = plural(word);
    let word = past_or_progressive(&word);
    let word = final_y(&word);
    let word = step_2(&word);
    let word = first_rule(STEP_3, &word);
    let word = step_4(&word);
    final_double_l(final_e(&word)).to_owned()
}

fn plural(word: &str) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return format!("{}ie", &word[..1]);
    }
    if let Some(stem) = word.strip_suffix("sses") {
        return format!("{stem}ss");
    }
    if let Some(stem) = word.strip_suffix("ies") {
        return format!("{stem}i");
    }
    if word.ends_with("ss") {
        return word.to_owned();
    }
    word.strip_suffix('s').unwrap_or(word).to_owned()
}

fn past_or_progressive(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word.to_owned() };
    }
    let stem = ["ed", "ing"].iter().find_map(|suffix| word.strip_suffix(suffix).filter(|stem| has_vowel(stem)));
    let Some(stem) = stem else { return word.to_owned() };
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        return format!("{stem}e");
    }
    if let Some(last) = double_consonant(stem) {
        let keep_both = matches!(last, b'l' | b's' | b'z');
        return if keep_both { stem.to_owned() } else { stem[..stem.len() - 1].to_owned() };
    }
    if measure(stem) == 1 && ends_short(stem) { format!("{stem}e") } else { stem.to_owned() }
}

fn final_y(word: &str) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && consonants(stem).last() == Some(&true) => format!("{stem}i"),
        _ => word.to_owned(),
    }
}

fn step_2(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return step_2(&format!("{stem}al"));
    }
    if STEP_2.iter().any(|(suffix, _)| word.ends_with(suffix)) {
        return first_rule(STEP_2, word);
    }
    match word.strip_suffix("logi") {
        // The condition is on what is left without "ogi".
        Some(stem) if measure(&word[..word.len() - 3]) > 0 => format!("{stem}log"),
        _ => word.to_owned(),
    }
}

/// The first rule whose suffix fits, applied if something with a vowel and a consonant after it is left.
fn first_rule(rules: &[(&str, &str)], word: &str) -> String {
    let fitting = rules.iter().find_map(|(suffix, new)| Some((word.strip_suffix(suffix)?, new)));
    match fitting {
        Some((stem, new)) if measure(stem) > 0 => format!("{stem}{new}"),
        _ => word.to_owned(),
    }
}

fn step_4(word: &str) -> String {
    let fitting = STEP_4.iter().find_map(|suffix| Some((word.strip_suffix(suffix)?, *suffix)));
    match fitting {
        Some((stem, suffix)) if measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't'])) => stem.to_owned(),
        _ => word.to_owned(),
    }
}

fn final_e(word: &str) -> &str {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem)) => stem,
        _ => word,
    }
}

fn final_double_l(word: &str) -> &str {
    match word.strip_suffix('l') {
        Some(stem) if stem.ends_with('l') && measure(stem) > 1 => stem,
        _ => word,
    }
}

/// For each letter, whether it is a consonant: not a, e, i, o, u, nor a y after a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        flags.push(match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|before| !before),
            _ => true,
        });
    }
    flags
}

/// Porter's m: how often a consonant follows a vowel.
fn measure(stem: &str) -> usize {
    consonants(stem).windows(2).filter(|pair| matches!(pair, [false, true])).count()
}

fn has_vowel(stem: &str) -> bool {
    consonants(stem).contains(&false)
}

fn double_consonant(word: &str) -> Option<u8> {
    match (word.as_bytes(), consonants(word).last()) {
        ([.., before, last], Some(true)) if before == last => Some(*last),
        _ => None,
    }
}

/// Whether it ends consonant, vowel, consonant other than w, x, y; or is vowel and consonant alone.
fn ends_short(word: &str) -> bool {
    match consonants(word).as_slice() {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn stems_are_those_of_nltk() {
        // Written by xtask/golden/make_eval_golden.py.
        let golden: BTreeMap<String, String> = serde_json::from_str(include_str!("../tests/data/stems.json")).unwrap();
        assert!(golden.len() > 2000);
        let wrong: Vec<(&String, &String, String)> = golden
            .iter()
            .filter_map(|(word, expected)| {
                Some((word, expected, stem(word))).filter(|(_, expected, found)| found != *expected)
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
