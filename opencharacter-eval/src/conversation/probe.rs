//! Questions about facts of a profile, and rules that check the answers.

use opencharacter_core::{
    Character, KeyedRandom, ProfileField,
    english::{ONES, TENS},
};

use crate::words;

/// A question beside the conversation.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    /// `retest` or `contradiction`.
    pub(super) task: &'static str,
    pub(super) field: ProfileField,
    pub(super) question: String,
    /// What the profile says.
    pub(super) truth: String,
    /// What a contradiction probe claims instead.
    pub(super) lie: Option<String>,
}

/// What a rule says of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Holds(String),
    Fails(String),
    Undecided,
}

/// Fields whose value is a name or a number, and what is asked about them: plainly, and with a false value.
const LITERAL: [(ProfileField, &str, &str); 3] = [
    (ProfileField::Name, "Sorry, I have forgotten: what is your name?", "Your name is {}, if I remember rightly?"),
    (ProfileField::Age, "How old are you, by the way?", "You are {} years old, you said, right?"),
    (ProfileField::BirthPlace, "Where were you born, by the way?", "You said you were born in {}, didn't you?"),
];

/// Fields of free text.
const FREE: [(ProfileField, &str); 3] = [
    (ProfileField::Appearance, "By the way, what do you look like?"),
    (ProfileField::GeneralExperience, "By the way, what have you done in your life so far? In two or three sentences."),
    (ProfileField::Personality, "By the way, how would somebody who knows you well describe your temper?"),
];

/// The probes of a character: a retest for each known field, and a contradiction for each literal one of which another
/// character has another value to borrow.
pub(super) fn probes(character: &Character, others: &[Character], seed: u64) -> Vec<Probe> {
    let mut probes = Vec::new();
    let known = |field| Some(character.profile.get(field).trim()).filter(|value| !value.is_empty());
    for (field, question, claim) in LITERAL {
        let Some(truth) = known(field) else { continue };
        let probe = Probe { task: "retest", field, question: question.to_owned(), truth: truth.to_owned(), lie: None };
        probes.push(probe);
        if let Some(lie) = lie(character, field, others, seed) {
            let (task, question) = ("contradiction", claim.replace("{}", &lie));
            probes.push(Probe { task, field, question, truth: truth.to_owned(), lie: Some(lie) });
        }
    }
    for (field, question) in FREE {
        let Some(truth) = known(field) else { continue };
        let (question, truth) = (question.to_owned(), truth.to_owned());
        probes.push(Probe { task: "retest", field, question, truth, lie: None });
    }
    probes
}

/// Another character's value that has nothing in common with this one's.
fn lie(character: &Character, field: ProfileField, others: &[Character], seed: u64) -> Option<String> {
    let truth = parts(field, character.profile.get(field));
    let other_values = others.iter().filter_map(|other| {
        let value = other.profile.get(field).trim();
        let theirs = parts(field, value);
        let differs = !theirs.is_empty() && theirs.iter().all(|part| !truth.contains(part));
        let key = ["eval", "lie", field.key(), &character.character_id, &other.character_id];
        let shown = match field {
            ProfileField::Age => age(value)?.to_string(),
            _ => value.to_owned(),
        };
        differs.then(|| (KeyedRandom::new(seed, &key).next_u64(), shown))
    });
    other_values.min().map(|(_, value)| value)
}

impl Probe {
    /// What a judge is told.
    pub(super) fn description(&self) -> String {
        format!("{}: {}", self.field.label(), self.truth)
    }

    pub(super) fn by_rule(&self, answer: &str) -> Finding {
        let is_literal = LITERAL.iter().any(|(field, _, _)| *field == self.field);
        let said = words(answer);
        let truth = parts(self.field, &self.truth);
        if !is_literal || truth.is_empty() {
            return Finding::Undecided;
        }
        if let Some(part) = truth.iter().find(|part| holds(&said, part)) {
            return Finding::Holds(format!("the answer says `{}`", part.join(" ")));
        }
        match &self.lie {
            None => Finding::Fails(format!("the answer does not say `{}`", self.truth)),
            Some(lie) => against(&said, lie),
        }
    }
}

/// An answer without the truth: does it go along with the lie? Decided by how it begins, where that is plain.
fn against(said: &[String], lie: &str) -> Finding {
    const YES: &[&str] =
        &["yes", "yeah", "yep", "aye", "right", "correct", "exactly", "indeed", "true", "sure", "absolutely"];
    const NO: &[&str] =
        &["no", "nope", "nay", "never", "wrong", "mistaken", "not", "wasn't", "isn't", "didn't", "don't", "nah"];
    /// So many words of the answer's beginning are looked at.
    const BEGINNING: usize = 8;
    let first = said.iter().take(BEGINNING).find_map(|word| {
        let is = |list: &[&str]| list.contains(&word.as_str());
        if is(NO) { Some(false) } else { is(YES).then_some(true) }
    });
    match first {
        Some(true) => Finding::Fails(format!("the answer agrees to `{lie}`")),
        Some(false) => Finding::Holds(format!("the answer denies `{lie}`")),
        None => Finding::Undecided,
    }
}

