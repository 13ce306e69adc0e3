//! What a persona states outright, where a rule can tell: name, age, birth place, gender.
//!
//! The rules would rather miss a fact than invent one: "a keeper with a parrot named Kiwi" names nobody, and
//! "a teacher raising a 6-year-old" is not six. A missed fact costs a check; an invented one spoils the profile.

use opencharacter_core::english::{ONES, TENS};

/// The sex or gender that a persona's words imply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gender {
    Female,
    Male,
}

/// Facts stated by a persona.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersonaFacts {
    /// "named X", or "X, a ..." at the beginning.
    pub name: Option<String>,
    /// Least and greatest age: equal for "72-year-old", 13 and 19 for "a teenager".
    pub age: Option<(u32, u32)>,
    /// "born in X".
    pub birth_place: Option<String>,
    pub(crate) gender: Option<Gender>,
    /// A ghost, a robot, a god: human limits of age do not hold.
    pub beyond_human: bool,
}

impl PersonaFacts {
    /// The facts that `persona` states.
    pub fn of(persona: &str) -> Self {
        let words = Words::of(persona);
        Self {
            name: words.name(),
            age: words.age(),
            birth_place: words.birth_place(),
            gender: words.gender(),
            beyond_human: words.beyond_human(),
        }
    }
}

/// A persona's words, cut at spaces.
struct Words(Vec<Word>);

struct Word {
    /// Without the punctuation around it.
    text: String,
    lower: String,
    /// A comma, dash or the like follows.
    ends_clause: bool,
}

const PREPOSITIONS: [&str; 17] = [
    "of", "to", "with", "for", "from", "by", "on", "in", "at", "about", "and", "or", "who", "whose", "that", "like",
    "against",
];
const POSSESSIVES: [&str; 6] = ["his", "her", "their", "its", "my", "your"];
const ARTICLES: [&str; 4] = ["a", "an", "the", "this"];
const BEING: [&str; 5] = ["is", "was", "am", "are", "now"];
const RELATIVES: [&str; 16] = [
    "mother",
    "father",
    "parents",
    "wife",
    "husband",
    "son",
    "daughter",
    "children",
    "brother",
    "sister",
    "friend",
    "family",
    "sons",
    "daughters",
    "grandparents",
    "child",
];
const FEMALE: [&str; 23] = [
    "woman",
    "girl",
    "lady",
    "mother",
    "grandmother",
    "mom",
    "grandma",
    "daughter",
    "sister",
    "wife",
    "widow",
    "nun",
    "abbess",
    "queen",
    "princess",
    "duchess",
    "actress",
    "waitress",
    "housewife",
    "matriarch",
    "schoolgirl",
    "businesswoman",
    "priestess",
];
const MALE: [&str; 23] = [
    "man",
    "boy",
    "gentleman",
    "father",
    "grandfather",
    "dad",
    "grandpa",
    "son",
    "brother",
    "husband",
    "widower",
    "monk",
    "friar",
    "king",
    "prince",
    "duke",
    "salaryman",
    "bachelor",
    "patriarch",
    "schoolboy",
    "businessman",
    "fisherman",
    "priest",
];
const BEYOND_HUMAN: [&str; 25] = [
    "ghost",
    "demon",
    "vampire",
    "immortal",
    "robot",
    "android",
    "dragon",
    "god",
    "goddess",
    "deity",
    "elf",
    "alien",
    "angel",
    "spirit",
    "wizard",
    "witch",
    "golem",
    "minotaur",
    "ai",
    "djinn",
    "genie",
    "ageless",
    "centuries-old",
    "cyborg",
    "sphinx",
];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
/// Capitalised because they begin the sentence, not because they name anyone: "Grumpy, a 71-year-old ...".
const NOT_NAMES: [&str; 28] = [
    "grumpy",
    "shy",
    "happy",
    "lonely",
    "quiet",
    "retired",
    "tired",
    "divorced",
    "widowed",
    "orphaned",
    "former",
    "once",
    "now",
    "today",
    "devout",
    "vegan",
    "blind",
    "deaf",
    "proud",
    "stubborn",
    "gentle",
    "kind",
    "brave",
    "anxious",
    "reluctant",
    "deadpan",
    "cranky",
    "born",
];
const DECADES: [(&str, u32); 8] = [
    ("twenties", 20),
    ("thirties", 30),
    ("forties", 40),
    ("fifties", 50),
    ("sixties", 60),
    ("seventies", 70),
    ("eighties", 80),
    ("nineties", 90),
];

