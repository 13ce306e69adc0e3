use std::collections::HashMap;

use opencharacter_core::{Character, Dialogue, Message, Role, SystemPrompt, content_hash, hex};
use opencharacter_nn::Model;

use crate::TrainError;

/// One dialogue in tokens, each marked as trained or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The dialogue's id.
    pub id: String,
    /// All tokens: system prompt, questions, answers.
    pub tokens: Vec<u32>,
    /// Marks the assistant's tokens, end-of-turn included.
    pub trained: Vec<bool>,
}

impl Example {
    /// How many tokens are trained.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().skip(1).filter(|trained| **trained).count()
    }

    /// A hash of tokens and marks.
    pub(crate) fn hash(&self) -> String {
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let trained: Vec<u8> = self.trained.iter().map(|&trained| u8::from(trained)).collect();
        hex(&content_hash(&[self.id.as_bytes(), &tokens, &trained]))
    }
}

/// A dialogue that is not trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedExample {
    /// The dialogue's id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What became of a set of dialogues.
#[derive(Debug, Clone, Default)]
pub struct Examples {
    /// In the order of the dialogues.
    pub examples: Vec<Example>,
    /// Those left out, never in silence.
    pub skipped: Vec<SkippedExample>,
}

/// Turns dialogues into examples: the system prompt from the dialogue's character (unless the dialogue brings its own
/// system message), then the turns as the model's chat template writes them.
///
/// A dialogue of more than `max_tokens` tokens, or more than the model's context, is left out and named: cutting it would teach an answer without an end.
pub fn build_examples(
    model: &Model,
    dialogues: &[Dialogue],
    characters: &[Character],
    system: &SystemPrompt,
    max_tokens: usize,
) -> Result<Examples, TrainError> {
    let by_id: HashMap<&str, &Character> =
        characters.iter().map(|character| (character.character_id.as_str(), character)).collect();
    let max_tokens = max_tokens.min(model.decoder.config().max_position_embeddings);
    let mut result = Examples::default();
    for dialogue in dialogues {
        match example(model, dialogue, &by_id, system, max_tokens)? {
            Ok(example) => result.examples.push(example),
            Err(reason) => result.skipped.push(SkippedExample { id: dialogue.dialogue_id.clone(), reason }),
        }
    }
    Ok(result)
}

/// The outer error ends the run, the inner one leaves out this dialogue.
fn example(
    model: &Model,
    dialogue: &Dialogue,
    characters: &HashMap<&str, &Character>,
    system: &SystemPrompt,
    max_tokens: usize,
) -> Result<Result<Example, String>, TrainError> {
    let mut messages = Vec::with_capacity(dialogue.messages.len() + 1);
    let brings_system = dialogue.messages.first().is_some_and(|message| message.role == Role::System);
    if !brings_system && !dialogue.character_id.is_empty() {
        let Some(character) = characters.get(dialogue.character_id.as_str()) else {
            return Ok(Err(format!("its character `{}` is not in the characters file", dialogue.character_id)));
        };
        messages.push(Message::system(system.render(character)?));
    }
    messages.extend(dialogue.messages.iter().cloned());
    if !messages.iter().any(|message| message.role == Role::Assistant) {
        return Ok(Err("it holds no assistant message".into()));
    }
    let conversation = match model.template.encode_conversation(&messages, &model.tokenizer) {
        Ok(conversation) => conversation,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if conversation.tokens.len() > max_tokens {
        return Ok(Err(format!("{} tokens are more than the limit of {max_tokens}", conversation.tokens.len())));
    }
    let example =
        Example { id: dialogue.dialogue_id.clone(), tokens: conversation.tokens, trained: conversation.trained };
    Ok(if example.trained_tokens() == 0 { Err("no token of it is trained".into()) } else { Ok(example) })
}