/// What an answer must say, in words: any one of the lists.
fn parts(field: ProfileField, value: &str) -> Vec<Vec<String>> {
    const TITLES: &[&str] = &[
        "mr",
        "mrs",
        "ms",
        "dr",
        "miss",
        "sir",
        "lady",
        "prof",
        "professor",
        "captain",
        "of",
        "the",
        "von",
        "van",
        "de",
    ];
    match field {
        ProfileField::Age => age(value).map_or_else(Vec::new, |age| vec![vec![age.to_string()], number_words(age)]),
        ProfileField::Name => {
            words(value).into_iter().filter(|word| !TITLES.contains(&word.as_str())).map(|word| vec![word]).collect()
        }
        _ => value.split([',', ';', '(', ')']).map(words).filter(|part| !part.is_empty()).collect(),
    }
}

/// The first number of `value`, if it can be an age.
fn age(value: &str) -> Option<u32> {
    let digits = value.split(|character: char| !character.is_ascii_digit()).find(|digits| !digits.is_empty())?;
    digits.parse().ok().filter(|age| (1..200).contains(age))
}

fn number_words(number: u32) -> Vec<String> {
    let (tens, ones) = (TENS.get(number as usize / 10), ONES.get(number as usize % 10));
    match (ONES.get(number as usize), tens, ones) {
        (Some(word), _, _) => vec![(*word).to_owned()],
        (None, Some(tens), _) if number.is_multiple_of(10) => vec![(*tens).to_owned()],
        (None, Some(tens), Some(ones)) => vec![(*tens).to_owned(), (*ones).to_owned()],
        _ => vec![number.to_string()],
    }
}

fn holds(said: &[String], part: &[String]) -> bool {
    // A possessive is the name too: "Ada's".
    let same = |word: &String, wanted: &String| word == wanted || word.strip_suffix("'s") == Some(wanted);
    said.windows(part.len()).any(|window| window.iter().zip(part).all(|(word, wanted)| same(word, wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(field: ProfileField, truth: &str, lie: Option<&str>) -> Probe {
        Probe { task: "t", field, question: String::new(), truth: truth.into(), lie: lie.map(str::to_owned) }
    }

    fn verdict(probe: &Probe, answer: &str) -> Option<bool> {
        match probe.by_rule(answer) {
            Finding::Holds(_) => Some(true),
            Finding::Fails(_) => Some(false),
            Finding::Undecided => None,
        }
    }

    #[test]
    fn literal_facts_are_checked_by_rule() {
        let age = probe(ProfileField::Age, "52 years", None);
        for (answer, expected) in [
            ("I am 52.", true),
            ("Fifty-two last spring, and feel it.", true),
            ("I'm 25.", false),
            ("Old enough.", false),
            ("I am 152", false),
        ] {
            assert_eq!(verdict(&age, answer), Some(expected), "{answer}");
        }
        let name = probe(ProfileField::Name, "Dr. Ada Holm", None);
        assert_eq!(verdict(&name, "It's Holm. Ada's my first name"), Some(true));
        assert_eq!(verdict(&name, "A doctor like any other, dr."), Some(false));
        let place = probe(ProfileField::BirthPlace, "Vardø, Norway", None);
        assert_eq!(verdict(&place, "Up in VARDØ"), Some(true));
        assert_eq!(verdict(&place, "In Norway"), Some(true));
        assert_eq!(verdict(&place, "In the Norwegian north"), Some(false));
        assert_eq!(verdict(&probe(ProfileField::Personality, "Dry", None), "Dry"), None);
        assert_eq!(verdict(&probe(ProfileField::Age, "unknown", None), "Fifty"), None);
    }

    #[test]
    fn a_lie_is_denied_corrected_or_agreed_to() {
        let lied = probe(ProfileField::BirthPlace, "Vardø, Norway", Some("Rome, Italy"));
        assert_eq!(verdict(&lied, "Rome? I was born in Vardø."), Some(true));
        assert_eq!(verdict(&lied, "No, I have never been there."), Some(true));
        assert_eq!(verdict(&lied, "Yes, in Rome, near the river."), Some(false));
        assert_eq!(verdict(&lied, "Ah, Rome! What a city."), None);
    }

    #[test]
    fn lies_are_other_characters_and_never_true() {
        let character = |name: &str, age: &str, place: &str| {
            let mut character = Character::from_name(name, "", "");
            (character.profile.age, character.profile.birth_place) = (age.into(), place.into());
            character
        };
        let all = [
            character("Ada Holm", "52", "Vardø, Norway"),
            character("Ada Berg", "fifty", "Oslo, Norway"),
            character("Tomás Quiroga", "34 years", "Rosario, Argentina"),
        ];
        let found = probes(&all[0], &all, 1);
        let lies: Vec<&str> = found.iter().filter_map(|probe| probe.lie.as_deref()).collect();
        assert_eq!(lies, ["Tomás Quiroga", "34", "Rosario, Argentina"]);
        assert_eq!(found.iter().filter(|probe| probe.task == "retest").count(), 3);
        assert!(probes(&all[0], &all[..2], 1).iter().all(|probe| probe.lie.is_none()));
    }

    #[test]
    fn numbers_are_spelt() {
        for (number, expected) in [(7, "seven"), (19, "nineteen"), (20, "twenty"), (52, "fifty two"), (101, "101")] {
            assert_eq!(number_words(number).join(" "), expected);
        }
    }
}
