use std::borrow::Cow;

use opencharacter_core::{Completion, FinishReason, GenerateRequest, LikelyToken, Message, Sampling, TokenLogProb};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{extract, fault::Fault, quirks::Quirks};

/// The body of a request as one endpoint takes it.
#[derive(Debug, Serialize)]
pub(crate) struct Body<'a> {
    model: &'a str,
    /// The request's own wherever they need no more words: a system prompt is most of what is sent.
    messages: Cow<'a, [Message]>,
    /// Everything else.
    #[serde(flatten)]
    pub(crate) fields: Map<String, Value>,
}

impl<'a> Body<'a> {
    pub(crate) fn new(model: &'a str, request: &'a GenerateRequest, repairs: &[Message], quirks: Quirks) -> Self {
        let mut messages = Cow::Borrowed(request.messages.as_slice());
        let mut fields = Map::new();
        if let Some(schema) = &request.schema {
            if quirks.native_schema() {
                let format = json!({ "name": "answer", "strict": true, "schema": schema });
                fields.insert("response_format".into(), json!({ "type": "json_schema", "json_schema": format }));
            } else {
                extract::ask_for_json(messages.to_mut(), schema);
            }
        }
        if !repairs.is_empty() {
            messages.to_mut().extend_from_slice(repairs);
        }
        add_sampling(&mut fields, request, quirks);
        Self { model, messages, fields }
    }
}

/// Only what differs from an endpoint's own default, in the names that most of them know.
fn add_sampling(fields: &mut Map<String, Value>, request: &GenerateRequest, quirks: Quirks) {
    let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, stop, seed } = &request.sampling;
    fields.insert(quirks.max_tokens_name().into(), (*max_tokens).into());
    let mut optional = |name: &'static str, differs: bool, value: Value| {
        if differs && quirks.takes(name) {
            fields.insert(name.into(), value);
        }
    };
    optional("temperature", true, number(*temperature));
    optional("top_p", *top_p < 1.0, number(*top_p));
    optional("seed", true, (seed & 0x7FFF_FFFF).into());
    optional("stop", !stop.is_empty(), json!(stop));
    optional("top_k", *top_k > 0, (*top_k).into());
    optional("min_p", *min_p > 0.0, number(*min_p));
    optional("repetition_penalty", (*repetition_penalty - 1.0).abs() > f32::EPSILON, number(*repetition_penalty));
    optional("logprobs", request.log_probs.is_some(), true.into());
    optional("top_logprobs", request.log_probs.is_some_and(|count| count > 0), json!(request.log_probs));
}

/// The decimal that a person would write: 0.7, not 0.699999988079071.
fn number(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().unwrap_or_else(|_| f64::from(value)))
}

/// A reply, as far as it concerns us.
#[derive(Debug, Deserialize)]
pub(crate) struct Reply {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    message: Option<ReplyMessage>,
    finish_reason: Option<String>,
    logprobs: Option<LogProbs>,
}

#[derive(Debug, Deserialize)]
struct ReplyMessage {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Usage {
    #[serde(default)]
    pub(crate) prompt_tokens: usize,
    #[serde(default)]
    pub(crate) completion_tokens: usize,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct LogProbs {
    content: Option<Vec<TokenEntry>>,
}

#[derive(Debug, Deserialize)]
struct TokenEntry {
    token: String,
    bytes: Option<Vec<u8>>,
    logprob: f32,
    #[serde(default)]
    top_logprobs: Vec<TokenEntry>,
}

impl TokenEntry {
    fn likely(&self) -> LikelyToken {
        let bytes = self.bytes.clone().unwrap_or_else(|| self.token.clone().into_bytes());
        LikelyToken { text: self.token.clone(), bytes, log_prob: self.logprob }
    }
}

impl Usage {
    pub(crate) fn completion(self, text: String, finish: FinishReason, log_probs: Vec<TokenLogProb>) -> Completion {
        Completion {
            text,
            finish,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0),
            completion_tokens: self.completion_tokens,
            log_probs,
        }
    }
}

impl Reply {
    /// A reply's body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(body).map_err(|error| Fault::Malformed(format!("the reply is no JSON: {error}")))
    }

