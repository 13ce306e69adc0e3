use std::collections::HashMap;

use opencharacter_core::{Message, Role};
use serde_json::Value;

use crate::{
    Audience, Card, LorePlace, Macros,
    decorators::UiPrompt,
    examples::split_examples,
    lore::{Activated, Lore},
};

use super::{PromptPart, PromptRequest, Section};

/// Before each example dialogue, and before the chat where there were examples: the marks that front ends set.
const EXAMPLE_MARK: &str = "[Example Chat]";
const CHAT_MARK: &str = "[Start a new Chat]";

/// A part with what decides when it goes.
pub(super) struct Draft {
    pub(super) part: PromptPart,
    /// Its place in [`Lore::inserted`].
    pub(super) lore: Option<usize>,
}

pub(super) struct Builder<'a> {
    request: &'a PromptRequest<'a>,
    macros: Macros<'a>,
    lore: &'a Lore,
    parts: Vec<Draft>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(request: &'a PromptRequest<'a>, macros: Macros<'a>, lore: &'a Lore) -> Self {
        Self { request, macros, lore, parts: Vec::new() }
    }

    /// All parts, in order.
    pub(super) fn drafts(mut self) -> Vec<Draft> {
        self.character();
        self.examples();
        self.history();
        self.parts
    }

    fn push(&mut self, role: Role, section: Section, content: String) {
        if content.trim().is_empty() {
            return;
        }
        let tokens = (self.request.count_tokens)(&content);
        self.parts.push(Draft { part: PromptPart { role, section, content, tokens }, lore: None });
    }

    fn push_lore(&mut self, wanted: impl Fn(&Activated) -> bool) {
        for index in (0..self.lore.inserted.len()).filter(|index| self.lore.inserted.get(*index).is_some_and(&wanted)) {
            self.push_one(index);
        }
    }

    /// Adds an entry by its place in [`Lore::inserted`].
    fn push_one(&mut self, index: usize) {
        let Some(one) = self.lore.inserted.get(index) else { return };
        let part = PromptPart {
            role: one.role,
            section: Section::Lore(one.place),
            content: one.content.clone(),
            tokens: one.tokens,
        };
        self.parts.push(Draft { part, lore: Some(index) });
    }

    /// The entries that stand before each message of the history, whose end is before message `end`.
    fn lore_by_message(&self, end: usize) -> HashMap<usize, Vec<usize>> {
        let mut by_message: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, one) in self.lore.inserted.iter().enumerate().filter(|(_, one)| !is_prefill(one)) {
            let message = match one.place {
                LorePlace::Depth(depth) => end.saturating_sub(depth),
                LorePlace::ReverseDepth(depth) => depth.min(end),
                _ => continue,
            };
            by_message.entry(message).or_default().push(index);
        }
        by_message
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
        let lore = self.lore_by_message(end);
        for index in 0..=history.len() {
            for one in lore.get(&index).into_iter().flatten() {
                self.push_one(*one);
            }
            if let Some(prompt) = depth_prompt.as_ref().filter(|prompt| end.saturating_sub(prompt.depth) == index) {
                let text = self.macros.expand(prompt.text, "depth_prompt", Audience::Prompt);
                self.push(prompt.role, Section::DepthPrompt, text);
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
