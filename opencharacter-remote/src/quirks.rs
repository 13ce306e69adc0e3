use std::sync::atomic::{AtomicU16, Ordering};

use crate::{
    fault::Fault,
    notice::{Notice, Notices},
    wire::Body,
};

/// What an endpoint does not take, learned from how it refuses: one bit per request field that can be left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Quirks(u16);

/// Fields that can be left out, and what a refusal may call them.
const FIELDS: [(&str, &[&str]); 10] = [
    ("response_format", &["response_format", "json_schema", "schema", "guided", "grammar", "structured"]),
    ("max_tokens", &["max_completion_tokens"]),
    ("top_k", &["top_k"]),
    ("min_p", &["min_p"]),
    ("repetition_penalty", &["repetition_penalty"]),
    ("seed", &["seed"]),
    ("logprobs", &["logprobs"]),
    ("top_logprobs", &["top_logprobs"]),
    ("temperature", &["temperature"]),
    ("top_p", &["top_p"]),
];

impl Quirks {
    /// Whether the endpoint takes a field.
    pub(crate) fn takes(self, field: &str) -> bool {
        FIELDS.iter().position(|(name, _)| *name == field).is_none_or(|bit| self.0 & (1 << bit) == 0)
    }

    /// Whether the endpoint enforces JSON schemas itself.
    pub(crate) fn native_schema(self) -> bool {
        self.takes("response_format")
    }

    /// What the endpoint calls the longest answer.
    pub(crate) fn max_tokens_name(self) -> &'static str {
        if self.takes("max_tokens") { "max_tokens" } else { "max_completion_tokens" }
    }

    /// The quirks after a refusal of a body with these fields, and the field to blame; nothing where none is.
    pub(crate) fn learn<'a>(self, sent: impl Iterator<Item = &'a str>, reason: &str) -> Option<(Self, &'static str)> {
        let reason = reason.to_lowercase();
        let sent: Vec<&str> = sent.collect();
        let bit = FIELDS.iter().position(|(name, words)| {
            sent.contains(name) && self.takes(name) && words.iter().any(|word| reason.contains(word))
        })?;
        Some((Self(self.0 | 1 << bit), FIELDS[bit].0))
    }

    /// The fields that the endpoint does not take.
    pub(crate) fn left_out(self) -> impl Iterator<Item = &'static str> {
        FIELDS.iter().map(|(name, _)| *name).filter(move |name| !self.takes(name))
    }

    /// An endpoint that does not take these fields; names that are none say nothing.
    pub(crate) fn leaving_out<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let bits = names.filter_map(|name| FIELDS.iter().position(|(field, _)| *field == name));
        Self(bits.fold(0, |bits, bit| bits | 1 << bit))
    }
}

/// What all calls have learned of one endpoint.
#[derive(Debug)]
pub(crate) struct LearnedQuirks {
    bits: AtomicU16,
    endpoint: String,
    notices: Notices,
}

impl LearnedQuirks {
    pub(crate) fn new(known: Quirks, endpoint: &str, notices: Notices) -> Self {
        Self { bits: AtomicU16::new(known.0), endpoint: endpoint.to_owned(), notices }
    }

    pub(crate) fn now(&self) -> Quirks {
        Quirks(self.bits.load(Ordering::Relaxed))
    }

    /// Whether a body that was made for `quirks` and came back with `fault` is worth another try with less in it.
    pub(crate) fn learn(&self, quirks: Quirks, body: &Body<'_>, fault: &Fault) -> bool {
        let Fault::Rejected { status: 400 | 422, reason } = fault else { return false };
        let Some((learned, field)) = quirks.learn(body.fields.keys().map(String::as_str), reason) else { return false };
        let before = Quirks(self.bits.fetch_or(learned.0, Ordering::Relaxed));
        if before.takes(field) {
            let (endpoint, reason) = (self.endpoint.clone(), reason.clone());
            self.notices.tell(Notice::FieldLeftOut { endpoint, field, reason });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_field_is_left_out_and_nothing_is_learned_twice() {
        let sent = || ["model", "max_tokens", "top_k", "response_format"].into_iter();
        let quirks = Quirks::default();
        let (quirks, field) = quirks.learn(sent(), "Unrecognized request argument supplied: top_k").unwrap();
        assert!(field == "top_k" && !quirks.takes("top_k") && quirks.takes("max_tokens"));
        assert_eq!(quirks.learn(sent(), "top_k is unknown"), None);
        let (quirks, _) = quirks.learn(sent(), "Invalid schema for response_format 'answer'").unwrap();
        assert!(!quirks.native_schema());
        let (quirks, _) = quirks.learn(sent(), "use 'max_completion_tokens' instead of 'max_tokens'").unwrap();
        assert_eq!(quirks.max_tokens_name(), "max_completion_tokens");
        // What was not sent cannot be to blame.
        assert_eq!(Quirks::default().learn(["model"].into_iter(), "top_k"), None);
        assert_eq!(Quirks::default().learn(sent(), "the prompt is too long"), None);
        assert_eq!(Quirks::leaving_out(quirks.left_out()), quirks);
        assert_eq!(quirks.left_out().collect::<Vec<_>>(), ["response_format", "max_tokens", "top_k"]);
    }
}
