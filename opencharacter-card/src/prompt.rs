use std::fmt;

use opencharacter_core::{Message, Role};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Audience, Card, DrawKey, LeftOut, LorePlace, LoreTrace, Lorebook, Macros, Outcome,
    decorators::UiPrompt,
    examples::split_examples,
    lore::{Activated, Lore, LoreInput, Rank, activate},
};

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

/// Before each example dialogue, and before the chat where there were examples: the marks that front ends set.
const EXAMPLE_MARK: &str = "[Example Chat]";
const CHAT_MARK: &str = "[Start a new Chat]";

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
        default_budget: request.context_tokens / 4,
        count_tokens: request.count_tokens,
    });
    let mut builder = Builder { request, macros, lore: &lore, parts: Vec::new() };
    builder.character();
    builder.examples();
    builder.history();
    let parts = builder.parts;
    fit(parts, lore, request.context_tokens)
}

/// A part with what decides when it goes.
struct Draft {
    part: PromptPart,
    /// Its place in [`Lore::inserted`].
    lore: Option<usize>,
}

struct Builder<'a> {
    request: &'a PromptRequest<'a>,
    macros: Macros<'a>,
    lore: &'a Lore,
    parts: Vec<Draft>,
}

impl Builder<'_> {
    fn push(&mut self, role: Role, section: Section, content: String) {
        if content.trim().is_empty() {
            return;
        }
        let tokens = (self.request.count_tokens)(&content);
        self.parts.push(Draft { part: PromptPart { role, section, content, tokens }, lore: None });
    }

    fn push_lore(&mut self, wanted: impl Fn(&Activated) -> bool) {
        for (index, one) in self.lore.inserted.iter().enumerate().filter(|(_, one)| wanted(one)) {
            let part = PromptPart {
                role: one.role,
                section: Section::Lore(one.place),
                content: one.content.clone(),
                tokens: one.tokens,
            };
            self.parts.push(Draft { part, lore: Some(index) });
        }
    }

    fn lore_at(&mut self, place: LorePlace) {
        self.push_lore(|one| one.place == place);
    }

    /// A text that the card may replace.
    fn replaced(&self, own: &str, users: &str, place: &str, disable: UiPrompt) -> String {
        let users = if self.lore.disables.contains(&disable) { "" } else { users };
        let users = self.macros.expand(users, place, Audience::Prompt);
        if own.trim().is_empty() {
            return users;
        }
        Macros { original: Some(&users), ..self.macros }.expand(own, place, Audience::Prompt)
    }

    fn character(&mut self) {
        let card = self.request.card;
        let system = self.replaced(&card.system_prompt, self.request.system_prompt, "system_prompt", UiPrompt::System);
        self.push(Role::System, Section::SystemPrompt, system);
        self.lore_at(LorePlace::BeforeCharacter);
        self.lore_at(LorePlace::BeforeDescription);
        let expand = |text: &str, place| self.macros.expand(text, place, Audience::Prompt);
        let labelled = |label: &str, text: String| {
            if text.trim().is_empty() { text } else { format!("{label}: {text}") }
        };
        let description = expand(&card.description, "description");
        let personality =
            labelled(&format!("{}'s personality", self.macros.character), expand(&card.personality, "personality"));
        let scenario = labelled("Scenario", expand(&card.scenario, "scenario"));
        self.push(Role::System, Section::Description, description);
        self.lore_at(LorePlace::AfterDescription);
        self.push(Role::System, Section::Personality, personality);
        self.lore_at(LorePlace::Personality);
        self.push(Role::System, Section::Scenario, scenario);
        self.lore_at(LorePlace::Scenario);
        self.lore_at(LorePlace::AfterCharacter);
    }

    fn examples(&mut self) {
        self.lore_at(LorePlace::BeforeExamples);
        let text = self.macros.expand(&self.request.card.mes_example, "mes_example", Audience::Prompt);
        let blocks = split_examples(&text, self.macros.character, self.macros.user);
        let any = !blocks.is_empty();
        for (number, block) in blocks.into_iter().enumerate() {
            self.push(Role::System, Section::Example(number), EXAMPLE_MARK.into());
            for Message { role, content } in block {
                self.push(role, Section::Example(number), content);
            }
        }
        self.lore_at(LorePlace::AfterExamples);
        if any {
            self.push(Role::System, Section::ChatStart, CHAT_MARK.into());
        }
    }

    fn history(&mut self) {
        let history = self.request.history;
        // What goes to the very end goes before a message that is to be continued.
        let continued = usize::from(history.last().is_some_and(|last| last.role == Role::Assistant));
        let end = history.len() - continued;
        let depth_prompt = DepthPrompt::of(self.request.card);
        for index in 0..=history.len() {
            if index <= end {
                self.push_lore(|one| match one.place {
                    LorePlace::Depth(depth) => !is_prefill(one) && end.saturating_sub(depth) == index,
                    LorePlace::ReverseDepth(depth) => depth.min(end) == index,
                    _ => false,
                });
                if let Some(prompt) = depth_prompt.as_ref().filter(|prompt| end.saturating_sub(prompt.depth) == index) {
                    let text = self.macros.expand(prompt.text, "depth_prompt", Audience::Prompt);
                    self.push(prompt.role, Section::DepthPrompt, text);
                }
            }
            if index == end {
                let own = &self.request.card.post_history_instructions;
                let users = self.request.post_history_instructions;
                let text = self.replaced(own, users, "post_history_instructions", UiPrompt::PostHistory);
                self.push(Role::System, Section::PostHistory, text);
                self.push_lore(is_prefill);
            }
            if let Some(message) = history.get(index) {
                let text = self.macros.expand_message(&message.content, index, Audience::Prompt);
                self.push(message.role, Section::History(index), text);
            }
        }
    }
}

