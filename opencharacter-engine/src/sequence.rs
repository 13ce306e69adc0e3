use std::sync::Arc;

use opencharacter_core::{Completion, FinishReason, GenerateError, Score, TextSink};
use opencharacter_nn::{PackedAdapter, SequenceCache};
use tokio::sync::oneshot;

use crate::{constraint::Constraint, log_probs::LogProbs, sampler::Sampler, text::AnswerText};

/// An adapter that requests can ask for.
pub(crate) struct ServedAdapter {
    pub(crate) packed: PackedAdapter,
    /// Of its files: two adapters with one hash are one.
    pub(crate) hash: String,
}

/// A request in progress.
pub(crate) struct Sequence {
    /// Prompt and, while generating, what was drawn; all but the last few are in the cache.
    pub(crate) tokens: Vec<u32>,
    /// Keys and values computed so far.
    pub(crate) cache: SequenceCache,
    /// Tokens at the beginning that came from shared blocks.
    pub(crate) cached_tokens: usize,
    /// Most tokens this sequence can come to hold.
    pub(crate) reserved_tokens: usize,
    /// What sits on the base model for this request.
    pub(crate) adapter: Option<Arc<ServedAdapter>>,
    /// What is wanted of it.
    pub(crate) work: Work,
}

/// What a request wants.
pub(crate) enum Work {
    /// New text.
    Generate(Box<Generation>),
    /// The likelihood of given text.
    Score(Scoring),
}

/// The state of an answer.
pub(crate) struct Generation {
    pub(crate) prompt_tokens: usize,
    pub(crate) max_tokens: usize,
    pub(crate) sampler: Sampler,
    pub(crate) text: AnswerText,
    pub(crate) extras: Extras,
    pub(crate) reply: oneshot::Sender<Result<Completion, GenerateError>>,
}

/// What not every answer has.
#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) constraint: Option<Constraint>,
    pub(crate) log_probs: Option<LogProbs>,
    pub(crate) sink: Option<TextSink>,
    /// Go on after the model's end-of-turn token.
    pub(crate) ignore_end: bool,
}

/// The state of a score.
pub(crate) struct Scoring {
    /// One mark per token.
    pub(crate) scored: Vec<bool>,
    pub(crate) log_prob: f64,
    pub(crate) count: usize,
    pub(crate) reply: oneshot::Sender<Result<Score, GenerateError>>,
}

impl Sequence {
    /// The hash of its adapter, by which sequences are grouped.
    pub(crate) fn adapter_hash(&self) -> Option<&str> {
        self.adapter.as_ref().map(|adapter| adapter.hash.as_str())
    }

    /// Tokens that still have to pass through the model before the next result.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.cache.tokens()
    }

    /// Whether the prompt is still being read.
    pub(crate) fn is_prefilling(&self) -> bool {
        self.pending() > 1
    }

    /// Tokens that the request brought.
    pub(crate) fn prompt_tokens(&self) -> usize {
        match &self.work {
            Work::Generate(generation) => generation.prompt_tokens,
            Work::Score(_) => self.tokens.len(),
        }
    }

    /// Whether what comes next is a token that was drawn.
    pub(crate) fn is_answering(&self) -> bool {
        self.cache.tokens() >= self.prompt_tokens()
    }

    /// The most tokens that may come from shared blocks: the token before the first result must be computed.
    pub(crate) fn reusable_tokens(&self) -> usize {
        let first_result = match &self.work {
            Work::Generate(_) => self.tokens.len(),
            Work::Score(scoring) => {
                scoring.scored.iter().skip(1).position(|scored| *scored).map_or(self.tokens.len(), |place| place + 1)
            }
        };
        first_result.saturating_sub(1)
    }

    /// Whether nobody waits for the result any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        match &self.work {
            Work::Generate(generation) => generation.reply.is_closed(),
            Work::Score(scoring) => scoring.reply.is_closed(),
        }
    }

    /// Ends the sequence with an error.
    pub(crate) fn fail(self, error: GenerateError) {
        // A receiver that is gone has cancelled; there is nobody to tell.
        match self.work {
            Work::Generate(generation) => drop(generation.reply.send(Err(error))),
            Work::Score(scoring) => drop(scoring.reply.send(Err(error))),
        }
    }

    /// Ends the sequence with its result.
    pub(crate) fn finish(self, finish: FinishReason) {
        match self.work {
            Work::Generate(mut generation) => {
                if let (Some(piece), Some(sink)) = (generation.text.take(true), generation.extras.sink.as_mut()) {
                    sink(&piece);
                }
                let completion = Completion {
                    text: generation.text.finish(),
                    finish,
                    prompt_tokens: generation.prompt_tokens,
                    cached_tokens: self.cached_tokens,
                    completion_tokens: self.tokens.len() - generation.prompt_tokens,
                    log_probs: generation.extras.log_probs.map(LogProbs::finish).unwrap_or_default(),
                };
                drop(generation.reply.send(Ok(completion)));
            }
            Work::Score(scoring) => {
                let score =
                    Score { tokens: scoring.count, log_prob: scoring.log_prob, prompt_tokens: self.tokens.len() };
                drop(scoring.reply.send(Ok(score)));
            }
        }
    }
}
