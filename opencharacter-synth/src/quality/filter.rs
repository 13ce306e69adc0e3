//! Dialogues that pass rules, and a judge: the others are left out, each with its reason.

use std::collections::HashMap;

use futures_util::{Stream, StreamExt as _};
use opencharacter_core::{
    Character, Completion, Dialogue, FinishReason, GenerateRequest, KeyedRandom, Message, Role, Sampling,
};
use opencharacter_ledger::{CallError, LedgeredModel};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{AnswerRules, JudgedAnswer, language_of};
use crate::{Sink, Summary, SynthError, Templates, Work, WorkError, Worked, work::refused_or, work_unordered};

/// The stage's name in the ledger and in [`crate::ProgressEvent`]s.
pub const JUDGEMENTS: &str = "judgements";

/// What a dialogue must pass.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterOptions {
    /// For each of its answers.
    pub rules: AnswerRules,
    /// The language of its answers (ISO 639-3), where it can be told; an answer too short to tell passes.
    pub language: Option<String>,
    /// The least mark of a judge, 1 to 5; without it no judge is asked.
    pub least_mark: Option<u8>,
    /// Attempts to get a verdict, each with a seed of its own.
    pub attempts: usize,
    /// How the judge draws tokens; its seed is replaced by each attempt's.
    pub sampling: Sampling,
    /// Decides the attempts' seeds.
    pub seed: u64,
}

impl Default for FilterOptions {
    fn default() -> Self {
        let sampling = Sampling { temperature: 0.3, max_tokens: 200, ..Sampling::default() };
        Self { rules: AnswerRules::default(), language: None, least_mark: None, attempts: 3, sampling, seed: 0 }
    }
}

/// Hands on the dialogues that pass, unchanged and in their order; the others are rejected with the rule that they
/// broke. A dialogue that the judge gave no readable verdict on is rejected as such, and not as a bad one.
///
/// # Errors
/// [`SynthError::Option`] for a mark out of range or no attempts; those of [`work_unordered`].
pub async fn filter_dialogues(
    dialogues: impl Stream<Item = Result<Dialogue, SynthError>>,
    characters: &[Character],
    options: &FilterOptions,
    templates: &Templates,
    work: Work<'_>,
    sink: &mut impl Sink<Dialogue>,
) -> Result<Summary, SynthError> {
    if options.least_mark.is_some_and(|mark| !(1..=5).contains(&mark)) {
        return Err(SynthError::Option { option: "`--least-mark`", reason: "expected 1 to 5".into() });
    }
    if options.attempts == 0 {
        return Err(SynthError::Option { option: "`attempts`", reason: "expected at least 1".into() });
    }
    let by_id = characters.iter().map(|character| (character.character_id.as_str(), character)).collect();
    let filter = Filter { by_id, options, templates };
    let filter = &filter;
    let items = dialogues.map(|dialogue| dialogue.map(|dialogue| (dialogue.dialogue_id.clone(), dialogue)));
    work_unordered(JUDGEMENTS, work, items, sink, |model, _, dialogue| filter.one(model, dialogue)).await
}

struct Filter<'a> {
    by_id: HashMap<&'a str, &'a Character>,
    options: &'a FilterOptions,
    templates: &'a Templates,
}

/// What a judge says.
#[derive(Deserialize)]
struct Verdict {
    reason: String,
    mark: u8,
}

