use std::collections::HashSet;

use opencharacter_core::{
    Character, Completion, FinishReason, Generate, GenerateRequest, KeyedRandom, Message, Role, Sampling, SystemPrompt,
};
use serde::{Deserialize, Serialize};

use crate::{
    EvalError,
    calls::{Errand, Progress, run_all},
};

/// One question of a benchmark, what the model said, and what was made of it: a line of `items.jsonl`.
///
/// Scores, comparisons and reports are computed from items alone, so stored items can be scored again without a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalItem {
    /// Follows from benchmark, character, question and epoch, not from model, prompt or judge: items of two runs with
    /// the same id are comparable.
    pub item_id: String,
    /// The part of the benchmark that it counts for.
    pub task: String,
    /// Who is asked; empty for a question without a character.
    pub character_id: String,
    /// For readers.
    pub character_name: String,
    /// The unit of intervals: the character, or a group of characters that differ only in age or place.
    pub cluster: String,
    /// What a judge is told of the character.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Turns of the conversation before the question; absent for a single question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<u32>,
    /// Which sample of the answer, from 0.
    #[serde(default)]
    pub epoch: u32,
    /// The conversation that the model was given; the question is the last message.
    pub messages: Vec<Message>,
    /// The model's answer, once it was asked.
    #[serde(default)]
    pub answer: Reply,
    /// Answers to compare with, or what is right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// Sample answers for the scores 1 to 5 that the judges saw; empty where they saw none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exemplars: Vec<String>,
    /// What each judge said, in the order of the panel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// What the item counts; absent where there is no answer or no verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// How much it counts in its task.
    pub weight: f64,
    /// Why the value is what it is, or why there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What became of a question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Reply {
    /// Not asked yet.
    #[default]
    NotAsked,
    /// Answered.
    Answered {
        /// The answer.
        text: String,
        /// Whether the token limit ended it.
        #[serde(default)]
        cut_off: bool,
    },
    /// Asked, and the call failed. Never an answer.
    Missing {
        /// Why.
        reason: String,
    },
}

impl From<Result<Completion, String>> for Reply {
    fn from(outcome: Result<Completion, String>) -> Self {
        match outcome {
            Ok(completion) => {
                Self::Answered { cut_off: completion.finish == FinishReason::Length, text: completion.text }
            }
            Err(reason) => Self::Missing { reason },
        }
    }
}

/// One judge on one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The judge's name.
    pub judge: String,
    /// What it said.
    #[serde(flatten)]
    pub outcome: VerdictOutcome,
    /// Its last reply, word for word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reply: String,
    /// Calls made for it.
    pub attempts: u32,
}

/// A score, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum VerdictOutcome {
    /// A score was read.
    Scored {
        /// From 1 to 5, or 0 and 1 for a yes or no.
        score: u8,
        /// The judge's reason.
        reason: String,
    },
    /// The judge answered, and no score could be read in any attempt. Missing, never a zero.
    Unreadable {
        /// What is wrong with the last reply.
        reason: String,
    },
    /// The judge could not be had, or there was nothing to judge with.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Verdict {
    /// The score, if one was read.
    pub fn score(&self) -> Option<u8> {
        match &self.outcome {
            VerdictOutcome::Scored { score, .. } => Some(*score),
            VerdictOutcome::Unreadable { .. } | VerdictOutcome::Failed { .. } => None,
        }
    }
}

impl EvalItem {
    /// An item of `character` that is not asked yet: the rendered `prompt`, if any, and the question.
    pub fn new(
        item_id: String,
        task: &str,
        character: &Character,
        description: String,
        prompt: Option<String>,
        question: &str,
    ) -> Self {
        let mut messages: Vec<Message> = prompt.into_iter().map(Message::system).collect();
        messages.push(Message::user(question));
        Self {
            character_id: character.character_id.clone(),
            character_name: character.display_name().to_owned(),
            cluster: character.character_id.clone(),
            description,
            messages,
            ..Self::plain(item_id, task, question)
        }
    }

    /// An item that asks nobody in particular: the question alone, which is its own cluster.
    pub(crate) fn plain(item_id: String, task: &str, question: &str) -> Self {
        Self {
            cluster: item_id.clone(),
            item_id,
            task: task.to_owned(),
            character_id: String::new(),
            character_name: String::new(),
            description: String::new(),
            turn: None,
            epoch: 0,
            messages: vec![Message::user(question)],
            answer: Reply::NotAsked,
            references: Vec::new(),
            exemplars: Vec::new(),
            verdicts: Vec::new(),
            value: None,
            weight: 1.0,
            note: String::new(),
        }
    }

    /// What was asked.
    pub fn question(&self) -> &str {
        self.messages.last().filter(|message| message.role == Role::User).map_or("", |message| message.content.as_str())
    }

    /// The answer's text, if there is one.
    pub fn answer_text(&self) -> Option<&str> {
        match &self.answer {
            Reply::Answered { text, .. } => Some(text),
            Reply::NotAsked | Reply::Missing { .. } => None,
        }
    }

    /// Sets the value to the mean of the scores that the judges gave; without any there is none.
    pub fn average_verdicts(&mut self) {
        let scores: Vec<f64> = self.verdicts.iter().filter_map(Verdict::score).map(f64::from).collect();
        self.value = (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64);
    }

    /// The spread between the highest and the lowest score that it got.
    pub fn disagreement(&self) -> u8 {
        let scores = || self.verdicts.iter().filter_map(Verdict::score);
        scores().max().unwrap_or(0) - scores().min().unwrap_or(0)
    }
}

/// What of a character the model under test is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// The one-line persona alone, as PersonaGym and the paper's evaluation do.
    Persona,
    /// The profile alone.
    Profile,
    /// Both, as in training.
    Both,
}

