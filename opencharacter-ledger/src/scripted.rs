//! A model that says what a test tells it to, and counts.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use opencharacter_core::{
    BoxFuture, Completion, FinishReason, Generate, GenerateError, GenerateRequest, Score, ScoreRequest, TextSink,
    content_hash,
};
use serde_json::json;

type Answer = Box<dyn Fn(&GenerateRequest) -> Result<String, GenerateError> + Send + Sync>;
type Likelihood = Box<dyn Fn(&ScoreRequest) -> f64 + Send + Sync>;

/// Answers by a function of the request.
pub struct Scripted {
    fingerprint: String,
    answer: Answer,
    likelihood: Likelihood,
    /// Calls take 0 to 3 ms, by a hash of this and the request: another salt, another order of arrival.
    pub latency_salt: u64,
    /// Answers asked for so far.
    pub generated: AtomicUsize,
    /// Likelihoods asked for so far.
    pub scored: AtomicUsize,
}

impl Scripted {
    /// One that answers by `answer`, and to whom every conversation has a log-probability of -1.
    pub fn new(answer: impl Fn(&GenerateRequest) -> Result<String, GenerateError> + Send + Sync + 'static) -> Self {
        Self {
            fingerprint: "scripted".into(),
            answer: Box::new(answer),
            likelihood: Box::new(|_| -1.0),
            latency_salt: 0,
            generated: AtomicUsize::new(0),
            scored: AtomicUsize::new(0),
        }
    }

    /// Scores by `likelihood`: a sum of natural-log probabilities.
    #[must_use]
    pub fn with_likelihood(mut self, likelihood: impl Fn(&ScoreRequest) -> f64 + Send + Sync + 'static) -> Self {
        self.likelihood = Box::new(likelihood);
        self
    }

    /// Another order of arrival for each `salt`.
    #[must_use]
    pub fn with_latency(mut self, salt: u64) -> Self {
        self.latency_salt = salt;
        self
    }

    /// Calls so far: answers and scores.
    pub fn calls(&self) -> (usize, usize) {
        (self.generated.load(Ordering::Relaxed), self.scored.load(Ordering::Relaxed))
    }

    async fn take_time(&self, request: &str) {
        let hash = content_hash(&[self.latency_salt.to_string().as_str(), request]);
        tokio::time::sleep(Duration::from_micros(u64::from(hash[0]) * 12)).await;
    }
}

/// The failure of a model that is not there.
pub fn unavailable() -> GenerateError {
    GenerateError::Unavailable { model: "scripted".into(), reason: "connection refused".into() }
}

impl Generate for Scripted {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            self.generated.fetch_add(1, Ordering::Relaxed);
            self.take_time(&json!(request).to_string()).await;
            let text = (self.answer)(&request)?;
            let completion_tokens = text.split(' ').count();
            Ok(Completion {
                text,
                finish: FinishReason::Stop,
                prompt_tokens: 10,
                cached_tokens: 0,
                completion_tokens,
                log_probs: Vec::new(),
            })
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
            self.scored.fetch_add(1, Ordering::Relaxed);
            self.take_time(&json!(request).to_string()).await;
            Ok(Score { tokens: 5, log_prob: (self.likelihood)(&request), prompt_tokens: 10 })
        })
    }
}