/// Lore that the character's answer begins with (V3: `@@depth 0` with `@@role assistant`).
fn is_prefill(one: &Activated) -> bool {
    one.place == LorePlace::Depth(0) && one.role == Role::Assistant
}

/// `extensions.depth_prompt`, as `SillyTavern` and Chub write it.
struct DepthPrompt<'a> {
    text: &'a str,
    depth: usize,
    role: Role,
}

impl<'a> DepthPrompt<'a> {
    fn of(card: &'a Card) -> Option<Self> {
        let found = card.extensions.get("depth_prompt")?;
        let text = found.get("prompt")?.as_str().filter(|text| !text.trim().is_empty())?;
        let depth = found.get("depth").and_then(Value::as_f64).unwrap_or(4.0).max(0.0) as usize;
        let role = match found.get("role").and_then(Value::as_str) {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            _ => Role::System,
        };
        Some(Self { text, depth, role })
    }
}

/// Leaves out what has no room.
fn fit(parts: Vec<Draft>, mut lore: Lore, context_tokens: usize) -> Prompt {
    let mut tokens: usize = parts.iter().map(|draft| draft.part.tokens).sum();
    let mut goes = vec![false; parts.len()];
    for group in in_order_of_leaving(&parts, &lore) {
        if tokens <= context_tokens {
            break;
        }
        for index in group {
            tokens -= parts.get(index).map_or(0, |draft| draft.part.tokens);
            if let Some(mark) = goes.get_mut(index) {
                *mark = true;
            }
        }
    }
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for (draft, goes) in parts.into_iter().zip(goes) {
        if !goes {
            kept.push(draft.part);
            continue;
        }
        let line = draft.lore.and_then(|index| lore.inserted.get(index)).map(|one| one.trace);
        if let Some(line) = line.and_then(|line| lore.trace.get_mut(line)) {
            line.outcome = Outcome::LeftOut { because: LeftOut::Context };
        }
        left_out.push(LeftOutPart { section: draft.part.section, tokens: draft.part.tokens });
    }
    Prompt { parts: kept, left_out, lore: lore.trace, tokens, fits: tokens <= context_tokens }
}

/// Parts that may go, in groups that go together, the first to go first.
fn in_order_of_leaving(parts: &[Draft], lore: &Lore) -> Vec<Vec<usize>> {
    let rank = |index: &usize| {
        let lore_index = parts.get(*index).and_then(|draft| draft.lore)?;
        lore.inserted.get(lore_index).map(|one| one.rank)
    };
    let mut by_rank: Vec<usize> = (0..parts.len()).filter(|index| rank(index).is_some()).collect();
    by_rank.sort_by(|left, right| rank(left).partial_cmp(&rank(right)).unwrap_or(std::cmp::Ordering::Equal));
    let (first, other): (Vec<usize>, Vec<usize>) =
        by_rank.into_iter().partition(|index| rank(index).is_some_and(Rank::goes_first));
    let mut groups: Vec<Vec<usize>> = first.into_iter().map(|index| vec![index]).collect();
    groups.extend(examples_from_the_last(parts));
    let is_message = |draft: &Draft| matches!(draft.part.section, Section::History(_));
    let mut messages: Vec<usize> =
        parts.iter().enumerate().filter(|(_, draft)| is_message(draft)).map(|(index, _)| index).collect();
    messages.pop();
    groups.extend(messages.into_iter().map(|index| vec![index]));
    groups.extend(other.into_iter().map(|index| vec![index]));
    groups
}

/// Each example dialogue, the last first; the mark before the chat goes with the first one.
fn examples_from_the_last(parts: &[Draft]) -> Vec<Vec<usize>> {
    let mut blocks: Vec<Vec<usize>> = Vec::new();
    for (index, draft) in parts.iter().enumerate() {
        match draft.part.section {
            Section::Example(number) => {
                if blocks.len() <= number {
                    blocks.resize(number + 1, Vec::new());
                }
                if let Some(block) = blocks.get_mut(number) {
                    block.push(index);
                }
            }
            Section::ChatStart => {
                if let Some(first) = blocks.first_mut() {
                    first.push(index);
                }
            }
            _ => {}
        }
    }
    blocks.reverse();
    blocks
}
