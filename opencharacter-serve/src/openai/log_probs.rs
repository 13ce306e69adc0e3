//! Log-probabilities in the two shapes that clients know.

use opencharacter_core::{LikelyToken, TokenLogProb};
use serde_json::{Value, json};

fn likely(token: &LikelyToken) -> Value {
    json!({"token": token.text, "bytes": token.bytes, "logprob": token.log_prob})
}

fn entry(token: &TokenLogProb) -> Value {
    let mut entry = likely(&token.token);
    entry["top_logprobs"] = token.top.iter().map(likely).collect();
    entry
}

/// As chat completions have them.
pub(super) fn chat(tokens: &[TokenLogProb]) -> Value {
    json!({"content": tokens.iter().map(entry).collect::<Vec<_>>(), "refusal": null})
}

/// As plain completions have them.
pub(super) fn text(tokens: &[TokenLogProb]) -> Value {
    let mut offset = 0;
    let offsets: Vec<usize> = tokens
        .iter()
        .map(|token| {
            let start = offset;
            offset += token.token.text.chars().count();
            start
        })
        .collect();
    let top: Vec<Value> = tokens
        .iter()
        .map(|token| Value::Object(token.top.iter().map(|one| (one.text.clone(), json!(one.log_prob))).collect()))
        .collect();
    json!({
        "tokens": tokens.iter().map(|token| token.token.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.token.log_prob).collect::<Vec<_>>(),
        "top_logprobs": top,
        "text_offset": offsets,
    })
}
