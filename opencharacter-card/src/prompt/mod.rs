//! The prompt of a chat, as front ends make it of a card.

mod builder;
mod fit;

use std::fmt;

use opencharacter_core::{Message, Role};
use serde::Serialize;

use crate::{
    Card, DrawKey, LorePlace, LoreTrace, Lorebook, Macros,
    lore::{LoreInput, activate},
};

use builder::Builder;
use fit::fit;

/// What a prompt is made of.
#[derive(Clone, Copy)]
pub struct PromptRequest<'a> {
    /// The character.
    pub card: &'a Card,
    /// What the user is called.
    pub user: &'a str,
    /// The name of the user's icon, for lore that belongs to one.
    pub user_icon: Option<&'a str>,
    /// The chat so far, the greeting first, macros not expanded. Where it ends in an assistant message, that is to be
    /// continued.
    pub history: &'a [Message],
    /// Number of the greeting that the chat began with ([`Card::greetings`]).
    pub greeting: Option<usize>,
    /// The user's own lorebooks; the card's comes by itself.
    pub books: &'a [&'a Lorebook],
    /// The user's system prompt; a card's own replaces it and may quote it as `{{original}}`.
    pub system_prompt: &'a str,
    /// The user's text after the history, by the same rule.
    pub post_history_instructions: &'a str,
    /// How many tokens the prompt may have, the answer not counted.
    pub context_tokens: usize,
    /// What random macros are drawn with.
    pub draw: DrawKey<'a>,
    /// How many tokens a text has.
    pub count_tokens: &'a dyn Fn(&str) -> usize,
}

/// A prompt, and how it came about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prompt {
    /// What is said, in order.
    pub parts: Vec<PromptPart>,
    /// What had no room.
    pub left_out: Vec<LeftOutPart>,
    /// Every lorebook entry and what became of it.
    pub lore: Vec<LoreTrace>,
    /// Tokens of all parts.
    pub tokens: usize,
    /// False when even what is never left out has more tokens than the context.
    pub fits: bool,
}

/// One part of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptPart {
    /// Who says it.
    pub role: Role,
    /// Where it comes from.
    pub section: Section,
    /// What is said, macros expanded.
    pub content: String,
    /// Its tokens.
    pub tokens: usize,
}

/// A part that had no room.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeftOutPart {
    /// What it was.
    pub section: Section,
    /// Its tokens.
    pub tokens: usize,
}

/// Where a part of a prompt comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// The user's system prompt, or the card's.
    SystemPrompt,
    /// A lorebook entry.
    Lore(LorePlace),
    /// The card's description.
    Description,
    /// The card's personality.
    Personality,
    /// The card's scenario.
    Scenario,
    /// A message of an example dialogue, numbered from 0.
    Example(usize),
    /// The mark between examples and the chat.
    ChatStart,
    /// A message of the chat, numbered from 0.
    History(usize),
    /// `extensions.depth_prompt`: the card's reminder within the history.
    DepthPrompt,
    /// The user's text after the history, or the card's.
    PostHistory,
}

impl fmt::Display for Section {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SystemPrompt => formatter.write_str("system prompt"),
            Self::Lore(place) => write!(formatter, "lore {place}"),
            Self::Description => formatter.write_str("description"),
            Self::Personality => formatter.write_str("personality"),
            Self::Scenario => formatter.write_str("scenario"),
            Self::Example(number) => write!(formatter, "example dialogue {number}"),
            Self::ChatStart => formatter.write_str("start of the chat"),
            Self::History(index) => write!(formatter, "message {index}"),
            Self::DepthPrompt => formatter.write_str("depth prompt"),
            Self::PostHistory => formatter.write_str("post-history instructions"),
        }
    }
}

impl Prompt {
    /// The prompt as messages; system parts that follow each other are one message.
    pub fn messages(&self) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        for part in &self.parts {
            match messages.last_mut() {
                Some(last) if last.role == Role::System && part.role == Role::System => {
                    last.content.push_str("\n\n");
                    last.content.push_str(&part.content);
                }
                _ => messages.push(Message { role: part.role, content: part.content.clone() }),
            }
        }
        messages
    }
}

/// Builds the prompt for a character's next message, as front ends do: system prompt, lore and the character, example
/// dialogues, the chat with lore between its messages, post-history instructions.
///
/// Over `context_tokens`, what goes first is lore that says so (`@@ignore_on_max_context`), then examples from the last,
/// then messages from the oldest (the newest stays), then other lore, the lowest priority first.
pub fn build_prompt(request: &PromptRequest<'_>) -> Prompt {
    let macros =
        Macros { character: request.card.display_name(), user: request.user, original: None, draw: request.draw };
    let mut books: Vec<&Lorebook> = request.card.character_book.iter().collect();
    books.extend(request.books);
    let lore = activate(&LoreInput {
        books,
        history: request.history,
        macros,
        greeting: request.greeting,
        user_icon: request.user_icon,
        context_tokens: request.context_tokens,
        count_tokens: request.count_tokens,
    });
    let drafts = Builder::new(request, macros, &lore).drafts();
    fit(drafts, lore, request.context_tokens)
}
