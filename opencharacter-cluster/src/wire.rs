//! What is sent: calls and replies, as JSON.

use opencharacter_core::{Completion, Generate, GenerateError, GenerateRequest, Score, ScoreRequest};
use opencharacter_ledger::CallKey;
use serde::{Deserialize, Serialize};

/// A work item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Call {
    Generate(GenerateRequest),
    Score(ScoreRequest),
}

impl Call {
    /// The ledger's key. A call for log-probabilities is another call, which the ledger does not distinguish: it never
    /// sees one.
    pub(crate) fn key(&self, fingerprint: &str) -> WorkKey {
        WorkKey(match self {
            Self::Generate(request) => {
                let key = CallKey::of_generate(fingerprint, request);
                request.log_probs.map_or(key.to_string(), |count| format!("{key}-{count}"))
            }
            Self::Score(request) => CallKey::of_score(fingerprint, request).to_string(),
        })
    }

    pub(crate) async fn answer_with(self, model: &dyn Generate) -> Reply {
        let reply = match self {
            Self::Generate(request) => model.generate(request).await.map(Reply::Completion),
            Self::Score(request) => model.score(request).await.map(Reply::Score),
        };
        reply.unwrap_or_else(|error| Reply::Failure(error.into()))
    }
}

/// Identifies a call of one model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WorkKey(String);

impl WorkKey {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for WorkKey {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reply {
    Completion(Completion),
    Score(Score),
    Failure(Failure),
}

/// [`GenerateError`], as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Failure {
    Unavailable { model: String, reason: String },
    Failed { model: String, reason: String },
    Refused { reason: String },
    Unsupported { model: String, what: String },
}

impl From<GenerateError> for Failure {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Unavailable { model, reason } => Self::Unavailable { model, reason },
            GenerateError::Failed { model, reason } => Self::Failed { model, reason },
            GenerateError::Refused { reason } => Self::Refused { reason },
            GenerateError::Unsupported { model, what } => Self::Unsupported { model, what },
        }
    }
}

impl From<Failure> for GenerateError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable { model, reason } => Self::Unavailable { model, reason },
            Failure::Failed { model, reason } => Self::Failed { model, reason },
            Failure::Refused { reason } => Self::Refused { reason },
            Failure::Unsupported { model, what } => Self::Unsupported { model, what },
        }
    }
}

#[cfg(test)]
mod tests {
    use opencharacter_core::{FinishReason, LikelyToken, Message, Sampling, TokenLogProb};
    use serde_json::json;

    use super::*;

    fn request() -> GenerateRequest {
        let sampling = Sampling { temperature: 0.7, top_p: 0.95, seed: u64::MAX, ..Sampling::default() };
        // The order of a schema's properties is part of what is asked.
        let schema = json!({ "properties": { "b": { "type": "string" }, "a": { "type": "string" } } });
        GenerateRequest {
            messages: vec![Message::user("\u{0}\"\\ äöü \u{1F600}")],
            sampling,
            schema: Some(schema),
            log_probs: None,
        }
    }

    fn sent<T: Serialize + for<'a> Deserialize<'a>>(value: &T) -> T {
        serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap()
    }

    #[test]
    fn a_call_keeps_its_key_on_the_way() {
        let plain = Call::Generate(request());
        let with_log_probs = Call::Generate(GenerateRequest { log_probs: Some(3), ..request() });
        let score = Call::Score(ScoreRequest { messages: request().messages });
        for call in [&plain, &with_log_probs, &score] {
            assert_eq!(sent(call), *call);
            assert_eq!(sent(call).key("model"), call.key("model"));
            assert_ne!(call.key("model"), call.key("another"));
        }
        assert_ne!(plain.key("model"), with_log_probs.key("model"));
        assert_eq!(plain.key("model").as_str(), CallKey::of_generate("model", &request()).to_string());
    }

    #[test]
    fn replies_arrive_as_they_were() {
        let token = LikelyToken { text: "\u{FFFD}".into(), bytes: vec![0xF0, 0x9F], log_prob: -0.1 };
        let completion = Completion {
            text: "an answer".into(),
            finish: FinishReason::Length,
            prompt_tokens: 7,
            cached_tokens: 3,
            completion_tokens: 2,
            log_probs: vec![TokenLogProb { token: token.clone(), top: vec![token] }],
        };
        let score = Score { tokens: 3, log_prob: -1.0 / 3.0, prompt_tokens: 9 };
        for reply in [Reply::Completion(completion), Reply::Score(score)] {
            assert_eq!(sent(&reply), reply);
        }
        let model = || "m".to_owned();
        for error in [
            GenerateError::Unavailable { model: model(), reason: "gone".into() },
            GenerateError::Failed { model: model(), reason: "cut short".into() },
            GenerateError::Refused { reason: "too long".into() },
            GenerateError::Unsupported { model: model(), what: "scores".into() },
        ] {
            assert_eq!(GenerateError::from(sent(&Failure::from(error.clone()))), error);
        }
    }
}
