//! A model and its ledger, used as one.

use std::time::Instant;

use opencharacter_core::{
    BoxFuture, Completion, Generate, GenerateError, GenerateRequest, Score, ScoreRequest, TextSink,
};

use crate::{CallKey, FailureClass, Ledger, LedgerError, Outcome, Record};

/// A model that is only reached through a ledger. Synthesis and judging call it; it is cheap to copy.
#[derive(Clone, Copy)]
pub struct LedgeredModel<'a> {
    /// The model.
    pub model: &'a dyn Generate,
    /// Where its answers are kept.
    pub ledger: &'a Ledger,
    /// Whether requests are sent again that the model refused before. Without it, they are answered by the recorded
    /// refusal.
    pub retry_refused: bool,
    /// Whether only recorded answers count: what is not recorded is [`CallError::NotRecorded`], and no call is made.
    pub recorded_only: bool,
}

/// Why a call gave nothing to use.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The answer did not pass its check; it is recorded with the reason.
    #[error("rejected: {reason}")]
    Rejected {
        /// The check's reason.
        reason: String,
        /// The answer's key in the ledger.
        key: CallKey,
    },
    /// There is no answer; the failure is recorded and never taken for a result.
    #[error(transparent)]
    Failed(#[from] GenerateError),
    /// The answer is not recorded, and no call may be made.
    #[error("no answer is recorded, and no more calls may be made")]
    NotRecorded,
    /// The ledger cannot record or be read. Stop: an unrecorded answer would be paid for again.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Which call, for which item, in which stage.
#[derive(Clone, Copy)]
struct Errand<'a> {
    stage: &'a str,
    item: &'a str,
    key: CallKey,
}

impl<'a> LedgeredModel<'a> {
    /// A model reached through `ledger`, that is not asked again for what it refused.
    pub fn new(model: &'a dyn Generate, ledger: &'a Ledger) -> Self {
        Self { model, ledger, retry_refused: false, recorded_only: false }
    }

    /// An answer that passes `check`, and its key: from the ledger if it is there, else from the model.
    ///
    /// `check` turns a completion into what the caller wants, or says why not. It is applied to recorded answers too,
    /// accepted or rejected before: a changed rule takes effect without a call. Two calls with the same key at the
    /// same time cost one. Dropping the future loses only a call that is still under way.
    ///
    /// # Errors
    /// See [`CallError`]. A key whose only records are failures is called again, unless the model refused this very
    /// request: then the recorded refusal is returned, or with `retry_refused` the request is sent again.
    pub async fn complete<T>(
        &self,
        stage: &str,
        item: &str,
        request: GenerateRequest,
        check: impl FnOnce(&Completion) -> Result<T, String>,
    ) -> Result<(T, CallKey), CallError> {
        let key = CallKey::of_generate(self.model.fingerprint(), &request);
        let errand = Errand { stage, item, key };
        let _flight = self.ledger.fly(key).await;
        if let Some(outcome) = self.known(errand)? {
            return self.judge_again(errand, &outcome, check);
        }
        if self.recorded_only {
            return Err(CallError::NotRecorded);
        }
        let started = Instant::now();
        let answer = self.model.generate(request).await;
        let seconds = started.elapsed().as_secs_f64();
        let completion = answer.or_else(|error| self.failed(errand, seconds, error))?;
        let (prompt_tokens, completion_tokens) = (completion.prompt_tokens, completion.completion_tokens);
        let judged = check(&completion);
        let outcome = outcome_of(completion, judged.as_ref().err());
        self.ledger.append(&errand.record(outcome, seconds, prompt_tokens, completion_tokens))?;
        judged.map(|value| (value, key)).map_err(|reason| CallError::Rejected { reason, key })
    }

    /// The likelihood of a conversation's assistant messages, and its key: from the ledger or from the model.
    ///
    /// # Errors
    /// See [`CallError`]; never `Rejected`.
    pub async fn score(&self, stage: &str, item: &str, request: ScoreRequest) -> Result<(Score, CallKey), CallError> {
        let key = CallKey::of_score(self.model.fingerprint(), &request);
        let errand = Errand { stage, item, key };
        let _flight = self.ledger.fly(key).await;
        if let Some(Outcome::Scored { score }) = self.known(errand)? {
            return Ok((score, key));
        }
        if self.recorded_only {
            return Err(CallError::NotRecorded);
        }
        let started = Instant::now();
        let answer = self.model.score(request).await;
        let seconds = started.elapsed().as_secs_f64();
        let score = answer.or_else(|error| self.failed(errand, seconds, error))?;
        self.ledger.append(&errand.record(Outcome::Scored { score }, seconds, score.prompt_tokens, 0))?;
        Ok((score, key))
    }

