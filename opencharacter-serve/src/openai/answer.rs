//! What all answers have, whole or in pieces.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use opencharacter_core::{Completion, FinishReason, GenerateError};
use serde_json::{Value, json};

use super::stream::Events;

/// Under which names a request is answered.
pub(super) struct Heading {
    id: String,
    created: u64,
    /// What the client called the model.
    model: String,
}

impl Heading {
    /// A new one, its id beginning with `kind`.
    pub(super) fn new(kind: &str, model: String) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { id: format!("{kind}-{}", crate::id::random_id()), created, model }
    }

    /// A document, or a chunk of one, of the type that is named `object`.
    pub(super) fn document(&self, object: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

pub(super) fn finish_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

pub(super) fn usage<'c>(completions: impl Iterator<Item = &'c Completion> + Clone) -> Value {
    // The prompt is one, however many answers it gets.
    let prompt = completions.clone().map(|completion| completion.prompt_tokens).max().unwrap_or(0);
    let cached = completions.clone().map(|completion| completion.cached_tokens).min().unwrap_or(0);
    let completion: usize = completions.map(|completion| completion.completion_tokens).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}

/// Waits for the calls, which send events of their own, and ends the events; `last` is the chunk that carries the usage
/// where it is asked for.
pub(super) async fn end_stream<F>(events: &Events, calls: impl Iterator<Item = F>, last: Option<Value>)
where
    F: Future<Output = Result<Completion, GenerateError>>,
{
    match try_join_all(calls).await {
        Ok(completions) => {
            if let Some(mut last) = last {
                last["usage"] = usage(completions.iter());
                events.send(&last);
            }
            events.done();
        }
        Err(error) => events.fail(error.into()),
    }
}
