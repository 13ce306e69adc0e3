//! What is served.

use std::sync::Arc;

use opencharacter_card::Card;
use opencharacter_core::{BoxFuture, Completion, Generate, GenerateError, Sampling, TextSink};

/// A model that also continues plain text and shows its tokens.
pub trait ServedModel: Generate {
    /// The tokens of a text, nothing added.
    fn encode(&self, text: &str) -> Vec<u32>;

    /// The text of tokens; what is no token stands for nothing.
    fn decode(&self, tokens: &[u32]) -> String;

    /// Tokens that prompt and answer may have together.
    fn context_tokens(&self) -> usize;

    /// Continues a text without a chat template.
    fn complete(
        &self,
        prompt: &str,
        sampling: Sampling,
        log_probs: Option<usize>,
        sink: Option<TextSink>,
    ) -> BoxFuture<'_, Result<Completion, GenerateError>>;
}

/// What is heard while a character is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A part begins, such as the profile.
    Part(&'static str),
    /// The model is asked; what it said to an earlier question of the same part may not have been good enough.
    Asked,
    /// It says more.
    Piece(String),
}

/// Hears how a character comes to be.
pub type Listener = Arc<dyn Fn(Heard) + Send + Sync>;

/// What the server has others do.
pub trait Workshop: Send + Sync {
    /// A character for a one-line persona: its card, profile and words written by a model; or why none came out, for
    /// the user to read.
    fn invent(&self, persona: String, listener: Listener) -> BoxFuture<'_, Result<Card, String>>;

    /// The first model with a `LoRA` adapter, from the contents of PEFT's `adapter_config.json` and
    /// `adapter_model.safetensors`; or why it does not fit. Takes as long as reading it takes.
    fn adapted(&self, config: &[u8], weights: &[u8]) -> Result<Arc<dyn ServedModel>, String>;
}

/// The models by name, the first one being the one that answers when none is named.
pub(crate) struct Models(Vec<(String, Arc<dyn ServedModel>)>);

impl Models {
    /// `None` where there is no model.
    pub(crate) fn new(models: Vec<(String, Arc<dyn ServedModel>)>) -> Option<Self> {
        (!models.is_empty()).then_some(Self(models))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn first(&self) -> (&str, &Arc<dyn ServedModel>) {
        (&self.0[0].0, &self.0[0].1)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<dyn ServedModel>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, model)| model)
    }
}
