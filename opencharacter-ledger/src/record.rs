//! What the ledger records of a call.

use std::{borrow::Cow, collections::BTreeMap};

use opencharacter_core::{Completion, Score};
use serde::{Deserialize, Serialize};

use crate::{CallKey, statistics::CallCounts};

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// The model was not there or cannot do such calls: the call is made again when it is needed again.
    Provider,
    /// The model refused this very request: asking again would be refused again.
    Task,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// An answer that passed its check.
    Accepted {
        /// The answer.
        completion: Completion,
    },
    /// An answer that did not.
    Rejected {
        /// The answer.
        completion: Completion,
        /// The check's reason.
        reason: String,
    },
    /// A likelihood.
    Scored {
        /// The likelihood.
        score: Score,
    },
    /// No answer. Never returned as a result.
    Failed {
        /// Whose fault it was.
        class: FailureClass,
        /// What the model said.
        reason: String,
    },
}

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked.
    pub key: CallKey,
    /// The id of the item that it was asked for.
    pub item: String,
    /// The stage that asked.
    pub stage: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How long the call took; 0 for a record that cost no call.
    pub seconds: f64,
    /// Tokens of the prompt; 0 for a record that cost no call.
    pub prompt_tokens: usize,
    /// Tokens generated; 0 for a record that cost no call.
    pub completion_tokens: usize,
    /// Whether this is an earlier answer judged anew under a changed check: a record that cost no call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rejudged: bool,
}

/// The part of a record that index and statistics need; reading it skips the answer's text.
#[derive(Debug, Deserialize)]
pub(crate) struct RecordHead<'a> {
    pub(crate) key: CallKey,
    #[serde(borrow)]
    pub(crate) item: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) stage: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) outcome: OutcomeHead<'a>,
    pub(crate) seconds: f64,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    #[serde(default)]
    pub(crate) rejudged: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OutcomeHead<'a> {
    Accepted {},
    Rejected {
        #[serde(borrow)]
        reason: Cow<'a, str>,
    },
    Scored {},
    Failed {
        class: FailureClass,
    },
}

impl RecordHead<'_> {
    /// The name of the rule that rejected it: the reason's text before the first `: `.
    pub(crate) fn rule(&self) -> Option<&str> {
        match &self.outcome {
            OutcomeHead::Rejected { reason } => reason.split(": ").next(),
            OutcomeHead::Accepted {} | OutcomeHead::Scored {} | OutcomeHead::Failed { .. } => None,
        }
    }
}

impl<'a> From<&'a Record> for RecordHead<'a> {
    fn from(record: &'a Record) -> Self {
        let outcome = match &record.outcome {
            Outcome::Accepted { .. } => OutcomeHead::Accepted {},
            Outcome::Rejected { reason, .. } => OutcomeHead::Rejected { reason: reason.into() },
            Outcome::Scored { .. } => OutcomeHead::Scored {},
            Outcome::Failed { class, .. } => OutcomeHead::Failed { class: *class },
        };
        Self {
            key: record.key,
            item: (&record.item).into(),
            stage: (&record.stage).into(),
            outcome,
            seconds: record.seconds,
            prompt_tokens: record.prompt_tokens as u64,
            completion_tokens: record.completion_tokens as u64,
            rejudged: record.rejudged,
        }
    }
}

/// What compaction writes beside records: what the calls cost whose records it dropped, per stage.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Carried {
    pub(crate) carried: BTreeMap<String, CallCounts>,
}

/// A frame's content.
pub(crate) enum Payload<'a> {
    Record(RecordHead<'a>),
    Carried(Carried),
}

impl<'a> Payload<'a> {
    pub(crate) fn parse(payload: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map(Self::Record).or_else(|error| {
            serde_json::from_slice(payload)
                .map(Self::Carried)
                .map_err(|_| format!("its record has a form that this version does not know ({error})"))
        })
    }
}
