//! What a batch's files say of its requests.

use std::collections::HashMap;

use opencharacter_core::Completion;
use reqwest::{StatusCode, header::HeaderMap};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    batch::{
        api::{BatchObject, Status},
        request_line::CustomId,
    },
    fault::Fault,
    wire::Reply,
};

/// What became of one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Answer(Completion),
    Fault(Fault),
    /// The endpoint has no room for the batch now; nothing was tried.
    NotBegun,
}

/// A line of an output or error file.
#[derive(Debug, Deserialize)]
pub(crate) struct OutputLine {
    pub(crate) custom_id: CustomId,
    response: Option<LineResponse>,
    error: Option<LineError>,
}

#[derive(Debug, Deserialize)]
struct LineResponse {
    status_code: u16,
    #[serde(default)]
    body: Value,
}

#[derive(Debug, Deserialize)]
struct LineError {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl OutputLine {
    /// The same classes as those of a direct call. What was not executed because the batch ended is no outcome.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        if let Some(error) = self.error {
            let code = error.code.unwrap_or_default();
            if matches!(code.as_str(), "batch_expired" | "batch_cancelled") {
                return None;
            }
            let message = error.message.unwrap_or_default();
            return Some(Outcome::Fault(Fault::Transient(format!("in the batch: {code} {message}"))));
        }
        let response = self.response?;
        let fault = match StatusCode::from_u16(response.status_code) {
            Ok(status) if status.is_success() => return Some(answer(response.body)),
            Ok(status) => Fault::of_reply(status, &HeaderMap::new(), &response.body.to_string()),
            Err(_) => Fault::Malformed(format!("the batch's output has the status {}", response.status_code)),
        };
        Some(Outcome::Fault(fault))
    }
}

fn answer(body: Value) -> Outcome {
    let reply = Reply::deserialize(body).map_err(|error| Fault::Malformed(format!("the reply is none: {error}")));
    match reply.and_then(Reply::completion) {
        Ok(completion) => Outcome::Answer(completion),
        Err(fault) => Outcome::Fault(fault),
    }
}

/// The outcome of every request of an ended batch, in the order of its file; `found` is what its files say.
pub(crate) fn outcomes(
    batch: &BatchObject,
    ids: &[CustomId],
    mut found: HashMap<CustomId, Outcome>,
) -> Vec<(CustomId, Outcome)> {
    let blamed = batch.blamed_lines();
    let otherwise = |line: usize| match &batch.status {
        Status::Failed if batch.queue_is_full() => Outcome::NotBegun,
        // Only where single lines are to blame, the others can do without them.
        Status::Failed => Outcome::Fault(match blamed.get(&(line as u64)) {
            Some(reason) => Fault::Rejected { status: 400, reason: format!("the batch's validation: {reason}") },
            None if !blamed.is_empty() => Fault::Transient("the batch was refused for others of its requests".into()),
            None => Fault::Unusable(format!("the batch `{}` was refused: {}", batch.id, batch.reason())),
        }),
        Status::Cancelled => Outcome::Fault(Fault::Unusable(format!(
            "the batch `{}` was cancelled at the endpoint; run again to submit what it did not answer",
            batch.id
        ))),
        status => Outcome::Fault(Fault::Transient(format!("the batch is {status}, without a word on this request"))),
    };
    let outcome = |(place, id): (usize, &CustomId)| {
        let outcome = found.remove(id).unwrap_or_else(|| otherwise(place + 1));
        (id.clone(), outcome)
    };
    ids.iter().enumerate().map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(line: Value) -> Option<Outcome> {
        OutputLine::deserialize(line).unwrap().outcome()
    }

    #[test]
    fn lines_are_sorted_like_replies() {
        let body = json!({"choices": [{"message": {"content": "Good day."}, "finish_reason": "stop"}]});
        let whole = json!({"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": null});
        let Some(Outcome::Answer(completion)) = outcome(whole) else { panic!("it is an answer") };
        assert_eq!(completion.text, "Good day.");
        let status = |status: u16, body: Value| match outcome(
            json!({"custom_id": "a", "response": {"status_code": status, "body": body}}),
        ) {
            Some(Outcome::Fault(fault)) => fault,
            other => panic!("{other:?}"),
        };
        let said = json!({"error": {"message": "too long"}});
        let Fault::Rejected { status: 400, reason } = status(400, said.clone()) else { panic!("a wrong request") };
        assert!(reason.contains("too long"), "{reason}");
        assert!(matches!(status(429, said.clone()), Fault::Overloaded { .. }));
        assert!(matches!(status(500, said.clone()), Fault::Transient(_)));
        assert!(matches!(status(401, said), Fault::Unusable(_)));
        assert!(matches!(status(200, json!({"choices": []})), Fault::Malformed(_)));
        assert!(matches!(status(200, json!("nonsense")), Fault::Malformed(_)));
        assert!(matches!(status(0, Value::Null), Fault::Malformed(_)));
        let expired =
            json!({"custom_id": "a", "response": null, "error": {"code": "batch_expired", "message": "late"}});
        assert_eq!(outcome(expired), None);
        let broken = json!({"custom_id": "a", "response": null, "error": {"code": "server_error"}});
        assert!(matches!(outcome(broken), Some(Outcome::Fault(Fault::Transient(_)))));
    }
}