    /// What is recorded and spares the call: an answer, a likelihood, or as an error a refusal.
    fn known(&self, errand: Errand<'_>) -> Result<Option<Outcome>, CallError> {
        let Some(Record { outcome, .. }) = self.ledger.lookup(&errand.key)? else { return Ok(None) };
        match outcome {
            Outcome::Failed { class: FailureClass::Task, reason } if !self.retry_refused => {
                self.ledger.count_reused(errand.stage);
                Err(GenerateError::Refused { reason }.into())
            }
            Outcome::Failed { .. } => Ok(None),
            Outcome::Accepted { .. } | Outcome::Rejected { .. } | Outcome::Scored { .. } => {
                self.ledger.count_reused(errand.stage);
                Ok(Some(outcome))
            }
        }
    }

    /// Applies `check` to a recorded answer, and records the new verdict if it differs.
    fn judge_again<T>(
        &self,
        errand: Errand<'_>,
        recorded: &Outcome,
        check: impl FnOnce(&Completion) -> Result<T, String>,
    ) -> Result<(T, CallKey), CallError> {
        let (Outcome::Accepted { completion } | Outcome::Rejected { completion, .. }) = recorded else {
            return Err(CallError::Rejected { reason: "not an answer".into(), key: errand.key });
        };
        let judged = check(completion);
        let outcome = outcome_of(completion.clone(), judged.as_ref().err());
        if outcome != *recorded {
            self.ledger.append(&Record { rejudged: true, ..errand.record(outcome, 0.0, 0, 0) })?;
        }
        judged.map(|value| (value, errand.key)).map_err(|reason| CallError::Rejected { reason, key: errand.key })
    }

    fn failed<T>(&self, errand: Errand<'_>, seconds: f64, error: GenerateError) -> Result<T, CallError> {
        let (class, reason) = match &error {
            // Without the words around it: returned again, they are put around it again.
            GenerateError::Refused { reason } => (FailureClass::Task, reason.clone()),
            GenerateError::Unavailable { .. } | GenerateError::Unsupported { .. } | GenerateError::Failed { .. } => {
                (FailureClass::Provider, error.to_string())
            }
        };
        let outcome = Outcome::Failed { class, reason };
        self.ledger.append(&errand.record(outcome, seconds, 0, 0))?;
        Err(error.into())
    }
}

impl Errand<'_> {
    fn record(self, outcome: Outcome, seconds: f64, prompt_tokens: usize, completion_tokens: usize) -> Record {
        Record {
            key: self.key,
            item: self.item.to_owned(),
            stage: self.stage.to_owned(),
            outcome,
            seconds,
            prompt_tokens,
            completion_tokens,
            rejudged: false,
        }
    }
}

fn outcome_of(completion: Completion, rejection: Option<&String>) -> Outcome {
    match rejection {
        None => Outcome::Accepted { completion },
        Some(reason) => Outcome::Rejected { completion, reason: reason.clone() },
    }
}

/// A ledgered model under the name of one stage, as a [`Generate`]: what evaluation calls.
///
/// Answers and scores that the ledger holds cost no call.
pub struct Recorded<'a> {
    /// The model and its ledger.
    pub model: LedgeredModel<'a>,
    /// The stage that its calls are counted under.
    pub stage: &'a str,
}

impl Recorded<'_> {
    fn failure(&self, error: CallError) -> GenerateError {
        match error {
            CallError::Failed(error) => error,
            CallError::Rejected { reason, .. } => GenerateError::Refused { reason },
            error @ (CallError::NotRecorded | CallError::Ledger(_)) => GenerateError::Unavailable {
                model: self.model.model.fingerprint().to_owned(),
                reason: error.to_string(),
            },
        }
    }
}

impl Generate for Recorded<'_> {
    fn fingerprint(&self) -> &str {
        self.model.model.fingerprint()
    }

    fn concurrency(&self) -> usize {
        self.model.model.concurrency()
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            let answer = self.model.complete(self.stage, "", request, |completion| Ok(completion.clone())).await;
            answer.map(|(completion, _)| completion).map_err(|error| self.failure(error))
        })
    }

    fn stream(&self, request: GenerateRequest, mut sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            let completion = self.generate(request).await?;
            sink(&completion.text);
            Ok(completion)
        })
    }

    fn score(&self, request: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(async move {
            let score = self.model.score(self.stage, "", request).await;
            score.map(|(score, _)| score).map_err(|error| self.failure(error))
        })
    }
}
