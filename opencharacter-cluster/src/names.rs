//! What streams and subjects are called.

use opencharacter_core::{content_hash, hex};

use crate::wire::WorkKey;

/// Changed whenever what is sent changes its meaning: programs that do not understand each other never meet.
const PROTOCOL: &str = "1";

/// The durable consumer that all workers of a model share.
pub(crate) const CONSUMER: &str = "workers";

/// Names that belong to one model: coordinators and workers of equal fingerprints meet, others do not.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    hash: String,
}

impl Names {
    pub(crate) fn of(fingerprint: &str) -> Self {
        Self { hash: hex(&content_hash(&[PROTOCOL, fingerprint])[..8]) }
    }

    /// The work queue.
    pub(crate) fn calls_stream(&self) -> String {
        format!("opencharacter-{}-calls", self.hash)
    }

    /// The accepted answers.
    pub(crate) fn answers_stream(&self) -> String {
        format!("opencharacter-{}-answers", self.hash)
    }

    /// One call, or all of them (`>`).
    pub(crate) fn call(&self, key: &str) -> String {
        self.subject("call", key)
    }

    /// One accepted answer, or all of them (`>`).
    pub(crate) fn answer(&self, key: &str) -> String {
        self.subject("answer", key)
    }

    /// Where the server says what it has just accepted.
    pub(crate) fn accepted(&self) -> String {
        self.subject("accepted", ">")
    }

    /// Where a worker asks whether anybody waits for a call.
    pub(crate) fn wanted(&self) -> String {
        format!("opencharacter.{}.wanted", self.hash)
    }

    /// Where a coordinator says that it no longer waits for a call.
    pub(crate) fn dropped(&self) -> String {
        format!("opencharacter.{}.dropped", self.hash)
    }

    fn subject(&self, kind: &str, key: &str) -> String {
        format!("opencharacter.{}.{kind}.{key}", self.hash)
    }
}

/// The key at the end of a subject.
pub(crate) fn key_of(subject: &str) -> WorkKey {
    WorkKey::from(subject.rsplit('.').next().unwrap_or_default().to_owned())
}
