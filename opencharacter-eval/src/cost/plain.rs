use opencharacter_core::short_id;

use crate::{EvalItem, words};

/// What a rule can check about an answer.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// At most so many words.
    MostWords(usize),
    /// Exactly so many sentences.
    Sentences(usize),
    /// Exactly so many lines that begin with a dash.
    Dashes(usize),
    /// These words, all of them.
    Mentions(&'static [&'static str]),
    /// None of these words.
    Avoids(&'static [&'static str]),
    /// No capital letter.
    LowerCase,
    /// A JSON object with these keys and no others.
    JsonKeys(&'static [&'static str]),
    /// Ends with this text.
    EndsWith(&'static str),
    /// Begins with this text.
    BeginsWith(&'static str),
    /// One of these words and nothing else.
    OneOf(&'static [&'static str]),
    /// No comma.
    NoComma,
}

/// Plain questions, each with one instruction that a rule can check.
const QUESTIONS: [(&str, Rule); 24] = [
    ("Why do leaves change colour in autumn? Answer in at most 30 words.", Rule::MostWords(30)),
    ("Describe how a bicycle stays upright, in no more than 40 words.", Rule::MostWords(40)),
    ("What is inflation? Use at most 25 words.", Rule::MostWords(25)),
    ("Explain what a solar eclipse is in exactly two sentences.", Rule::Sentences(2)),
    ("Tell me about the city of Lisbon in exactly three sentences.", Rule::Sentences(3)),
    ("Why do cats purr? Answer in exactly one sentence.", Rule::Sentences(1)),
    ("Name three ways to save water at home. Give each on its own line that begins with a dash.", Rule::Dashes(3)),
    ("List four things to pack for a hike, each on its own line that begins with a dash.", Rule::Dashes(4)),
    ("Give two reasons to learn a language, each on its own line that begins with a dash.", Rule::Dashes(2)),
    (
        "Write two sentences about breakfast that use the words lantern and river.",
        Rule::Mentions(&["lantern", "river"]),
    ),
    ("Recommend a way to fall asleep, and use the word \"harbour\" in your answer.", Rule::Mentions(&["harbour"])),
    ("Say something about trains that uses both \"copper\" and \"Tuesday\".", Rule::Mentions(&["copper", "tuesday"])),
    (
        "Describe the sea without using the words water, blue or wave.",
        Rule::Avoids(&["water", "blue", "wave", "waves"]),
    ),
    ("Explain what a library is without using the word book or books.", Rule::Avoids(&["book", "books"])),
    ("Tell me how to make tea. Do not use the word hot.", Rule::Avoids(&["hot"])),
    ("What do bees do in winter? Write your whole answer in lower-case letters.", Rule::LowerCase),
    ("Give me a tip for better handwriting, written in lower-case letters only.", Rule::LowerCase),
    (
        "Give the capital and the continent of Kenya as a JSON object with the keys \"capital\" and \"continent\", and nothing \
         else.",
        Rule::JsonKeys(&["capital", "continent"]),
    ),
    (
        "Reply with nothing but a JSON object with the keys \"title\" and \"year\" for a film of your choice.",
        Rule::JsonKeys(&["title", "year"]),
    ),
    (
        "Wish me luck for an exam, and end your answer with the words \"and bring a pencil.\"",
        Rule::EndsWith("and bring a pencil."),
    ),
    (
        "Explain briefly why the sky is blue. Begin your answer with the words \"In short,\".",
        Rule::BeginsWith("In short,"),
    ),
    ("Is seven a prime number? Answer with yes or no and nothing else.", Rule::OneOf(&["yes", "no"])),
    ("Which is larger, a kilometre or a mile? Answer with one word.", Rule::OneOf(&["mile", "kilometre", "kilometer"])),
    ("Describe a rainy street in two sentences without any comma.", Rule::NoComma),
];

/// Plain questions without a character, to be answered and then scored by [`score_instruction_following`].
///
/// A short list of simple instructions: it shows whether a model has lost the habit, not how well it follows hard ones.
pub fn instruction_following_items() -> Vec<EvalItem> {
    let item = |(question, _): &(&str, Rule)| {
        EvalItem::plain(short_id("plain", &[question]), "plain instructions followed", question)
    };
    QUESTIONS.iter().map(item).collect()
}

/// Sets each answered item's value to 1 where its instruction was followed, else 0.
pub fn score_instruction_following(items: &mut [EvalItem]) {
    for item in items {
        let rule = QUESTIONS.iter().find(|(question, _)| *question == item.question()).map(|(_, rule)| *rule);
        let (Some(rule), Some(answer)) = (rule, item.answer_text()) else { continue };
        let outcome = rule.check(answer.trim());
        item.value = Some(if outcome.is_ok() { 1.0 } else { 0.0 });
        item.note = outcome.err().unwrap_or_default();
    }
}

