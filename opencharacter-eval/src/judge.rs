use opencharacter_core::{FinishReason, Generate, GenerateError, GenerateRequest, KeyedRandom, Message, Sampling};
use serde_json::Value;

use crate::{Verdict, VerdictOutcome};

/// A model that judges.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// What verdicts and reports call it; each judge of a panel has its own.
    pub name: &'a str,
    /// The model, usually behind a ledger.
    pub model: &'a dyn Generate,
}

/// How judges are asked. Two runs with equal options ask for the same calls.
#[derive(Debug, Clone)]
pub struct JudgeOptions {
    /// Keys the sampling seeds, by item and attempt.
    pub seed: u64,
    /// Calls for one verdict until it can be read, at least 1.
    pub attempts: u32,
    /// How the first attempt is drawn; later ones use a temperature of at least 0.7, or a greedy judge would repeat
    /// itself.
    pub sampling: Sampling,
}

impl Default for JudgeOptions {
    fn default() -> Self {
        let sampling = Sampling { temperature: 0.0, max_tokens: 1024, ..Sampling::default() };
        Self { seed: 0, attempts: 3, sampling }
    }
}

/// A question to a judge whose answer must be a JSON document.
pub(crate) struct Asking {
    /// What the sampling seed follows from.
    pub(crate) key: Vec<String>,
    pub(crate) messages: Vec<Message>,
    pub(crate) schema: Option<Value>,
}

/// What came of an [`Asking`].
pub(crate) struct Asked<T> {
    pub(crate) outcome: Result<T, Miss>,
    /// The last reply.
    pub(crate) reply: String,
    pub(crate) attempts: u32,
}

/// Why there is no readable reply.
#[derive(Debug, Clone)]
pub(crate) enum Miss {
    Unreadable(String),
    Failed(String),
}

impl From<Miss> for VerdictOutcome {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Unreadable(reason) => Self::Unreadable { reason },
            Miss::Failed(reason) => Self::Failed { reason },
        }
    }
}

/// Asks until `parse` can read the reply, at most `options.attempts` times.
///
/// A call that fails for this request alone is a [`Miss::Failed`]; one that fails because the model is gone is an error.
pub(crate) async fn ask<T>(
    model: &dyn Generate,
    asking: Asking,
    options: &JudgeOptions,
    parse: impl Fn(&str) -> Result<T, String> + Send + Sync,
) -> Result<Asked<T>, GenerateError> {
    let Asking { key, messages, schema } = asking;
    let mut last = (String::new(), String::new());
    let attempts = options.attempts.max(1);
    for attempt in 0..attempts {
        let request = GenerateRequest {
            messages: messages.clone(),
            sampling: sampling(options, &key, attempt),
            schema: schema.clone(),
            log_probs: None,
        };
        let completion = match model.generate(request).await {
            Ok(completion) => completion,
            Err(GenerateError::Refused { reason } | GenerateError::Failed { reason, .. }) => {
                return Ok(Asked { outcome: Err(Miss::Failed(reason)), reply: last.0, attempts: attempt + 1 });
            }
            Err(gone) => return Err(gone),
        };
        let reason = match parse(&completion.text) {
            Ok(value) => return Ok(Asked { outcome: Ok(value), reply: completion.text, attempts: attempt + 1 }),
            Err(_) if completion.finish == FinishReason::Length => {
                format!("the reply was cut off after {} tokens", completion.completion_tokens)
            }
            Err(reason) => reason,
        };
        last = (completion.text, reason);
    }
    Ok(Asked { outcome: Err(Miss::Unreadable(last.1)), reply: last.0, attempts })
}

fn sampling(options: &JudgeOptions, key: &[String], attempt: u32) -> Sampling {
    let attempt_name = attempt.to_string();
    let mut parts: Vec<&str> = vec!["eval", "judge"];
    parts.extend(key.iter().map(String::as_str));
    parts.push(&attempt_name);
    let seed = KeyedRandom::new(options.seed, &parts).next_u64();
    let coldest = if attempt == 0 { 0.0 } else { 0.7 };
    Sampling { seed, temperature: options.sampling.temperature.max(coldest), ..options.sampling.clone() }
}

/// A reply as a JSON object and nothing else.
pub(crate) fn json_object(reply: &str) -> Result<serde_json::Map<String, Value>, String> {
    match serde_json::from_str(reply.trim()) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!("expected a JSON object, found {}", kind(&other))),
        Err(error) => Err(format!("expected a JSON object and nothing else: {error}")),
    }
}

/// A string field that is not blank.
pub(crate) fn text_field(object: &serde_json::Map<String, Value>, name: &str) -> Result<String, String> {
    match object.get(name) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Some(Value::String(_)) => Err(format!("`{name}` is blank")),
        Some(other) => Err(format!("`{name}` must be a string, found {}", kind(other))),
        None => Err(format!("`{name}` is missing")),
    }
}

/// A whole number of `levels`.
pub(crate) fn level_field(
    object: &serde_json::Map<String, Value>,
    name: &str,
    levels: std::ops::RangeInclusive<u8>,
) -> Result<u8, String> {
    let expected = format!("expected a whole number from {} to {}", levels.start(), levels.end());
    let value = object.get(name).ok_or_else(|| format!("`{name}` is missing, {expected}"))?;
    let number = value.as_u64().and_then(|number| u8::try_from(number).ok()).filter(|number| levels.contains(number));
    number.ok_or_else(|| format!("`{name}` is {value}, {expected}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The verdict of `judge` from an asking that yields a score and a reason.
pub(crate) fn verdict(judge: &str, asked: Asked<(u8, String)>) -> Verdict {
    let outcome = match asked.outcome {
        Ok((score, reason)) => VerdictOutcome::Scored { score, reason },
        Err(miss) => miss.into(),
    };
    Verdict { judge: judge.to_owned(), outcome, reply: asked.reply, attempts: asked.attempts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_object_with_a_whole_score_is_read() {
        let score = |reply: &str| json_object(reply).and_then(|object| level_field(&object, "score", 1..=5));
        assert_eq!(score(" {\"score\": 4}\n"), Ok(4));
        for reply in [
            "",
            "4",
            "Therefore, the final score is 4.",
            "```json\n{\"score\": 4}\n```",
            "{\"score\": 4} I hope this helps",
            "{\"score\": 4.5}",
            "{\"score\": \"4\"}",
            "{\"score\": 45}",
            "{\"score\": 0}",
            "{\"score\": -1}",
            "{}",
            "[4]",
        ] {
            assert!(score(reply).is_err(), "{reply}");
        }
    }
}
