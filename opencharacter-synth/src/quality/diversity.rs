use std::{collections::HashMap, fmt::Write as _};

use opencharacter_core::{Character, ProfileField};
use serde::Serialize;

use crate::{PersonaFacts, text::words};

/// How varied characters are: what they are called, how old they are, where they come from, what they do.
///
/// Figures do not depend on the characters' order. Values are compared without regard to case and punctuation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diversity {
    /// How many characters were counted.
    pub characters: usize,
    /// One per trait, in the order of [`Trait::ALL`].
    pub traits: Vec<TraitDiversity>,
    /// Of the ages that are numbers; none where no age is.
    pub ages: Option<AgeSpread>,
    /// Values that are far too frequent, the most frequent of each trait first.
    pub skews: Vec<Skew>,
}

/// What characters differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trait {
    /// The name's first part that is no title.
    FirstName,
    /// In years, where the profile gives a number.
    Age,
    /// As the profile says.
    Gender,
    /// As the profile says.
    Race,
    /// As the profile says.
    BirthPlace,
    /// The noun by which the persona introduces the character: "a retired *keeper* of bees". A rule of thumb.
    Occupation,
}

/// How often each value of a trait occurs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraitDiversity {
    /// What is counted.
    pub kind: Trait,
    /// Characters of whom it is known.
    pub known: usize,
    /// Different values.
    pub distinct: usize,
    /// Shannon entropy of the values, in nats.
    pub entropy: f64,
    /// exp(entropy): so many values, all equally frequent, would be as varied. 0 where nothing is known.
    pub effective: f64,
    /// The ten most frequent values.
    pub top: Vec<Share>,
}

/// How often a value occurs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// The value, in the spelling that comes first in the alphabet.
    pub value: String,
    /// Characters who have it.
    pub count: usize,
    /// Of the characters of whom the trait is known.
    pub share: f64,
}

/// The ages that are numbers, in years.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AgeSpread {
    /// How many ages are numbers.
    pub known: usize,
    /// The lowest.
    pub least: u32,
    /// A quarter of the characters is younger.
    pub lower_quartile: u32,
    /// Half of the characters are younger.
    pub median: u32,
    /// Three quarters of the characters are younger.
    pub upper_quartile: u32,
    /// The highest.
    pub greatest: u32,
}

/// A value that is far more frequent than if all values that occur were equally likely.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Skew {
    /// What is counted.
    pub kind: Trait,
    /// The value with its share.
    pub share: Share,
    /// The share that each of the values would have, were all equally frequent.
    pub even_share: f64,
    /// The finding in words: "12% of 200 characters are called Elena (0.7% if all first names
    /// were as frequent)".
    pub text: String,
}

impl Trait {
    /// All traits, in the order of reports.
    pub const ALL: [Self; 6] =
        [Self::FirstName, Self::Age, Self::Gender, Self::Race, Self::BirthPlace, Self::Occupation];

    /// The trait's name in a report.
    pub fn label(self) -> &'static str {
        match self {
            Self::FirstName => "first name",
            Self::Age => "age",
            Self::Gender => "gender",
            Self::Race => "race",
            Self::BirthPlace => "birth place",
            Self::Occupation => "occupation",
        }
    }

    /// What a character is, if it is known.
    pub fn of(self, character: &Character) -> Option<String> {
        let field = |field| Some(character.profile.get(field).trim().to_owned());
        let value = match self {
            Self::FirstName => first_name(&character.profile.name).map(str::to_owned),
            Self::Age => age(&character.profile.age).map(|age| age.to_string()),
            Self::Gender => field(ProfileField::Gender),
            Self::Race => field(ProfileField::Race),
            Self::BirthPlace => field(ProfileField::BirthPlace),
            Self::Occupation => occupation(&character.persona),
        };
        value.filter(|value| value.chars().any(char::is_alphanumeric))
    }

    fn sentence(self, value: &str) -> String {
        match self {
            Self::FirstName => format!("are called {value}"),
            Self::Age => format!("are {value} years old"),
            Self::Gender => format!("have the gender \"{value}\""),
            Self::Race => format!("have the race \"{value}\""),
            Self::BirthPlace => format!("were born in {value}"),
            Self::Occupation => format!("are introduced as a \"{value}\""),
        }
    }
}

