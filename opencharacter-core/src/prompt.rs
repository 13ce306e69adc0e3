use std::sync::{Arc, OnceLock};

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

use crate::{Character, content_hash, hex};

/// A prompt text with `{{ placeholders }}` (Jinja), named and hashed so that rows can say which text made them.
#[derive(Debug, Clone)]
pub struct PromptTemplate {
    name: String,
    source: String,
    /// Made once, shared by clones: parsing takes several times as long as filling in.
    compiled: Arc<OnceLock<Environment<'static>>>,
    hash: Arc<OnceLock<String>>,
}

impl PartialEq for PromptTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.source == other.source
    }
}

impl Eq for PromptTemplate {}

/// A template that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "prompt template `{name}`: {reason}{line}. Copy the built-in with `opencharacter templates --out DIR` and compare"
)]
pub struct PromptError {
    name: String,
    /// The template's line that it is about, where that is known: the reason does not name an unknown variable.
    line: String,
    reason: minijinja::Error,
}

impl PromptTemplate {
    /// A template; its syntax and the names of its variables are checked when it is rendered.
    pub fn new(name: impl Into<String>, source: impl Into<String>) -> Self {
        Self { name: name.into(), source: source.into(), compiled: Arc::default(), hash: Arc::default() }
    }

    /// The template's name: its file name without the ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text with its placeholders.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The first 16 hexadecimal digits of the text's SHA-256.
    pub fn hash(&self) -> String {
        self.hash.get_or_init(|| hex(&content_hash(&[&self.source])[..8])).clone()
    }

    /// The text with `context` filled in, trimmed. An unknown placeholder is an error, never an empty string.
    pub fn render(&self, context: impl Serialize) -> Result<String, PromptError> {
        let fail = |reason: minijinja::Error| {
            let line = reason.line().and_then(|number| self.source.lines().nth(number.checked_sub(1)?));
            let line = line.map_or_else(String::new, |line| format!(", in the line `{}`", line.trim()));
            PromptError { name: self.name.clone(), line, reason }
        };
        let environment = if let Some(environment) = self.compiled.get() {
            environment
        } else {
            let environment = self.compile().map_err(fail)?;
            self.compiled.get_or_init(|| environment)
        };
        let template = environment.get_template(&self.name).map_err(fail)?;
        let text = template.render(Serde(context)).map_err(fail)?;
        Ok(text.trim().to_owned())
    }

    fn compile(&self) -> Result<Environment<'static>, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.add_template_owned(self.name.clone(), self.source.clone())?;
        Ok(environment)
    }
}

/// The system prompt that makes a model play a character (OpenCharacter, section 3.3): who it is, `# Persona`,
/// `# Character Profile`, the instruction to stay in character, and the one to be helpful and harmless.
///
/// Synthesis, training, evaluation and chat all use this one, so that a model is tested with what it was trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemPrompt(PromptTemplate);

impl Default for SystemPrompt {
    fn default() -> Self {
        Self(PromptTemplate::new("system", include_str!("../templates/system.jinja")))
    }
}

impl SystemPrompt {
    /// A prompt of one's own; `persona`, `profile` (both text, perhaps empty) and `name` are its placeholders.
    pub fn new(source: impl Into<String>) -> Self {
        Self(PromptTemplate::new("system", source))
    }

    /// The template behind it.
    pub fn template(&self) -> &PromptTemplate {
        &self.0
    }

    /// The system prompt of `character`.
    pub fn render(&self, character: &Character) -> Result<String, PromptError> {
        #[derive(Serialize)]
        struct Placeholders<'a> {
            persona: &'a str,
            profile: &'a str,
            name: &'a str,
        }
        self.0.render(Placeholders {
            persona: &character.persona,
            profile: &character.profile.to_text(),
            name: &character.profile.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Profile, short_id};

    #[test]
    fn system_prompt_has_the_papers_parts_in_order() {
        let character = Character {
            character_id: short_id("character", &["x"]),
            persona: "A lighthouse keeper who hates the sea".into(),
            profile: Profile { name: "Ada Holm".into(), age: "52".into(), ..Profile::default() },
            source: String::new(),
            license: String::new(),
            provenance: None,
        };
        let text = SystemPrompt::default().render(&character).unwrap();
        let order: Vec<usize> =
            ["# Persona", "A lighthouse keeper", "# Character Profile", "Name: Ada Holm", "helpful"]
                .iter()
                .map(|part| text.find(part).unwrap_or_else(|| panic!("`{part}` is missing in {text}")))
                .collect();
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn a_name_alone_is_enough() {
        let text = SystemPrompt::default().render(&Character::from_name("John Coffey", "", "")).unwrap();
        assert!(text.contains("John Coffey") && !text.contains("# Persona"), "{text}");
    }

    #[test]
    fn an_unknown_placeholder_is_an_error() {
        let error = PromptTemplate::new("profile", "{{ persnoa }}")
            .render(std::collections::BTreeMap::<String, String>::new())
            .unwrap_err();
        assert!(error.to_string().contains("`profile`") && error.to_string().contains("{{ persnoa }}"), "{error}");
    }
}
