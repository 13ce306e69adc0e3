//! A "model" of some lines: its text is drawn from the conversation and the seed, a token is a word.

use opencharacter_core::KeyedRandom;
use serde_json::{Map, Value, json};

use super::reply::Answer;

const WORDS: [&str; 24] = [
    "lamp", "harbour", "winter", "bread", "letter", "garden", "engine", "river", "sister", "coat", "market", "window",
    "ladder", "copper", "morning", "storm", "captain", "island", "candle", "brother", "anchor", "village", "mirror",
    "salt",
];

/// The answer to a chat completion's body: keeps to `temperature`, `seed`, `max_tokens`, `stop` and a schema of the
/// plainer kind (`object`, `array`, `string` of an `enum`, `integer`, `boolean`).
pub(super) fn answer(body: &Value) -> Answer {
    let messages = body["messages"].to_string();
    // The likeliest answer is the same whatever the seed.
    let seed = if body["temperature"].as_f64() == Some(0.0) { 0 } else { body["seed"].as_u64().unwrap_or(0) };
    let mut random = KeyedRandom::new(seed, &["tiny model", &messages]);
    let text = if let Some(schema) = body.pointer("/response_format/json_schema/schema") {
        instance(schema, &mut random).to_string()
    } else {
        let count = 40 + random.below(20);
        (0..count).map(|_| WORDS[random.below(WORDS.len())]).collect::<Vec<_>>().join(" ")
    };
    let (text, finish) = limited(text, body);
    let prompt_tokens = messages.split_whitespace().count();
    Answer { prompt_tokens, ..Answer::of(text, Some(finish)) }
}

/// The text up to the first stop string and the last token that is allowed.
fn limited(mut text: String, body: &Value) -> (String, &'static str) {
    let most = body["max_tokens"].as_u64().unwrap_or(u64::MAX) as usize;
    let spaces = text.match_indices(' ').map(|(place, _)| place);
    let cut = spaces.clone().nth(most.saturating_sub(1));
    let stops = body["stop"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let stopped = stops.filter_map(|stop| text.find(stop)).min();
    match (cut, stopped) {
        (Some(cut), stopped) if stopped.is_none_or(|stopped| stopped >= cut) => {
            text.truncate(cut);
            (text, "length")
        }
        (_, Some(stopped)) => {
            text.truncate(stopped);
            (text, "stop")
        }
        (_, None) => (text, "stop"),
    }
}

/// A value that satisfies a schema.
fn instance(schema: &Value, random: &mut KeyedRandom) -> Value {
    if let Some(choices) = schema["enum"].as_array().filter(|choices| !choices.is_empty()) {
        return choices[random.below(choices.len())].clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            let fields = properties.iter().map(|(name, schema)| (name.clone(), instance(schema, random)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Some("array") => {
            let count = schema["minItems"].as_u64().unwrap_or(0);
            Value::Array((0..count).map(|_| instance(&schema["items"], random)).collect())
        }
        Some("integer") => {
            let least = schema["minimum"].as_i64().unwrap_or(0);
            let most = schema["maximum"].as_i64().unwrap_or(least + 9);
            json!(least + random.below((most - least).max(0) as usize + 1) as i64)
        }
        Some("boolean") => json!(random.below(2) == 1),
        Some("string") => json!(WORDS[random.below(WORDS.len())]),
        _ => Value::Null,
    }
}
