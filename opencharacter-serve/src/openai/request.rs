//! What clients send. Fields that are not here are ignored: front ends send every sampler they know.

use opencharacter_core::{Message, Role, Sampling};
use serde::Deserialize;
use serde_json::Value;

use crate::{error::ApiError, respond::read_json};

/// The body of `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatRequest {
    pub(crate) model: Option<String>,
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) response_format: Option<ResponseFormat>,
    pub(crate) logprobs: Option<bool>,
    pub(crate) top_logprobs: Option<usize>,
    /// What the user is called, where a character answers.
    pub(crate) user: Option<String>,
    #[serde(flatten)]
    pub(crate) common: Common,
}

/// The body of `POST /v1/completions`.
#[derive(Debug, Deserialize)]
pub(crate) struct TextRequest {
    pub(crate) model: Option<String>,
    pub(crate) prompt: Prompt,
    #[serde(default)]
    pub(crate) echo: Option<bool>,
    pub(crate) logprobs: Option<usize>,
    #[serde(flatten)]
    pub(crate) common: Common,
}

/// One text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Prompt {
    One(String),
    Several(Vec<String>),
}

/// What both have.
#[derive(Debug, Deserialize)]
pub(crate) struct Common {
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<usize>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    stop: Option<Stop>,
    seed: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

/// A message as clients send it.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatMessage {
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// What the answer must be.
#[derive(Debug, Deserialize)]
pub(crate) struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<NamedSchema>,
}

#[derive(Debug, Deserialize)]
struct NamedSchema {
    schema: Option<Value>,
}

/// More answers than this to one request are several requests.
const MOST_ANSWERS: usize = 16;
/// More alternatives per token nobody reads.
pub(crate) const MOST_LOG_PROBS: usize = 20;
/// More stop texts are a mistake.
const MOST_STOPS: usize = 64;

/// How answers are drawn where a request does not say: as `opencharacter chat` does.
pub(crate) fn default_sampling() -> Sampling {
    Sampling { temperature: 0.8, top_p: 0.95, repetition_penalty: 1.05, ..Sampling::default() }
}

impl Common {
    pub(crate) fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether the last event of a stream tells the tokens.
    pub(crate) fn streams_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage) == Some(true)
    }

    /// How many answers are wanted.
    pub(crate) fn answers(&self) -> Result<usize, ApiError> {
        match self.n.unwrap_or(1) {
            count @ 1..=MOST_ANSWERS => Ok(count),
            count => Err(ApiError::field("n", format!("`n` is {count}; expected 1 to {MOST_ANSWERS}"))),
        }
    }

    /// How they are drawn: `answer_tokens` is the longest where nothing is said, `most_tokens` in any case, and `seed` counts
    /// where none is given.
    pub(crate) fn sampling(&self, answer_tokens: usize, most_tokens: usize, seed: u64) -> Result<Sampling, ApiError> {
        let default = default_sampling();
        let range = |name: &'static str, value: Option<f64>, default: f32, low: f64, high: f64| match value {
            None => Ok(default),
            Some(value) if value >= low && value <= high => Ok(value as f32),
            Some(value) => Err(ApiError::field(name, format!("`{name}` is {value}; expected {low} to {high}"))),
        };
        let stop = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text.clone()],
            Some(Stop::Several(texts)) => texts.clone(),
        };
        if stop.len() > MOST_STOPS {
            return Err(ApiError::field("stop", format!("`stop` holds {}; at most {MOST_STOPS}", stop.len())));
        }
        let max_tokens = self.max_completion_tokens.or(self.max_tokens).unwrap_or(answer_tokens);
        if self.max_tokens == Some(0) || max_tokens == 0 {
            return Err(ApiError::field("max_tokens", "`max_tokens` is 0; expected at least 1"));
        }
        Ok(Sampling {
            temperature: range("temperature", self.temperature, default.temperature, 0.0, 2.0)?,
            top_p: range("top_p", self.top_p, default.top_p, 0.0, 1.0)?.max(f32::MIN_POSITIVE),
            // -1 and 0 both mean all of them, depending on whom one asks.
            top_k: self.top_k.and_then(|count| usize::try_from(count).ok()).unwrap_or(default.top_k),
            min_p: range("min_p", self.min_p, default.min_p, 0.0, 1.0)?,
            repetition_penalty: range(
                "repetition_penalty",
                self.repetition_penalty,
                default.repetition_penalty,
                0.1,
                10.0,
            )?,
            max_tokens: max_tokens.min(most_tokens),
            // An empty one would end every answer before it begins.
            stop: stop.into_iter().filter(|text| !text.is_empty()).collect(),
            seed: self.seed.map_or(seed, |seed| seed as u64),
        })
    }
}