impl PromptKind {
    /// The system prompt of `character`.
    ///
    /// # Errors
    /// [`EvalError::NothingToPlay`] where the character lacks what is asked for.
    pub fn render(self, character: &Character, template: &SystemPrompt) -> Result<String, EvalError> {
        let has_profile = !character.profile.to_text().is_empty();
        let lacks = |what| EvalError::NothingToPlay { character: character.display_name().to_owned(), what };
        if character.persona.is_empty() && self != Self::Profile {
            return Err(lacks("persona"));
        }
        if !has_profile && self != Self::Persona {
            return Err(lacks("profile"));
        }
        Ok(template.render(&self.shown(character))?)
    }

    /// What a judge is told of `character`: what the model was told.
    pub fn describe(self, character: &Character) -> String {
        let shown = self.shown(character);
        let parts = [shown.persona.clone(), shown.profile.to_text()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
    }

    fn shown(self, character: &Character) -> Character {
        let mut shown = character.clone();
        match self {
            Self::Persona => shown.profile = opencharacter_core::Profile::default(),
            Self::Profile => shown.persona.clear(),
            Self::Both => {}
        }
        shown
    }
}

/// Asks `model` every item and stores the answers in them.
///
/// The sampling's seed is replaced by one that follows from `seed` and the item's id, so two models get the same.
///
/// # Errors
/// [`EvalError::Model`] where the model cannot be reached; a failed call is a missing answer.
pub async fn answer_items(
    model: &dyn Generate,
    stage: &str,
    items: &mut [EvalItem],
    sampling: &Sampling,
    seed: u64,
    progress: &Progress<'_>,
) -> Result<(), EvalError> {
    let request = |item: &EvalItem| {
        let seed = KeyedRandom::new(seed, &["eval", "answer", &item.item_id]).next_u64();
        let sampling = Sampling { seed, ..sampling.clone() };
        GenerateRequest { messages: item.messages.clone(), sampling, schema: None, log_probs: None }
    };
    let request = &request;
    let errands = items.iter().map(|item| -> Errand<'_, Completion> {
        (item.item_id.clone(), Box::pin(async move { model.generate(request(item)).await }))
    });
    let errands = errands.collect();
    let outcomes = run_all(model.concurrency(), stage, errands, progress).await?;
    for (item, outcome) in items.iter_mut().zip(outcomes) {
        item.answer = outcome.into();
        if let Reply::Missing { reason } = &item.answer {
            item.note = format!("no answer: {reason}");
        }
    }
    Ok(())
}

/// Refuses items of which two have the same id.
pub(crate) fn no_duplicate_items(items: &[EvalItem]) -> Result<(), EvalError> {
    let mut seen = HashSet::new();
    match items.iter().find(|item| !seen.insert(item.item_id.as_str())) {
        Some(twice) => Err(EvalError::Duplicate { what: "item", id: twice.item_id.clone() }),
        None => Ok(()),
    }
}

/// The template of a persona: numbers, and names of places and people, left out.
///
/// "A 25-year-old writer from Paris" and "A 31-year-old writer from Sydney" have the same, and belong to one cluster:
/// half of PersonaGym's 200 personas are such variants, and counting each as independent would narrow every interval.
pub fn persona_template(persona: &str) -> String {
    let is_name = |(place, word): (usize, &str)| place > 0 && word.chars().next().is_some_and(char::is_uppercase);
    let mut parts: Vec<&str> = Vec::new();
    for (place, word) in persona.split_whitespace().enumerate() {
        let core = word.trim_matches(|character: char| !character.is_alphanumeric());
        let part = if core.chars().any(|character| character.is_ascii_digit()) {
            "#"
        } else if is_name((place, core)) {
            "@"
        } else {
            core
        };
        // "New York" is one name.
        if part != "@" || parts.last() != Some(&"@") {
            parts.push(part);
        }
    }
    parts.join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personas_that_differ_in_age_and_place_share_a_template() {
        let writer = persona_template("A 25-year-old writer from Paris who collects vintage cars");
        assert_eq!(writer, persona_template("A 33-year-old writer from New York who collects vintage cars."));
        assert_ne!(writer, persona_template("A 25-year-old writer from Paris who loves hiking"));
    }

    #[test]
    fn a_prompt_that_the_character_cannot_fill_is_refused() {
        let named = Character::from_name("Ada", "", "");
        let error = PromptKind::Persona.render(&named, &SystemPrompt::default()).unwrap_err().to_string();
        assert!(error.contains("`Ada` has no persona"), "{error}");
        let mut both = named;
        both.persona = "A baker".into();
        let prompt = |kind: PromptKind| kind.render(&both, &SystemPrompt::default()).unwrap();
        assert!(prompt(PromptKind::Persona).contains("A baker") && !prompt(PromptKind::Persona).contains("Ada"));
        assert!(!prompt(PromptKind::Profile).contains("A baker") && prompt(PromptKind::Profile).contains("Ada"));
        assert!(prompt(PromptKind::Both).contains("A baker") && prompt(PromptKind::Both).contains("Ada"));
    }

    #[test]
    fn items_are_read_as_they_were_written() {
        let mut item = EvalItem::new("i".into(), "t", &Character::from_name("A", "", ""), String::new(), None, "Why?");
        item.answer = Reply::Answered { text: "So.".into(), cut_off: true };
        let outcome = VerdictOutcome::Unreadable { reason: "prose".into() };
        item.verdicts = vec![Verdict { judge: "j".into(), outcome, reply: "Well".into(), attempts: 3 }];
        let json = serde_json::to_string(&item).unwrap();
        assert_eq!(serde_json::from_str::<EvalItem>(&json).unwrap(), item);
    }
}
