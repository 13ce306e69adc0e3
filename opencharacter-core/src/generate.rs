use std::{future::Future, pin::Pin};

use serde::{Deserialize, Serialize};

use crate::Message;

/// A boxed future, so that [`Generate`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Receives text as it is generated, in order, in pieces that never cut a character in two.
pub type TextSink = Box<dyn FnMut(&str) + Send>;

/// How tokens are drawn. The filters apply in this order: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 takes the likeliest token always.
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of likeliest tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below this share of the likeliest token's probability; 0 keeps all.
    pub min_p: f32,
    /// Divide positive and multiply negative logits of tokens already generated; 1 changes nothing.
    pub repetition_penalty: f32,
    /// End the answer after this many tokens.
    pub max_tokens: usize,
    /// End the answer before any of these strings; none of it is returned.
    pub stop: Vec<String>,
    /// Same request, same seed, same model: same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_tokens: 256,
            stop: Vec::new(),
            seed: 0,
        }
    }
}

/// A conversation to be continued by one assistant message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// The conversation so far; the last message is usually the user's. One of the assistant is the beginning of the
    /// answer, which goes on behind it.
    pub messages: Vec<Message>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// A JSON schema that the answer must satisfy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// Report each token's log-probability, and as many of the likeliest tokens in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_probs: Option<usize>,
}

impl GenerateRequest {
    /// Finds what no model could answer.
    ///
    /// # Errors
    /// [`GenerateError::Refused`]: an empty conversation.
    pub fn check(&self) -> Result<(), GenerateError> {
        if self.messages.is_empty() {
            let reason = "the conversation is empty; give at least one message".into();
            return Err(GenerateError::Refused { reason });
        }
        Ok(())
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended its turn, a stop string appeared or the schema was complete.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The text, without stop string or end-of-turn token.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens of the rendered conversation.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values came from the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, the end-of-turn token included.
    pub completion_tokens: usize,
    /// One entry per token of the text, where the request asked for them; the token that a stop string cut is the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_probs: Vec<TokenLogProb>,
}

/// How likely the model found a token that it generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogProb {
    /// The token generated.
    #[serde(flatten)]
    pub token: LikelyToken,
    /// The likeliest tokens in its place, likeliest first.
    pub top: Vec<LikelyToken>,
}

/// A token under the model's own distribution: before temperature, penalties, filters and schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LikelyToken {
    /// Its text; a token can be part of a character, which shows as U+FFFD.
    pub text: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its natural-log probability.
    pub log_prob: f32,
}

/// A conversation whose assistant messages are to be scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRequest {
    /// The conversation; must hold at least one assistant message.
    pub messages: Vec<Message>,
}

/// How likely a conversation's assistant messages are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Tokens scored: those of all assistant messages, each message's end-of-turn token included.
    pub tokens: usize,
    /// Sum of their natural-log probabilities (at most 0).
    pub log_prob: f64,
    /// Tokens of the whole conversation.
    pub prompt_tokens: usize,
}

impl Score {
    /// Mean negative log-likelihood per token, in nats.
    pub fn nll(&self) -> f64 {
        -self.log_prob / self.tokens.max(1) as f64
    }
}

/// Why a call brought no result. A failure is never an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// The model could not be reached or broke; the same call may succeed later.
    #[error("the model `{model}` is not available: {reason}")]
    Unavailable {
        /// Fingerprint or address.
        model: String,
        /// What happened.
        reason: String,
    },
    /// This call brought no answer however often it was tried, while the model answers others.
    #[error("a call of the model `{model}` failed: {reason}")]
    Failed {
        /// Fingerprint or address.
        model: String,
        /// What happened last.
        reason: String,
    },
    /// This request can never succeed as it is.
    #[error("the request was refused: {reason}")]
    Refused {
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The model cannot do this kind of call (a remote endpoint that gives no log-probabilities).
    #[error("the model `{model}` cannot do this: {what}")]
    Unsupported {
        /// Fingerprint or address.
        model: String,
        /// What was asked.
        what: String,
    },
}

/// The one door to a language model, embedded or remote. Dropping a future cancels its call.
pub trait Generate: Send + Sync {
    /// Identifies model, weights and adapter: equal fingerprints answer equal requests equally.
    fn fingerprint(&self) -> &str;

    /// How many calls are worth keeping in flight.
    fn concurrency(&self) -> usize;

    /// One answer.
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>>;

    /// One answer, its text passed to `sink` as it appears.
    fn stream(&self, request: GenerateRequest, sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>>;

    /// The likelihood of given answers.
    fn score(&self, request: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>>;
}