impl Words {
    fn of(persona: &str) -> Self {
        let mut words: Vec<Word> = Vec::new();
        for raw in persona.replace('—', " — ").split_whitespace() {
            let text = raw.trim_matches(|character: char| !character.is_alphanumeric());
            let ends_clause = raw.ends_with([',', ';', ':', '.', '!', '?', ')', '–', '—', '"', '”']);
            if !text.is_empty() {
                words.push(Word { text: text.to_owned(), lower: text.to_lowercase(), ends_clause });
            } else if let Some(last) = words.last_mut() {
                last.ends_clause = true;
            }
        }
        Self(words)
    }

    fn lower(&self, index: usize) -> &str {
        self.0.get(index).map_or("", |word| &word.lower)
    }

    /// Whether a description of the persona itself can begin at `index`.
    fn begins_description(&self, index: usize) -> bool {
        match index.checked_sub(1).and_then(|before| self.0.get(before)) {
            None => true,
            Some(before) => before.ends_clause || BEING.contains(&before.lower.as_str()),
        }
    }

    /// Whether the word at `index` describes the persona and not somebody in its life: between it and the beginning
    /// of a description there are at most four words, an article only at the front and no preposition.
    fn describes_subject(&self, index: usize) -> bool {
        for position in (index.saturating_sub(4)..=index).rev() {
            let word = self.lower(position);
            let is_itself = position == index;
            if !is_itself && (PREPOSITIONS.contains(&word) || POSSESSIVES.contains(&word)) {
                return false;
            }
            if self.begins_description(position) {
                return true;
            }
            if ARTICLES.contains(&word) {
                return false;
            }
        }
        false
    }

    fn name(&self) -> Option<String> {
        self.name_after_named().or_else(|| self.name_in_front())
    }

    fn name_after_named(&self) -> Option<String> {
        let named = (1..self.0.len()).find(|&index| self.lower(index) == "named")?;
        // "a breeder of dogs named Rex"
        if self.lower(named - 1).ends_with('s') && !self.0[named - 1].text.starts_with(char::is_uppercase) {
            return None;
        }
        let determiner = (0..named)
            .rev()
            .find(|&index| ARTICLES.contains(&self.lower(index)) || POSSESSIVES.contains(&self.lower(index)));
        if let Some(index) = determiner
            && (POSSESSIVES.contains(&self.lower(index)) || !self.begins_description(index))
        {
            return None;
        }
        self.capitalised_from(named + 1)
    }

    fn name_in_front(&self) -> Option<String> {
        let end = self.0.iter().take(3).position(|word| word.ends_clause)?;
        let name = &self.0[..=end];
        let plain = name.iter().all(|word| {
            is_name_part(&word.text)
                && !NOT_NAMES.contains(&word.lower.as_str())
                && !["ful", "less", "ous", "ish", "able"].iter().any(|ending| word.lower.ends_with(ending))
        });
        let next = self.lower(end + 1);
        let introduces = ARTICLES.contains(&next) || next.ends_with("-year-old");
        let text = || name.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
        (plain && introduces).then(text)
    }

    /// The run of capitalised words from `start`, to the end of the clause at the latest.
    fn capitalised_from(&self, start: usize) -> Option<String> {
        let mut run: Vec<&str> = Vec::new();
        for word in self.0.iter().skip(start).take(4) {
            if !is_name_part(&word.text) {
                break;
            }
            let plain = word.text.trim_end_matches("'s").trim_end_matches("’s");
            run.push(plain);
            if word.ends_clause || plain != word.text {
                break;
            }
        }
        (!run.is_empty()).then(|| run.join(" "))
    }

    /// "An AI that gardens", but not "an AI researcher".
    fn beyond_human(&self) -> bool {
        const AFTER: [&str; 12] =
            ["", "who", "that", "which", "of", "in", "from", "with", "named", "known", "trained", "on"];
        (0..self.0.len()).any(|index| {
            BEYOND_HUMAN.contains(&self.lower(index))
                && (self.0[index].ends_clause || AFTER.contains(&self.lower(index + 1)))
                && self.describes_subject(index)
        })
    }

    fn age(&self) -> Option<(u32, u32)> {
        (0..self.0.len()).find_map(|index| self.age_at(index))
    }

