use std::collections::HashMap;

use opencharacter_core::{Character, Dialogue, Message, Role, SystemPrompt, content_hash, hex};
use opencharacter_nn::Model;

use crate::{ProfileDropout, TrainError};

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

/// What became of a set of dialogues or pairs.
#[derive(Debug, Clone, Default)]
pub struct Examples<T = Example> {
    /// In the order of the rows.
    pub examples: Vec<T>,
    /// Those left out, never in silence.
    pub skipped: Vec<SkippedExample>,
}

impl<T> Examples<T> {
    /// What `build` makes of each row, or why it makes nothing of it.
    pub(crate) fn of<R>(
        rows: &[R],
        id: impl Fn(&R) -> &str,
        mut build: impl FnMut(&R) -> Result<Result<T, String>, TrainError>,
    ) -> Result<Self, TrainError> {
        let mut result = Self { examples: Vec::with_capacity(rows.len()), skipped: Vec::new() };
        for row in rows {
            match build(row)? {
                Ok(example) => result.examples.push(example),
                Err(reason) => result.skipped.push(SkippedExample { id: id(row).to_owned(), reason }),
            }
        }
        Ok(result)
    }
}

/// How rows become examples.
#[derive(Debug, Clone, Copy)]
pub struct ExampleOptions<'a> {
    /// The system prompt that a character gets.
    pub system: &'a SystemPrompt,
    /// Longer examples are left out.
    pub max_tokens: usize,
    /// How often a character's prompt lacks a part.
    pub profile_dropout: ProfileDropout,
    /// Decides whose.
    pub seed: u64,
}

/// Turns dialogues into examples: the system prompt from the dialogue's character (unless the dialogue brings its own
/// system message), then the turns as the model's chat template writes them.
///
/// A dialogue of more than `max_tokens` tokens, or more than the model's context, is left out and named: cutting it
/// would teach an answer without an end.
pub fn build_examples(
    model: &Model,
    dialogues: &[Dialogue],
    characters: &[Character],
    options: ExampleOptions<'_>,
) -> Result<Examples, TrainError> {
    let builder = ExampleBuilder::new(model, characters, options);
    Examples::of(
        dialogues,
        |dialogue| &dialogue.dialogue_id,
        |dialogue| builder.build(&dialogue.dialogue_id, &dialogue.character_id, dialogue.messages.clone()),
    )
}

/// Makes examples for one model and cast.
pub(crate) struct ExampleBuilder<'a> {
    model: &'a Model,
    characters: HashMap<&'a str, &'a Character>,
    options: ExampleOptions<'a>,
}

impl<'a> ExampleBuilder<'a> {
    pub(crate) fn new(model: &'a Model, characters: &'a [Character], options: ExampleOptions<'a>) -> Self {
        let characters = characters.iter().map(|character| (character.character_id.as_str(), character)).collect();
        Self { model, characters, options }
    }

    /// The outer error ends the run, the inner one leaves out this row.
    pub(crate) fn build(
        &self,
        id: &str,
        character_id: &str,
        mut messages: Vec<Message>,
    ) -> Result<Result<Example, String>, TrainError> {
        let brings_system = messages.first().is_some_and(|message| message.role == Role::System);
        if !brings_system && !character_id.is_empty() {
            let Some(character) = self.characters.get(character_id) else {
                return Ok(Err(format!("its character `{character_id}` is not in the characters file")));
            };
            let seen = self.options.profile_dropout.apply(character, self.options.seed, id);
            messages.insert(0, Message::system(self.options.system.render(&seen)?));
        }
        if !messages.iter().any(|message| message.role == Role::Assistant) {
            return Ok(Err("it holds no assistant message".into()));
        }
        let conversation = match self.model.template.encode_conversation(&messages, &self.model.tokenizer) {
            Ok(conversation) => conversation,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let limit = self.options.max_tokens.min(self.model.decoder.config().max_position_embeddings);
        if conversation.tokens.len() > limit {
            return Ok(Err(format!("{} tokens are more than the limit of {limit}", conversation.tokens.len())));
        }
        let example = Example { id: id.to_owned(), tokens: conversation.tokens, trained: conversation.trained };
        Ok(if example.trained_tokens() == 0 { Err("no token of it is trained".into()) } else { Ok(example) })
    }
}
