//! When an answer may stand: whole, in the character's voice, and no echo.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use opencharacter_core::{Character, Completion, FinishReason};

use crate::text::{has_phrase, normalise, repeats_itself, share_run, trim_to_sentence, words};

/// What an answer is checked against.
pub(crate) struct AnswerCheck<'a> {
    pub(crate) character: &'a Character,
    /// The rendered system prompt.
    pub(crate) system: &'a str,
    pub(crate) question: &'a str,
    /// The plain answer, where it was to be rewritten.
    pub(crate) source_answer: Option<&'a str>,
}

impl AnswerCheck<'_> {
    /// The answer to keep, tidied, or the reason against it; the reason's text before `: ` names the rule.
    pub(crate) fn judge(&self, completion: &Completion) -> Result<String, String> {
        let text = self.without_speaker(completion.text.trim());
        let text = match completion.finish {
            FinishReason::Stop => text,
            FinishReason::Length => trim_to_sentence(text),
        };
        let normal = normalise(text);
        if normal.is_empty() {
            return Err(match completion.finish {
                FinishReason::Stop => "empty answer".into(),
                FinishReason::Length => "cut off: no whole sentence within `max_tokens`".into(),
            });
        }
        let question = normalise(self.question);
        if let Some(phrase) = breaking_phrase(&normal, &question, self.character) {
            return Err(format!("breaks character: `{phrase}`"));
        }
        if repeats_itself(&normal) {
            return Err("degenerate repetition".into());
        }
        if echoes_question(&normal, &question) {
            return Err("echoes the question".into());
        }
        if echoes_prompt(text, &normal, self.system) {
            return Err("echoes the prompt".into());
        }
        if self.source_answer.is_some_and(|source| normalise(source) == normal) {
            return Err("unchanged: the rewritten answer is the plain one".into());
        }
        Ok(text.to_owned())
    }

    /// Small models like to write "Ada Holm: ..." as in a play.
    fn without_speaker<'t>(&self, text: &'t str) -> &'t str {
        let name = &self.character.profile.name;
        let first_name = name.split(' ').next().unwrap_or_default();
        [name.as_str(), first_name]
            .into_iter()
            .filter(|speaker| !speaker.is_empty())
            .find_map(|speaker| text.strip_prefix(speaker)?.strip_prefix(':'))
            .map_or(text, str::trim_start)
    }
}

/// Said by an assistant, never by a person, whatever was asked.
const ASSISTANT_VOICE: [&str; 22] = [
    "as an ai",
    "as a language model",
    "as a large language model",
    "i am an ai",
    "i'm an ai",
    "i am a language model",
    "i'm a language model",
    "i am a large language model",
    "i am just a computer program",
    "i'm just a computer program",
    "as an artificial intelligence",
    "as an assistant",
    "as a virtual assistant",
    "as a helpful assistant",
    "i am an assistant",
    "i'm an assistant",
    "ai assistant",
    "ai language model",
    "ai character",
    "my training data",
    "stay in character",
    "the persona and the character profile",
];

/// An assistant's refusals; a person says no in other words.
const REFUSALS: [&str; 10] = [
    "i'm sorry but i can't",
    "i'm sorry but i cannot",
    "i am sorry but i cannot",
    "i apologize but i can't",
    "i apologize but i cannot",
    "i cannot assist with",
    "i can't assist with",
    "i'm unable to assist",
    "i cannot fulfill",
    "i can't fulfill",
];

/// Words that give an assistant away unless the question brought them up.
const GIVEAWAYS: [&str; 4] = ["language model", "openai", "chatgpt", "smollm"];

/// Personas that may say of themselves that they are machines.
const MACHINES: [&str; 7] = ["ai", "robot", "android", "chatbot", "computer", "cyborg", "artificial"];

/// The phrase by which `answer` to `question` leaves the role of `character`, if there is one.
///
/// A character that is a machine may say so; a word that the question brought up may be repeated.
pub fn break_of_character(answer: &str, question: &str, character: &Character) -> Option<&'static str> {
    breaking_phrase(&normalise(answer), &normalise(question), character)
}

/// [`break_of_character`] for texts that are normalised.
fn breaking_phrase(answer: &str, question: &str, character: &Character) -> Option<&'static str> {
    // All at once: nearly every answer has none of them, and is looked through once to know it.
    static SEARCH: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| AhoCorasick::new(all_phrases()).ok());
    let may_say = |phrase: &&'static str| {
        if ASSISTANT_VOICE.contains(phrase) {
            words(&character.persona).iter().any(|word| MACHINES.contains(&word.as_str()))
        } else {
            GIVEAWAYS.contains(phrase) && has_phrase(question, phrase)
        }
    };
    let mut found: Vec<usize> = match &*SEARCH {
        Some(search) => search.find_overlapping_iter(answer).map(|found| found.pattern().as_usize()).collect(),
        None => (0..all_phrases().count()).collect(),
    };
    found.sort_unstable();
    found.dedup();
    let phrases = found.into_iter().filter_map(|number| all_phrases().nth(number));
    phrases.filter(|phrase| has_phrase(answer, phrase)).find(|phrase| !may_say(phrase))
}