    /// The answer in it.
    pub(crate) fn completion(self) -> Result<Completion, Fault> {
        let malformed = |reason: &str| Fault::Malformed(reason.to_owned());
        let choice = self.choices.into_iter().next().ok_or_else(|| malformed("the reply holds no choice"))?;
        let finish = finish(choice.finish_reason.as_deref())?;
        let message = choice.message.ok_or_else(|| malformed("the reply holds no message"))?;
        if let Some(refusal) = message.refusal.filter(|text| !text.is_empty()) {
            return Err(Fault::Rejected { status: 200, reason: format!("the model refused: {refusal}") });
        }
        let text = message.content.filter(|text| !text.trim().is_empty()).ok_or_else(|| malformed("empty answer"))?;
        let tokens = choice.logprobs.and_then(|found| found.content).unwrap_or_default();
        let log_probs = tokens.iter().map(|token| TokenLogProb {
            token: token.likely(),
            top: token.top_logprobs.iter().map(TokenEntry::likely).collect(),
        });
        Ok(self.usage.unwrap_or_default().completion(text, finish, log_probs.collect()))
    }
}

/// Why an answer ended. An answer that does not say may have been cut off on its way.
pub(crate) fn finish(reason: Option<&str>) -> Result<FinishReason, Fault> {
    match reason {
        Some("stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence") => Ok(FinishReason::Stop),
        Some("length" | "max_tokens") => Ok(FinishReason::Length),
        Some("content_filter") => {
            Err(Fault::Rejected { status: 200, reason: "the endpoint's content filter withheld the answer".into() })
        }
        Some(other) => Err(Fault::Malformed(format!("the answer ended for an unknown reason, `{other}`"))),
        None => Err(Fault::Malformed("the answer does not say why it ended; it may be cut short".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_an_answer_only_when_it_is_whole() {
        let whole = r#"{"choices": [{"message": {"content": "Good day."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}}"#;
        let completion = Reply::parse(whole.as_bytes()).unwrap().completion().unwrap();
        assert_eq!((completion.text.as_str(), completion.finish), ("Good day.", FinishReason::Stop));
        assert_eq!((completion.prompt_tokens, completion.cached_tokens, completion.completion_tokens), (7, 4, 3));
        for (body, part) in [
            (&whole[..40], "no JSON"),
            ("", "no JSON"),
            (r#"{"choices": []}"#, "no choice"),
            (r#"{"choices": [{"message": {"content": "Good"}}]}"#, "cut short"),
            (r#"{"choices": [{"message": {"content": " "}, "finish_reason": "stop"}]}"#, "empty"),
            (r#"{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}"#, "empty"),
            (r#"{"choices": [{"finish_reason": "stop"}]}"#, "no message"),
            (r#"{"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}"#, "filter"),
            (
                r#"{"choices": [{"message": {"content": "", "refusal": "No."}, "finish_reason": "stop"}]}"#,
                "refused: No.",
            ),
        ] {
            let fault = Reply::parse(body.as_bytes()).and_then(Reply::completion).unwrap_err();
            assert!(fault.reason().contains(part), "{body}: {fault:?}");
        }
    }

    #[test]
    fn only_what_differs_from_a_default_is_sent() {
        let sampling = Sampling { temperature: 0.7, max_tokens: 9, seed: u64::MAX, ..Sampling::default() };
        let request = GenerateRequest { messages: vec![Message::user("Hi")], sampling, schema: None, log_probs: None };
        let plain = json!(Body::new("m", &request, &[], Quirks::default()));
        let expected = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9,
            "temperature": 0.7, "seed": 0x7FFF_FFFF});
        assert_eq!(plain, expected);
        let sampling =
            Sampling { top_k: 3, min_p: 0.1, top_p: 0.9, stop: vec!["x".into()], ..request.sampling.clone() };
        let request = GenerateRequest { sampling, log_probs: Some(2), ..request };
        let all = Body::new("m", &request, &[], Quirks::default());
        for name in ["top_k", "min_p", "top_p", "stop", "logprobs", "top_logprobs"] {
            assert!(all.fields.contains_key(name), "{name}");
        }
    }
}