impl Diversity {
    /// Counts what `characters` are.
    pub fn of(characters: &[Character]) -> Self {
        let counted: Vec<TraitCount> = Trait::ALL.into_iter().map(|kind| TraitCount::of(kind, characters)).collect();
        Self {
            characters: characters.len(),
            traits: counted.iter().map(TraitCount::diversity).collect(),
            ages: AgeSpread::of(characters),
            skews: counted.iter().flat_map(TraitCount::skews).collect(),
        }
    }

    /// For a terminal: a block per trait, then what is skewed.
    pub fn to_text(&self) -> String {
        let mut text = format!("{} characters\n", self.characters);
        // Writing to a String cannot fail.
        for counted in &self.traits {
            let _ = writeln!(
                text,
                "\n{}: known of {}, {} different, as varied as {:.1} even ones",
                counted.kind.label(),
                counted.known,
                counted.distinct,
                counted.effective
            );
            for Share { value, count, share } in &counted.top {
                let _ = writeln!(text, "  {:>6}  {count:>6}  {value}", percent(*share));
            }
        }
        if let Some(ages) = self.ages {
            let AgeSpread { known, least, lower_quartile, median, upper_quartile, greatest } = ages;
            let _ = writeln!(
                text,
                "\nages in years, of {known}: {least} to {greatest}, half of them {lower_quartile} to {upper_quartile}, median {median}"
            );
        }
        let _ = writeln!(text, "\n{}", if self.skews.is_empty() { "nothing is skewed" } else { "skewed:" });
        for skew in &self.skews {
            let _ = writeln!(text, "  {}", skew.text);
        }
        text
    }
}

impl AgeSpread {
    fn of(characters: &[Character]) -> Option<Self> {
        let mut ages: Vec<u32> = characters.iter().filter_map(|character| age(&character.profile.age)).collect();
        ages.sort_unstable();
        let quantile = |share: f64| ages.get((share * (ages.len().max(1) - 1) as f64).round() as usize).copied();
        Some(Self {
            known: ages.len(),
            least: quantile(0.0)?,
            lower_quartile: quantile(0.25)?,
            median: quantile(0.5)?,
            upper_quartile: quantile(0.75)?,
            greatest: quantile(1.0)?,
        })
    }
}

/// All values of one trait.
struct TraitCount {
    kind: Trait,
    known: usize,
    characters: usize,
    /// The most frequent first; of equals, by the alphabet.
    shares: Vec<Share>,
}

/// A value is skewed if chance alone would make any value so frequent once in a thousand reports.
const CHANCE: f64 = 0.001;
/// What is less than half as much again as its even share is no finding, however many characters show it.
const FAR_ABOVE: f64 = 1.5;
/// Skews reported per trait.
const MOST_SKEWS: usize = 5;
const TOP: usize = 10;

impl TraitCount {
    fn of(kind: Trait, characters: &[Character]) -> Self {
        let mut spellings: HashMap<String, (usize, String)> = HashMap::new();
        let mut known = 0;
        for value in characters.iter().filter_map(|character| kind.of(character)) {
            known += 1;
            let (count, spelling) = spellings.entry(words(&value).join(" ")).or_insert((0, value.clone()));
            *count += 1;
            if value < *spelling {
                *spelling = value;
            }
        }
        let share = |(count, value)| Share { value, count, share: count as f64 / known as f64 };
        let mut shares: Vec<Share> = spellings.into_values().map(share).collect();
        shares.sort_by(|left, right| right.count.cmp(&left.count).then_with(|| left.value.cmp(&right.value)));
        Self { kind, known, characters: characters.len(), shares }
    }

    fn diversity(&self) -> TraitDiversity {
        let entropy: f64 = self.shares.iter().map(|share| -share.share * share.share.ln()).sum();
        TraitDiversity {
            kind: self.kind,
            known: self.known,
            distinct: self.shares.len(),
            // A sum of one value's -1 ln 1 is minus zero.
            entropy: entropy.abs(),
            effective: if self.known == 0 { 0.0 } else { entropy.exp() },
            top: self.shares.iter().take(TOP).cloned().collect(),
        }
    }