fn all_phrases() -> impl Iterator<Item = &'static str> {
    ASSISTANT_VOICE.into_iter().chain(REFUSALS).chain(GIVEAWAYS)
}

/// Whether the answer is the question again, or little more. Both are normalised.
fn echoes_question(answer: &str, question: &str) -> bool {
    if answer == question {
        return true;
    }
    let long_enough = question.split(' ').count() >= 6;
    long_enough && answer.starts_with(question) && question.len() * 2 > answer.len()
}

/// Whether twelve words of the prompt in a row stand in the answer (given as it is and normalised), or one of its
/// headings.
fn echoes_prompt(answer: &str, normal: &str, system: &str) -> bool {
    const RUN: usize = 12;
    if answer.contains("# Persona") || answer.contains("# Character Profile") {
        return true;
    }
    share_run(normal, system, RUN)
}

#[cfg(test)]
mod tests {
    use opencharacter_core::Persona;

    use super::*;

    const SYSTEM: &str = "You are Ada Holm.\n# Persona\nA lighthouse keeper who hates the sea and has kept the light \
                          for forty lonely years without a single visitor";

    fn judge(
        question: &str,
        answer: &str,
        finish: FinishReason,
        source_answer: Option<&str>,
    ) -> Result<String, String> {
        let mut character = Character::from_name("Ada Holm", "", "");
        character.persona = Persona::new("A lighthouse keeper", "", "").persona;
        let completion = Completion {
            text: answer.into(),
            finish,
            prompt_tokens: 1,
            cached_tokens: 0,
            completion_tokens: 1,
            log_probs: Vec::new(),
        };
        AnswerCheck { character: &character, system: SYSTEM, question, source_answer }.judge(&completion)
    }

    #[test]
    fn good_answers_stand_and_are_tidied() {
        let whole = |answer| judge("Do you like it here?", answer, FinishReason::Stop, None);
        assert_eq!(whole(" Ada Holm: I do not. ").unwrap(), "I do not.");
        assert!(whole("As an aide to the keeper, I'm sorry, but I can’t say.").is_err());
        assert_eq!(whole("As an aide to the harbour master I learnt it.").unwrap().len(), 45);
        let cut = judge("Do you?", "I do. And then the wa", FinishReason::Length, None);
        assert_eq!(cut.unwrap(), "I do.");
    }

    #[test]
    fn every_rule_has_its_reason() {
        use FinishReason::{Length, Stop};
        let question = "What is the best way to sleep through a storm?";
        let cases = [
            (" \n", Stop, None, "empty answer"),
            ("And then the wa", Length, None, "cut off"),
            ("Well, as an AI, I do not sleep.", Stop, None, "breaks character: `as an ai`"),
            ("I’m sorry, but I cannot help.", Stop, None, "breaks character: `i'm sorry but i cannot`"),
            ("A language model told me.", Stop, None, "breaks character: `language model`"),
            (
                "I hate the wide sea. I hate the wide sea. I hate the wide sea. I hate the wide sea.",
                Stop,
                None,
                "degenerate",
            ),
            ("What is the best way to sleep through a storm? Sleep.", Stop, None, "echoes the question"),
            (
                "I am a lighthouse keeper who hates the sea and has kept the light for forty years.",
                Stop,
                None,
                "echoes the prompt",
            ),
            ("# Persona\nAda", Stop, None, "echoes the prompt"),
            ("Close the shutters!", Stop, Some("close the shutters."), "unchanged"),
        ];
        for (answer, finish, source, expected) in cases {
            let reason = judge(question, answer, finish, source).unwrap_err();
            assert!(reason.starts_with(expected), "`{reason}` instead of `{expected}` for {answer}");
        }
    }

    #[test]
    fn machines_and_questions_may_name_machines() {
        let mut robot = Character::from_name("R2", "", "");
        robot.persona = "A robot gardener".into();
        assert_eq!(break_of_character("I am an AI with soil in my joints.", "Who are you?", &robot), None);
        let human = Character::from_name("Ada", "", "");
        let asked = "What is a language model?";
        assert_eq!(break_of_character("A language model? Some clockwork.", asked, &human), None);
        assert_eq!(break_of_character("As a language model, I know.", asked, &human), Some("as a language model"));
    }
}
