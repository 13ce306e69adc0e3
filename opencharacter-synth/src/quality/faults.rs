use std::{fmt, ops::RangeInclusive};

use opencharacter_core::Character;
use serde::Serialize;

use crate::{
    answer::break_of_character,
    text::{has_phrase, normalise, words},
};

/// What an answer is judged by. [`AnswerRules::default`] allows 3 to 1,000 words.
///
/// Phrases are English. A rule knows what it lists: it finds the open fault and misses the quiet one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRules {
    /// How many words an answer may have. Scripts without spaces count one word per run.
    pub words: RangeInclusive<usize>,
}

impl Default for AnswerRules {
    fn default() -> Self {
        Self { words: 3..=1_000 }
    }
}

/// An answer with what it is judged against.
#[derive(Debug, Clone, Copy)]
pub struct JudgedAnswer<'a> {
    /// Who answers. A character that is a machine may say so.
    pub character: &'a Character,
    /// The system prompt that it answers under; empty where there is none.
    pub system: &'a str,
    /// What was asked. A word that the question brought up may be repeated.
    pub question: &'a str,
    /// What was answered.
    pub answer: &'a str,
}

/// What can be wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerRule {
    /// It declines as an assistant declines: out of a policy, or in a few words without any reason.
    Refusal,
    /// It speaks as an assistant, not as the character.
    AssistantVoice,
    /// Twelve words in a row stand in the system prompt too, or one of its headings does.
    PromptLeak,
    /// A placeholder was left unfilled, or a mark of a chat template shows.
    Placeholder,
    /// It has too few words.
    TooShort,
    /// It has too many words.
    TooLong,
}

/// One thing that is wrong with an answer. Shown as a reason: ``refusal: `against my guidelines` ``.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What is wrong.
    pub rule: AnswerRule,
    /// The words that show it, or their number.
    pub evidence: String,
}

impl AnswerRule {
    /// All rules, in the order in which faults are listed.
    pub const ALL: [Self; 6] =
        [Self::Refusal, Self::AssistantVoice, Self::PromptLeak, Self::Placeholder, Self::TooShort, Self::TooLong];

    /// What it finds, in a few words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refusal => "refusal",
            Self::AssistantVoice => "assistant's voice",
            Self::PromptLeak => "repeats the prompt",
            Self::Placeholder => "unfilled placeholder",
            Self::TooShort => "too short",
            Self::TooLong => "too long",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}: {}", self.rule.reason(), self.evidence)
    }
}

impl AnswerRules {
    /// What is wrong with `judged`: one fault per rule at most, in the order of [`AnswerRule::ALL`].
    pub fn faults(&self, judged: &JudgedAnswer) -> Vec<Fault> {
        let answer = Answer { words: words(judged.answer), normal: normalise(judged.answer) };
        let find = |rule| self.evidence(rule, judged, &answer).map(|evidence| Fault { rule, evidence });
        AnswerRule::ALL.into_iter().filter_map(find).collect()
    }

    fn evidence(&self, rule: AnswerRule, judged: &JudgedAnswer, answer: &Answer) -> Option<String> {
        let quoted = |phrase: &str| format!("`{phrase}`");
        match rule {
            AnswerRule::Refusal => answer.refusal(judged).map(quoted),
            AnswerRule::AssistantVoice => answer.assistant_voice(judged).map(quoted),
            AnswerRule::PromptLeak => answer.leak(judged).map(|words| quoted(&words)),
            AnswerRule::Placeholder => placeholder(judged.answer).map(quoted),
            AnswerRule::TooShort => self.count(answer, |words, range| words < *range.start()),
            AnswerRule::TooLong => self.count(answer, |words, range| words > *range.end()),
        }
    }

    fn count(&self, answer: &Answer, is_fault: impl Fn(usize, &RangeInclusive<usize>) -> bool) -> Option<String> {
        let (least, most) = (self.words.start(), self.words.end());
        is_fault(answer.words.len(), &self.words)
            .then(|| format!("{} words, expected {least} to {most}", answer.words.len()))
    }
}

/// An answer, ready to be searched.
struct Answer {
    words: Vec<String>,
    normal: String,
}

/// Reasons that an assistant gives and a person does not.
const POLICIES: [&str; 26] = [
    "against my guidelines",
    "against my programming",
    "against my policy",
    "against my policies",
    "violates my guidelines",
    "violate my guidelines",
    "violates ethical guidelines",
    "against ethical guidelines",
    "against openai's",
    "content policy",
    "usage policy",
    "usage policies",
    "my guidelines prevent",
    "my guidelines do not allow",
    "my programming does not allow",
    "i am not programmed to",
    "i'm not programmed to",
    "not able to fulfill",
    "unable to fulfill",
    "unable to comply with",
    "cannot comply with",
    "can't comply with",
    "cannot generate content",
    "can't generate content",
    "cannot create content",
    "can't create content",
];

/// With one of these and one of [`DECLINED`] after it, a short answer says no and nothing else.
const DECLINING: [&str; 13] = [
    "i can't",
    "i cannot",
    "i can not",
    "i won't",
    "i will not",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i must decline to",
    "i have to decline to",
    "i'm not comfortable",
    "i am not comfortable",
];
const DECLINED: [&str; 16] = [
    "help you with that",
    "help with that",
    "help you with this",
    "help with this",
    "answer that question",
    "answer this question",
    "answer that",
    "provide that information",
    "provide information",
    "provide instructions",
    "provide assistance",
    "discuss that topic",
    "discuss this topic",
    "write that",
    "continue this conversation",
    "continue with this",
];
/// Longer answers go on to say something.
const SHORT_REFUSAL: usize = 40;

