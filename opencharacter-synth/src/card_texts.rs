//! What a character card needs beside a profile: first messages and example dialogue.

use opencharacter_core::{Character, GenerateRequest, KeyedRandom, Message, Sampling, SystemPrompt};
use opencharacter_ledger::{CallError, LedgeredModel};

use crate::{SynthError, WorkError, answer::AnswerCheck};

/// The stage's name in the ledger.
pub const CARD_TEXTS: &str = "card texts";

/// A character's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CardTexts {
    /// First messages, no two alike.
    pub greetings: Vec<String>,
    /// What somebody asked, and the character's answer.
    pub examples: Vec<(String, String)>,
}

/// Scenes for first messages.
const SCENES: [&str; 3] = [
    "We have never met, and I have just come through the door. Greet me in two or three sentences.",
    "We meet by chance while you are at work. What do you say to me first? Two or three sentences.",
    "It is late and quiet, and I sit down beside you. What do you say first? Two or three sentences.",
];

/// Questions that show how somebody speaks.
const QUESTIONS: [&str; 2] = ["What does an ordinary day look like for you?", "What is it that you care about most?"];

const ATTEMPTS: u32 = 3;

/// Has the character greet and answer, in its own voice and under the system prompt that it is trained with.
///
/// What no attempt brings is left out: a card does without.
///
/// # Errors
/// [`WorkError`]: the model is gone, the ledger fails, or the system prompt cannot be made.
pub async fn write_card_texts(
    character: &Character,
    model: LedgeredModel<'_>,
    seed: u64,
) -> Result<CardTexts, WorkError> {
    let system = SystemPrompt::default().render(character)?;
    let mut texts = CardTexts::default();
    for scene in SCENES {
        if let Some(answer) = said(character, &system, scene, model, seed).await? {
            // Small models go on past what was asked for.
            let greeting = answer.split("\n\n").next().unwrap_or(&answer).trim().to_owned();
            if !texts.greetings.contains(&greeting) {
                texts.greetings.push(greeting);
            }
        }
    }
    for question in QUESTIONS {
        if let Some(answer) = said(character, &system, question, model, seed).await? {
            texts.examples.push((question.to_owned(), answer));
        }
    }
    Ok(texts)
}

async fn said(
    character: &Character,
    system: &str,
    question: &str,
    model: LedgeredModel<'_>,
    seed: u64,
) -> Result<Option<String>, WorkError> {
    let check = AnswerCheck { character, system, question, source_answer: None };
    for attempt in 0..ATTEMPTS {
        let key = [CARD_TEXTS, &character.character_id, question, &attempt.to_string()];
        let sampling = Sampling {
            temperature: 0.8,
            top_p: 0.95,
            min_p: 0.02,
            repetition_penalty: 1.05,
            max_tokens: 160,
            seed: KeyedRandom::new(seed, &key).next_u64(),
            ..Sampling::default()
        };
        let messages = vec![Message::system(system), Message::user(question)];
        let request = GenerateRequest { messages, sampling, schema: None, log_probs: None };
        let answer = model.complete(CARD_TEXTS, &character.character_id, request, |answer| check.judge(answer)).await;
        match answer {
            Ok((text, _)) => return Ok(Some(text)),
            Err(CallError::Rejected { .. }) => {}
            Err(CallError::Ledger(error)) => return Err(SynthError::from(error).into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}
