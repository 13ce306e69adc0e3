//! Which of a key's records counts.

use std::cmp::Ordering;

use crate::{
    FailureClass,
    directory::SegmentId,
    frame::Span,
    record::{OutcomeHead, RecordHead},
};

/// A record's outcome, as far as precedence and counts need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Accepted { rejudged: bool },
    Rejected { rejudged: bool },
    Scored,
    Failed(FailureClass),
}

/// What a record's precedence begins with; the later one in this list wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Failure,
    Success,
    Rejudged,
}

impl Kind {
    pub(crate) fn of(head: &RecordHead<'_>) -> Self {
        match head.outcome {
            OutcomeHead::Accepted {} => Self::Accepted { rejudged: head.rejudged },
            OutcomeHead::Rejected { .. } => Self::Rejected { rejudged: head.rejudged },
            OutcomeHead::Scored {} => Self::Scored,
            OutcomeHead::Failed { class } => Self::Failed(class),
        }
    }

    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Accepted { rejudged } => u8::from(rejudged) << 7,
            Self::Rejected { rejudged } => 1 | u8::from(rejudged) << 7,
            Self::Scored => 2,
            Self::Failed(FailureClass::Provider) => 3,
            Self::Failed(FailureClass::Task) => 4,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        let rejudged = byte & 0x80 != 0;
        match byte & 0x7F {
            0 => Some(Self::Accepted { rejudged }),
            1 => Some(Self::Rejected { rejudged }),
            2 => Some(Self::Scored),
            3 => Some(Self::Failed(FailureClass::Provider)),
            4 => Some(Self::Failed(FailureClass::Task)),
            _ => None,
        }
    }

    pub(crate) fn is_success(self) -> bool {
        !matches!(self, Self::Failed(_))
    }

    fn standing(self) -> Standing {
        match self {
            Self::Failed(_) => Standing::Failure,
            Self::Accepted { rejudged: true } | Self::Rejected { rejudged: true } => Standing::Rejudged,
            Self::Accepted { .. } | Self::Rejected { .. } | Self::Scored => Standing::Success,
        }
    }
}

/// What an index knows of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
    /// Its stage's number in the segment's statistics.
    pub(crate) stage: u16,
    /// The number there of the rule that rejected it.
    pub(crate) rule: u16,
}

/// Where a record lies in the ledger. Segments come in the order of their numbers, then of their writers, whoever
/// opens them and whenever.
pub(crate) type Place = (SegmentId, u64);

/// Whether the first of two records of a key counts, and not the second.
///
/// Judged anew wins over a success, a success over a failure. The latest verdict and the latest failure win among
/// their like, but the earliest success: whoever has used an answer keeps it when another writer's comes to light.
pub(crate) fn prevails((kind, place): (Kind, Place), (other, other_place): (Kind, Place)) -> bool {
    match kind.standing().cmp(&other.standing()) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal if kind.standing() == Standing::Success => place < other_place,
        Ordering::Equal => place > other_place,
    }
}

/// The record of a key that counts among those seen so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effective {
    pub(crate) segment: SegmentId,
    pub(crate) entry: Entry,
}

impl Effective {
    pub(crate) fn place(&self) -> Place {
        (self.segment, self.entry.span.offset)
    }

    /// Takes `entry` of `segment` into account.
    pub(crate) fn consider(best: &mut Option<Self>, segment: SegmentId, entry: Entry) {
        let candidate = Self { segment, entry };
        if best.is_none_or(|best| prevails((entry.kind, candidate.place()), (best.entry.kind, best.place()))) {
            *best = Some(candidate);
        }
    }
}