    fn age_at(&self, index: usize) -> Option<(u32, u32)> {
        let word = self.lower(index);
        let exact = |age: u32| (1..=150).contains(&age).then_some((age, age));
        if let Some(number) = word.strip_suffix("-year-old") {
            return self.describes_subject(index).then(|| number_of(number)).flatten().and_then(exact);
        }
        if matches!(word, "years" | "year") && self.lower(index + 1) == "old" && index > 0 {
            return self
                .describes_subject(index - 1)
                .then(|| number_of(self.lower(index - 1)))
                .flatten()
                .and_then(exact);
        }
        if word == "aged" {
            return number_of(self.lower(index + 1)).and_then(exact);
        }
        if let Some((_, least)) = DECADES.iter().find(|(decade, _)| word.trim_start_matches("mid-") == *decade) {
            let before = self.lower(index.saturating_sub(1));
            let is_age = POSSESSIVES.contains(&before) || matches!(before, "early" | "mid" | "late");
            return is_age.then_some((*least, least + 9));
        }
        let range = match word {
            "teenager" | "teenage" => (13, 19),
            "retired" | "retiree" | "grandmother" | "grandfather" => (38, 110),
            "elderly" | "pensioner" | "octogenarian" => (60, 110),
            _ => return None,
        };
        self.describes_subject(index).then_some(range)
    }

    fn birth_place(&self) -> Option<String> {
        let born = (0..self.0.len()).find(|&index| self.lower(index) == "born" && self.lower(index + 1) == "in")?;
        if (born.saturating_sub(4)..born).any(|index| RELATIVES.contains(&self.lower(index))) {
            return None;
        }
        let start = if self.lower(born + 2) == "the" { born + 3 } else { born + 2 };
        self.capitalised_from(start).filter(|_| !MONTHS.contains(&self.lower(start)))
    }

    fn gender(&self) -> Option<Gender> {
        let noun = (0..self.0.len()).find_map(|index| {
            let gender = gender_of_noun(self.lower(index))?;
            self.describes_subject(index).then_some(gender)
        });
        noun.or_else(|| self.gender_of_pronouns())
    }

    /// The gender of the pronouns, where all of them agree.
    fn gender_of_pronouns(&self) -> Option<Gender> {
        let mut found = None;
        for index in 0..self.0.len() {
            let (gender, sure) = match self.lower(index) {
                "she" | "herself" => (Gender::Female, true),
                "he" | "himself" => (Gender::Male, true),
                "her" => (Gender::Female, false),
                "his" => (Gender::Male, false),
                _ => continue,
            };
            if self.names_somebody_before(index) || (!sure && !self.belongs_to_subject(index)) {
                continue;
            }
            if found.is_some_and(|other| other != gender) {
                return None;
            }
            found = Some(gender);
        }
        found
    }

    /// "A fan of Adele since she was famous": the pronoun is hers.
    fn names_somebody_before(&self, index: usize) -> bool {
        (1..index).any(|position| {
            matches!(self.lower(position - 1), "of" | "with" | "for" | "about" | "to" | "by" | "like")
                && self.0[position].text.starts_with(char::is_uppercase)
        })
    }

    /// Whether "his" or "her" at `index` follows a "who" with nobody else in between: "who names her cows".
    fn belongs_to_subject(&self, index: usize) -> bool {
        let Some(who) = (0..index).rev().find(|&position| self.lower(position) == "who") else {
            return false;
        };
        // "a midwife who", but not "a man and his wife who" or "the court of a king who".
        let other_before =
            (1..who).any(|position| ARTICLES.contains(&self.lower(position)) && !self.begins_description(position));
        let other_between = (who + 1..index).any(|position| {
            ARTICLES.contains(&self.lower(position)) || self.0[position].text.starts_with(char::is_uppercase)
        });
        !other_before && !other_between
    }
}

fn is_name_part(word: &str) -> bool {
    // "World-weary" is no name; "Jean-Luc" is.
    word.split('-').all(|part| part.starts_with(char::is_uppercase)) && !word.contains(|c: char| c.is_ascii_digit())
}

pub(crate) fn gender_of_noun(noun: &str) -> Option<Gender> {
    if FEMALE.contains(&noun) {
        Some(Gender::Female)
    } else if MALE.contains(&noun) {
        Some(Gender::Male)
    } else {
        None
    }
}