    fn skews(&self) -> Vec<Skew> {
        // Of a single value nothing is even; two is the least that a trait can have.
        let values = self.shares.len().max(2) as f64;
        let even_share = 1.0 / values;
        let expected = self.known as f64 * even_share;
        let is_skewed = |share: &&Share| {
            share.share >= FAR_ABOVE * even_share && poisson_tail(expected, share.count) * values < CHANCE
        };
        let all_known = self.known == self.characters;
        let whom = if all_known { "characters" } else { "characters of whom it is known" };
        let skew = |share: &Share| Skew {
            kind: self.kind,
            share: share.clone(),
            even_share,
            text: format!(
                "{} of {} {whom} {} ({} if all {}s were as frequent)",
                percent(share.share),
                self.known,
                self.kind.sentence(&share.value),
                percent(even_share),
                self.kind.label(),
            ),
        };
        self.shares.iter().filter(is_skewed).take(MOST_SKEWS).map(skew).collect()
    }
}

/// The chance of `count` or more where `expected` are expected (Poisson).
fn poisson_tail(expected: f64, count: usize) -> f64 {
    let mut logarithm = -expected;
    let mut below = 0.0;
    for number in 0..count {
        below += logarithm.exp();
        logarithm += expected.ln() - ((number + 1) as f64).ln();
    }
    // Far out the difference is rounding; what is left there is the first term, within a factor.
    (1.0 - below).max(logarithm.exp())
}

fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent < 9.95 { format!("{percent:.1}%") } else { format!("{percent:.0}%") }
}

/// Before a name and no part of it.
const TITLES: [&str; 32] = [
    "admiral",
    "brother",
    "captain",
    "capt",
    "chef",
    "chief",
    "colonel",
    "count",
    "countess",
    "detective",
    "doctor",
    "dr",
    "duke",
    "father",
    "general",
    "judge",
    "king",
    "lady",
    "lieutenant",
    "lord",
    "madame",
    "master",
    "miss",
    "mr",
    "mrs",
    "ms",
    "officer",
    "prof",
    "professor",
    "queen",
    "sir",
    "sister",
];

/// The first part of `name` that is neither a title nor an initial.
fn first_name(name: &str) -> Option<&str> {
    name.split_whitespace()
        .map(|part| part.trim_matches(|character: char| !character.is_alphanumeric()))
        .find(|part| part.chars().count() > 1 && !TITLES.contains(&part.to_lowercase().as_str()))
}

/// Years: the first number in `text`, in digits or as a word.
fn age(text: &str) -> Option<u32> {
    if let Some(begin) = text.find(|character: char| character.is_ascii_digit()) {
        let number = text[begin..].split(|character: char| !(character.is_ascii_digit() || character == ',')).next()?;
        // "1,000 years" is no age to count with, and "35, widowed" is 35.
        return number.trim_end_matches(',').parse().ok().filter(|age| (1..=150).contains(age));
    }
    let number = text.split_whitespace().next()?.trim_matches(|character: char| !character.is_alphanumeric());
    PersonaFacts::of(&format!("A {}-year-old person", number.to_lowercase())).age.map(|(least, _)| least)
}

/// Words at which a description of what somebody is ends.
const ENDS: [&str; 40] = [
    "who",
    "whose",
    "with",
    "of",
    "from",
    "in",
    "at",
    "that",
    "which",
    "and",
    "for",
    "on",
    "to",
    "by",
    "named",
    "called",
    "living",
    "working",
    "specializing",
    "specialising",
    "running",
    "looking",
    "interested",
    "trying",
    "seeking",
    "seeks",
    "is",
    "was",
    "has",
    "lives",
    "works",
    "turned",
    "after",
    "as",
    "responsible",
    "currently",
    "passionate",
    "now",
    "but",
    "about",
];

/// The last word of the persona's first noun phrase: "A 60-year-old lighthouse keeper who ..." is a keeper.
fn occupation(persona: &str) -> Option<String> {
    let first_clause = persona.split([',', ';', ':', '.', '(', '—', '–']).next()?;
    let words = words(first_clause);
    let (article, description) = words.split_first()?;
    // Without an article it is a sentence, or a name in front: "Ada Holm, a keeper".
    if !["a", "an", "the"].contains(&article.as_str()) {
        return None;
    }
    let noun = description.iter().take_while(|word| !ENDS.contains(&word.as_str())).last()?;
    noun.chars().all(char::is_alphabetic).then(|| noun.clone())
}