impl ChatMessage {
    /// The message's role and text.
    fn read(&self) -> Result<Message, ApiError> {
        let content = match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => {
                let mut text = String::new();
                for part in parts {
                    match (part.kind.as_str(), &part.text) {
                        ("text" | "input_text", Some(piece)) => text.push_str(piece),
                        (kind, _) => {
                            let message = format!("a message holds a part of type `{kind}`; only `text` is understood");
                            return Err(ApiError::field("messages", message));
                        }
                    }
                }
                text
            }
        };
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" | "tool" | "function" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let message = format!("a message's role is `{other}`; expected `system`, `user` or `assistant`");
                return Err(ApiError::field("messages", message));
            }
        };
        Ok(Message { role, content })
    }
}

/// The conversation: messages of one role that follow each other are one, because some templates take no others.
pub(crate) fn conversation(messages: &[ChatMessage]) -> Result<Vec<Message>, ApiError> {
    let mut merged: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        let message = message.read()?;
        match merged.last_mut() {
            Some(last) if last.role == message.role => {
                last.content.push_str("\n\n");
                last.content.push_str(&message.content);
            }
            _ => merged.push(message),
        }
    }
    Ok(merged)
}

impl ResponseFormat {
    /// The schema that the answer must satisfy, if any.
    pub(crate) fn schema(&self) -> Result<Option<Value>, ApiError> {
        let wrong = |message: String| Err(ApiError::field("response_format", message));
        match (self.kind.as_str(), &self.json_schema) {
            ("text", _) => Ok(None),
            ("json_object", _) => Ok(Some(serde_json::json!({"type": "object"}))),
            ("json_schema", Some(NamedSchema { schema: Some(schema) })) => Ok(Some(schema.clone())),
            ("json_schema", _) => wrong("`response_format.json_schema.schema` is missing".into()),
            (other, _) => {
                wrong(format!("`{other}` is no response format; expected `text`, `json_object` or `json_schema`"))
            }
        }
    }
}

/// Reads a request's body as both endpoints do, and checks that what is read is within its bounds: for the property
/// test here and for fuzzing, which have no server.
///
/// # Panics
/// Where a bound is broken.
#[doc(hidden)]
pub fn check_request(body: &[u8]) {
    if let Ok(request) = read_json::<ChatRequest>(body) {
        if let Ok(messages) = conversation(&request.messages) {
            assert!(messages.windows(2).all(|pair| pair[0].role != pair[1].role), "two messages of one role");
        }
        if let Some(format) = &request.response_format {
            let _ = format.schema();
        }
        check_bounds(&request.common);
    }
    if let Ok(request) = read_json::<TextRequest>(body) {
        check_bounds(&request.common);
    }
}

fn check_bounds(common: &Common) {
    let most_tokens = 5;
    if let Ok(sampling) = common.sampling(9, most_tokens, 3) {
        assert!((0.0..=2.0).contains(&sampling.temperature), "temperature {}", sampling.temperature);
        assert!((0.0..=1.0).contains(&sampling.top_p), "top_p {}", sampling.top_p);
        assert!((1..=most_tokens).contains(&sampling.max_tokens), "{} tokens", sampling.max_tokens);
        assert!(sampling.stop.iter().all(|text| !text.is_empty()), "an empty stop");
    }
    if let Ok(count) = common.answers() {
        assert!((1..=MOST_ANSWERS).contains(&count), "{count} answers");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// JSON of the kinds that a request's fields may hold, and of all others.
    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            prop_oneof!["user", "assistant", "system", "json_schema", "text"].prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let name = prop_oneof!["role", "content", "type", "text", "schema", "json_schema", ".{0,4}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    const FIELDS: [&str; 16] = [
        "model",
        "messages",
        "prompt",
        "stream",
        "stream_options",
        "n",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "stop",
        "seed",
        "response_format",
        "logprobs",
    ];

    proptest! {
        /// What is read is within its bounds, and what is not is refused in words; nothing else happens.
        #[test]
        fn any_request_is_read_or_refused(fields in prop::collection::vec((0..FIELDS.len(), anything()), 0..8)) {
            let document = Value::Object(fields.into_iter().map(|(at, value)| (FIELDS[at].to_owned(), value)).collect());
            check_request(document.to_string().as_bytes());
        }
    }
}