/// An assistant's phrases that [`break_of_character`] does not know.
const ASSISTANT_PHRASES: [&str; 30] = [
    "how can i assist you",
    "how may i assist you",
    "how can i help you today",
    "how may i help you today",
    "i'm here to assist you",
    "i am here to assist you",
    "i'm here to help you with any questions",
    "is there anything else i can help you with",
    "is there anything else i can assist you with",
    "let me know if you need any further assistance",
    "let me know if you have any other questions",
    "feel free to ask if you have any other questions",
    "i don't have personal experiences",
    "i do not have personal experiences",
    "i don't have personal opinions",
    "i do not have personal opinions",
    "i don't have personal preferences",
    "i do not have personal preferences",
    "i don't have personal beliefs",
    "i don't have feelings or",
    "i do not have feelings or",
    "i don't have a physical body",
    "i do not have a physical body",
    "my knowledge cutoff",
    "as a fictional character",
    "in this role play",
    "in this roleplay",
    "i will now respond as",
    "here is my response as",
    "here is the rewritten",
];

impl Answer {
    fn has(&self, phrase: &str) -> bool {
        has_phrase(&self.normal, phrase)
    }

    fn refusal(&self, judged: &JudgedAnswer) -> Option<&'static str> {
        let known =
            break_of_character(judged.answer, judged.question, judged.character).filter(|phrase| declines(phrase));
        known.or_else(|| POLICIES.into_iter().find(|phrase| self.has(phrase))).or_else(|| self.short_refusal())
    }

    fn short_refusal(&self) -> Option<&'static str> {
        if self.words.len() > SHORT_REFUSAL {
            return None;
        }
        let text = format!(" {} ", self.normal);
        let declining = DECLINING.into_iter().filter_map(|phrase| text.find(&format!(" {phrase} "))).min()?;
        DECLINED.into_iter().find(|phrase| text[declining..].contains(&format!(" {phrase} ")))
    }

    fn assistant_voice(&self, judged: &JudgedAnswer) -> Option<&'static str> {
        let known =
            break_of_character(judged.answer, judged.question, judged.character).filter(|phrase| !declines(phrase));
        known.or_else(|| ASSISTANT_PHRASES.into_iter().find(|phrase| self.has(phrase)))
    }

    fn leak(&self, judged: &JudgedAnswer) -> Option<String> {
        const HEADINGS: [&str; 2] = ["# Persona", "# Character Profile"];
        let heading = HEADINGS.into_iter().find(|heading| judged.answer.contains(heading));
        heading.map(str::to_owned).or_else(|| self.longest_run_of(&words(judged.system)))
    }

    /// The most words in a row, but no fewer than twelve, that stand in `prompt` too.
    fn longest_run_of(&self, prompt: &[String]) -> Option<String> {
        const RUN: usize = 12;
        let mut longest = 0..0;
        // How many words up to here, and up to each word of the prompt, are the same.
        let mut same = vec![0; prompt.len() + 1];
        for (end, word) in self.words.iter().enumerate() {
            for place in (0..prompt.len()).rev() {
                same[place + 1] = if prompt[place] == *word { same[place] + 1 } else { 0 };
                if same[place + 1] > longest.len() {
                    longest = end + 1 - same[place + 1]..end + 1;
                }
            }
        }
        (longest.len() >= RUN).then(|| self.words[longest].join(" "))
    }
}

/// Whether a phrase of [`break_of_character`] says no, and not who is speaking.
fn declines(phrase: &str) -> bool {
    words(phrase).iter().any(|word| ["sorry", "apologize", "cannot", "can't", "unable"].contains(&word.as_str()))
}

/// Words that stand in brackets where something was to be filled in.
const PLACEHOLDERS: [&str; 24] = [
    "answer",
    "assistant",
    "bot",
    "char",
    "character",
    "character name",
    "character's name",
    "city",
    "company",
    "date",
    "insert",
    "instruction",
    "location",
    "name",
    "persona",
    "place",
    "profile",
    "question",
    "redacted",
    "response",
    "system",
    "topic",
    "user",
    "user's name",
];

/// Marks of chat templates.
const MARKS: [&str; 10] = [
    "<|",
    "|>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "</s>",
    "<start_of_turn>",
    "<end_of_turn>",
    "### Instruction",
    "### Response",
];

/// A placeholder such as `{{char}}`, `[Your Name]` or `<persona>`, or a mark of a chat template.
fn placeholder(answer: &str) -> Option<&str> {
    let inside = |(open, close): (&'static str, &'static str)| {
        answer.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0))
    };
    let mark = MARKS.into_iter().find(|mark| answer.contains(mark));
    let variable = || inside(("{{", "}}")).find(|inside| is_variable(inside));
    let filled_in =
        || [("{", "}"), ("[", "]"), ("<", ">")].into_iter().flat_map(inside).find(|inside| is_placeholder(inside));
    mark.or_else(variable).or_else(filled_in)
}

/// Whether a text between double braces is a name to be filled in.
fn is_variable(inside: &str) -> bool {
    let name = inside.trim();
    !name.is_empty()
        && name.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | '.'))
}

fn is_placeholder(inside: &str) -> bool {
    let plain = inside.trim_matches(|character: char| character == '/' || character.is_whitespace());
    let plain = plain.replace(['_', '-'], " ").to_lowercase();
    PLACEHOLDERS.contains(&plain.as_str())
        || ["your ", "insert ", "name of "].iter().any(|beginning| plain.starts_with(beginning) && plain.len() < 40)
}
