//! What a character's model is asked in a chat.

use opencharacter_card::{Audience, Card, DrawKey, Macros, Prompt, PromptRequest, build_prompt};
use opencharacter_core::{Message, Role, SystemPrompt};

use crate::{error::ApiError, model::ServedModel};

/// A chat with a character.
pub(crate) struct Chat<'a> {
    pub(crate) card: &'a Card,
    /// What the user is called.
    pub(crate) user: Option<&'a str>,
    /// User and assistant messages, macros not expanded.
    pub(crate) history: Vec<Message>,
    /// Number of the greeting that the history begins with.
    pub(crate) greeting: Option<usize>,
    /// What the client adds to the system prompt.
    pub(crate) system: String,
    /// What the messages said that had no room any more.
    pub(crate) summary: &'a str,
    /// The chat's id.
    pub(crate) id: &'a str,
    pub(crate) seed: u64,
    /// Tokens that the answer may have.
    pub(crate) answer_tokens: usize,
}

/// What front ends tell a model that is to play a card.
const PLAY: &str = "Write {{char}}'s next reply in a fictional chat between {{char}} and {{user}}.";

fn name(user: Option<&str>) -> &str {
    user.map(str::trim).filter(|name| !name.is_empty()).unwrap_or("User")
}

/// A card's text as the user sees it.
pub(crate) fn shown(card: &Card, user: Option<&str>, text: &str) -> String {
    let draw = DrawKey::default();
    let macros = Macros { character: card.display_name(), user: name(user), original: None, draw };
    macros.expand(text, "greeting", Audience::Display)
}

/// The prompt for the character's next message.
///
/// Of a character that was made here the model hears the same system prompt as in training; a stranger's card speaks for
/// itself. A chat that does not begin with the character's words gets its greeting.
pub(crate) fn prompt_of(mut chat: Chat<'_>, model: &dyn ServedModel) -> Result<Prompt, ApiError> {
    let begins = chat.history.first().is_some_and(|message| message.role == Role::Assistant);
    if let Some(greeting) = chat.card.greetings().next().filter(|greeting| !greeting.is_empty() && !begins) {
        chat.history.insert(0, Message::assistant(greeting));
        chat.greeting = Some(0);
    }
    let mut card = chat.card.clone();
    let mut system = PLAY.to_owned();
    if card.extensions.contains_key("opencharacter") {
        system = SystemPrompt::default()
            .render(&card.to_character())
            .map_err(|error| ApiError::internal(format!("the system prompt cannot be made: {error}")))?;
        // It holds both.
        card.description.clear();
        card.personality.clear();
    }
    for (title, text) in [("", chat.system.as_str()), ("What happened before:\n", chat.summary)] {
        if !text.trim().is_empty() {
            system = format!("{system}\n\n{title}{text}");
        }
    }
    let context = model.context_tokens();
    let prompt = build_prompt(&PromptRequest {
        card: &card,
        user: name(chat.user),
        user_icon: None,
        history: &chat.history,
        greeting: chat.greeting,
        books: &[],
        system_prompt: &system,
        post_history_instructions: "",
        // The template's own words around each message come on top.
        context_tokens: context.saturating_sub(chat.answer_tokens.min(context / 2) + 8 * (chat.history.len() + 2)),
        draw: DrawKey { seed: chat.seed, chat: chat.id, turn: chat.history.len() },
        count_tokens: &|text| model.encode(text).len(),
    });
    if prompt.fits {
        Ok(prompt)
    } else {
        let message = format!(
            "the character and the last message have {} tokens, and the model's context holds {context}; shorten them",
            prompt.tokens
        );
        Err(ApiError::field("messages", message))
    }
}
