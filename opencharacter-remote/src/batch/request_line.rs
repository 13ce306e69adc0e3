use opencharacter_core::{content_hash, hex};
use serde::{Deserialize, Serialize};

use crate::wire::Body;

/// The kind of call that all requests of a batch are.
pub(crate) const CALLED: &str = "/v1/chat/completions";

/// Names a request within a batch: 128 bits of its body's hash, so that the same request is known again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct CustomId(String);

impl CustomId {
    pub(crate) fn of(body: &[u8]) -> Self {
        Self(hex(&content_hash(&[body])[..16]))
    }
}

/// One request of a batch's file.
#[derive(Debug)]
pub(crate) struct RequestLine {
    pub(crate) id: CustomId,
    /// With the line's end.
    pub(crate) bytes: Vec<u8>,
}

impl RequestLine {
    pub(crate) fn new(body: &Body<'_>) -> Result<Self, serde_json::Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            custom_id: &'a CustomId,
            method: &'static str,
            url: &'static str,
            body: &'a Body<'a>,
        }
        let id = CustomId::of(&serde_json::to_vec(body)?);
        let mut bytes = serde_json::to_vec(&Line { custom_id: &id, method: "POST", url: CALLED, body })?;
        bytes.push(b'\n');
        Ok(Self { id, bytes })
    }
}