/// `72`, `twenty`, `seventy-two`.
fn number_of(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let place = |list: &[&str], word: &str| {
        list.iter().position(|&entry| !entry.is_empty() && entry == word).map(|index| index as u32)
    };
    match text.split_once('-') {
        Some((tens, unit)) => Some(place(&TENS, tens)? * 10 + place(&ONES, unit).filter(|unit| *unit < 10)?),
        None => place(&ONES, text).or_else(|| place(&TENS, text).map(|tens| tens * 10)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(persona: &str) -> Option<String> {
        PersonaFacts::of(persona).name
    }

    fn age(persona: &str) -> Option<(u32, u32)> {
        PersonaFacts::of(persona).age
    }

    fn gender(persona: &str) -> Option<Gender> {
        PersonaFacts::of(persona).gender
    }

    #[test]
    fn names_of_the_persona_and_of_nobody_else() {
        let expected = [
            ("An 88-year-old jazz trombonist in New Orleans named Cornelius who answers", Some("Cornelius")),
            (
                "Devout, deadpan and fond of hot sauce, a Franciscan nun named Sister Benedicta runs",
                Some("Sister Benedicta"),
            ),
            ("Lucía, a 29-year-old tunnel engineer in Medellín, trusts only", Some("Lucía")),
            ("Jean-Luc Moreau, the last lamplighter", Some("Jean-Luc Moreau")),
            ("A keeper with a parrot named Kiwi", None),
            ("A farmer who adores his dog named Rex", None),
            ("A breeder of dogs named Rex", None),
            ("Grumpy, a 71-year-old Parisian", None),
            ("Cheerful, a stretcher bearer", None),
            ("A sports journalist who has interviewed Michael Jordan", None),
        ];
        for (persona, expected) in expected {
            assert_eq!(name(persona).as_deref(), expected, "{persona}");
        }
    }

    #[test]
    fn ages_of_the_persona_and_of_nobody_else() {
        let expected = [
            ("An 88-year-old jazz trombonist", Some((88, 88))),
            ("Grumpy on principle, a 71-year-old Parisian concierge", Some((71, 71))),
            ("Self-taught village vet in Rajasthan, 66-year-old grandmother of nine", Some((66, 66))),
            ("Cheerful despite the trenches, a twenty-year-old Welsh stretcher bearer", Some((20, 20))),
            ("A seventy-two-year-old diver", Some((72, 72))),
            ("A nurse in her late forties", Some((40, 49))),
            ("A teenager fascinated by modems", Some((13, 19))),
            ("A teacher raising a 6-year-old", None),
            ("The mother of a 4-year-old boy", None),
            ("Keeper of a 90-year-old bakery", None),
            ("A mother of a teenager", None),
            ("A collector of toys from the eighties", None),
        ];
        for (persona, expected) in expected {
            assert_eq!(age(persona), expected, "{persona}");
        }
    }

    #[test]
    fn birth_places() {
        let place = |persona| PersonaFacts::of(persona).birth_place;
        assert_eq!(place("Born in Tromsø during the polar night, a designer").as_deref(), Some("Tromsø"));
        assert_eq!(place("A cook born in the Bronx").as_deref(), Some("Bronx"));
        assert_eq!(place("A baker whose mother was born in Bari"), None);
        assert_eq!(place("A singer born in 1950"), None);
        assert_eq!(place("A singer born in May 1950"), None);
    }

    #[test]
    fn genders() {
        let expected = [
            ("A woman who repairs clocks", Some(Gender::Female)),
            ("The anxious father of triplets in Osaka", Some(Gender::Male)),
            ("An astronomer and dairy farmer who names her cows after moons", Some(Gender::Female)),
            ("Once a chess prodigy, he now sells umbrellas", Some(Gender::Male)),
            ("A nurse who cares for a king and his court", None),
            ("A patient midwife who tells the mother to rest", None),
            ("A fan of Anne McClain who has followed her journey since she joined NASA", None),
            ("A plumber", None),
        ];
        for (persona, expected) in expected {
            assert_eq!(gender(persona), expected, "{persona}");
        }
    }

    #[test]
    fn beyond_human() {
        assert!(PersonaFacts::of("An overworked minor demon of misplaced keys").beyond_human);
        assert!(PersonaFacts::of("A vampire in Lyon").beyond_human);
        assert!(!PersonaFacts::of("An AI researcher").beyond_human);
        assert!(!PersonaFacts::of("A writer of stories about an alien").beyond_human);
    }
}