impl Filter<'_> {
    async fn one(&self, model: LedgeredModel<'_>, dialogue: Dialogue) -> Result<Worked<Dialogue>, WorkError> {
        let Some(character) = self.by_id.get(dialogue.character_id.as_str()) else {
            return Ok(Worked::rejected(vec![format!("unknown character: `{}`", dialogue.character_id)]));
        };
        let system = self.templates.system.render(character).map_err(SynthError::from)?;
        if let Some(fault) = self.fault(character, &system, &dialogue) {
            return Ok(Worked::rejected(vec![fault]));
        }
        match self.options.least_mark {
            Some(least) => self.judged(model, character, dialogue, least).await,
            None => Ok(Worked::row(dialogue, Vec::new())),
        }
    }

    /// The first rule that an answer breaks.
    fn fault(&self, character: &Character, system: &str, dialogue: &Dialogue) -> Option<String> {
        let mut question = "";
        for message in &dialogue.messages {
            match message.role {
                Role::System => {}
                Role::User => question = &message.content,
                Role::Assistant => {
                    let judged = JudgedAnswer { character, system, question, answer: &message.content };
                    let fault = self.options.rules.faults(&judged).first().map(ToString::to_string);
                    let fault = fault.or_else(|| self.foreign(&message.content));
                    if fault.is_some() {
                        return fault;
                    }
                }
            }
        }
        None
    }

    fn foreign(&self, answer: &str) -> Option<String> {
        let expected = self.options.language.as_deref()?;
        let found = language_of(answer).filter(|found| found.reliable && found.code != expected)?;
        Some(format!("another language: {}, expected `{expected}`", found.name))
    }

    async fn judged(
        &self,
        model: LedgeredModel<'_>,
        character: &Character,
        dialogue: Dialogue,
        least: u8,
    ) -> Result<Worked<Dialogue>, WorkError> {
        let prompt = self.prompt(character, &dialogue)?;
        let mut reasons = Vec::new();
        for attempt in 0..self.options.attempts {
            let keys = ["judge", &dialogue.dialogue_id, &attempt.to_string()];
            let seed = KeyedRandom::new(self.options.seed, &keys).next_u64();
            let request = GenerateRequest {
                messages: vec![Message::user(prompt.clone())],
                sampling: Sampling { seed, ..self.options.sampling.clone() },
                schema: Some(schema()),
                log_probs: None,
            };
            match model.complete(JUDGEMENTS, &dialogue.dialogue_id, request, verdict).await {
                Ok((verdict, _)) if verdict.mark >= least => return Ok(Worked::row(dialogue, reasons)),
                Ok((verdict, _)) => {
                    reasons.push(format!("judged {}, expected {least} or more: {}", verdict.mark, verdict.reason));
                    return Ok(Worked::rejected(reasons));
                }
                Err(CallError::Rejected { reason, .. }) => reasons.push(reason),
                Err(error) => return refused_or(error.into(), reasons),
            }
        }
        Ok(Worked::rejected(reasons))
    }

    fn prompt(&self, character: &Character, dialogue: &Dialogue) -> Result<String, SynthError> {
        #[derive(Serialize)]
        struct Placeholders<'a> {
            persona: &'a str,
            profile: String,
            name: &'a str,
            messages: Vec<&'a Message>,
        }
        Ok(self.templates.judge.render(Placeholders {
            persona: &character.persona,
            profile: character.profile.to_text(),
            name: &character.profile.name,
            messages: dialogue.messages.iter().filter(|message| message.role != Role::System).collect(),
        })?)
    }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "reason": { "type": "string", "minLength": 1, "maxLength": 300 },
            "mark": { "type": "integer", "minimum": 1, "maximum": 5 },
        },
        "required": ["reason", "mark"],
        "additionalProperties": false,
    })
}

/// The verdict in an answer: the object from its first brace to its last, and nothing guessed.
fn verdict(completion: &Completion) -> Result<Verdict, String> {
    let text = &completion.text;
    let object = text.find('{').zip(text.rfind('}')).filter(|(start, end)| start < end);
    let parsed = object.map(|(start, end)| serde_json::from_str::<Verdict>(&text[start..=end]));
    match (parsed, completion.finish) {
        (Some(Ok(verdict)), _) if (1..=5).contains(&verdict.mark) => Ok(verdict),
        (Some(Ok(verdict)), _) => Err(format!("no verdict: the mark is {}, expected 1 to 5", verdict.mark)),
        (_, FinishReason::Length) => Err("no verdict: the answer was cut off".into()),
        (Some(Err(error)), FinishReason::Stop) => Err(format!("no verdict: {error}")),
        (None, FinishReason::Stop) => Err("no verdict: found no JSON object".into()),
    }
}