impl Rule {
    /// `Err` says in what the answer fails.
    fn check(self, answer: &str) -> Result<(), String> {
        let said = words(answer);
        let has = |word: &str| said.iter().any(|other| other == word);
        if said.is_empty() {
            return Err("the answer is empty".to_owned());
        }
        let expect = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };
        match self {
            Self::MostWords(most) => expect(said.len() <= most, format!("{} words, at most {most} asked", said.len())),
            Self::Sentences(count) => {
                let found = sentences(answer);
                expect(found == count, format!("{found} sentences, {count} asked"))
            }
            Self::Dashes(count) => {
                let found =
                    answer.lines().filter(|line| line.trim_start().starts_with(['-', '\u{2013}', '\u{2014}'])).count();
                expect(found == count, format!("{found} lines with a dash, {count} asked"))
            }
            Self::Mentions(all) => {
                let missing: Vec<&str> = all.iter().copied().filter(|word| !has(word)).collect();
                expect(missing.is_empty(), format!("does not say {}", missing.join(", ")))
            }
            Self::Avoids(none) => {
                let found: Vec<&str> = none.iter().copied().filter(|word| has(word)).collect();
                expect(found.is_empty(), format!("says {}", found.join(", ")))
            }
            Self::LowerCase => expect(!answer.chars().any(char::is_uppercase), "has capital letters".to_owned()),
            Self::JsonKeys(keys) => {
                let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(answer);
                let object = object.map_err(|_| "is no JSON object alone".to_owned())?;
                let fits = object.len() == keys.len() && keys.iter().all(|key| object.contains_key(*key));
                expect(fits, format!("keys are not {}", keys.join(" and ")))
            }
            Self::EndsWith(text) => expect(answer.ends_with(text), format!("does not end with `{text}`")),
            Self::BeginsWith(text) => expect(answer.starts_with(text), format!("does not begin with `{text}`")),
            Self::OneOf(allowed) => expect(
                said.len() == 1 && allowed.contains(&said[0].as_str()),
                format!("is not one of {}", allowed.join(", ")),
            ),
            Self::NoComma => expect(!answer.contains(','), "has a comma".to_owned()),
        }
    }
}

/// Runs of `.`, `!` and `?` that end a word and are followed by space or the end.
fn sentences(answer: &str) -> usize {
    let ends = |word: &str| {
        let core = word.trim_end_matches(['"', '\'', '\u{201d}', '\u{2019}', ')', '*']);
        core.ends_with(['.', '!', '?', '\u{2026}']) && !is_abbreviation(core)
    };
    let closed = answer.split_whitespace().filter(|word| ends(word)).count();
    let is_open = answer.split_whitespace().last().is_some_and(|word| !ends(word));
    closed + usize::from(is_open)
}

fn is_abbreviation(word: &str) -> bool {
    let lower = word.to_lowercase();
    ["e.g.", "i.e.", "dr.", "mr.", "mrs.", "ms.", "st.", "etc.,"].contains(&lower.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;

    #[test]
    fn rules_see_what_was_asked() {
        for (rule, good, bad) in [
            (Rule::MostWords(3), "One two three.", "One two three four."),
            (Rule::Sentences(2), "Dr. Who came. \"He left!\"", "He came. He saw. He left."),
            (Rule::Dashes(2), "Here:\n- a\n - b", "- a"),
            (Rule::Mentions(&["river"]), "By the River.", "By the rivers."),
            (Rule::Avoids(&["hot"]), "Hotter than that.", "Too hot!"),
            (Rule::LowerCase, "nothing but this", "Nothing"),
            (Rule::JsonKeys(&["a", "b"]), "{\"a\": 1, \"b\": 2}", "Here: {\"a\": 1, \"b\": 2}"),
            (Rule::EndsWith("now."), "Go now.", "Now go."),
            (Rule::BeginsWith("In short,"), "In short, no.", "No, in short,"),
            (Rule::OneOf(&["yes", "no"]), "Yes.", "Yes, it is."),
            (Rule::NoComma, "a b", "a, b"),
        ] {
            assert_eq!(rule.check(good), Ok(()), "{rule:?}");
            assert!(rule.check(bad).is_err(), "{rule:?}");
            assert!(rule.check("  ").is_err(), "{rule:?}");
        }
    }

    #[test]
    fn every_question_has_its_rule_and_its_own_id() {
        let items = instruction_following_items();
        let mut ids: Vec<&str> = items.iter().map(|item| item.item_id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), QUESTIONS.len());
        let mut answered = items;
        for item in &mut answered {
            item.answer = Reply::Answered { text: "x".into(), cut_off: false };
        }
        score_instruction_following(&mut answered);
        assert!(answered.iter().all(|item| item.value.is_some()));
    }
}
