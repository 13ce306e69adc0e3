use std::{
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opencharacter_core::{
    BoxFuture, Completion, Generate, GenerateError, GenerateRequest, Message, Score, ScoreRequest, TextSink,
};
use tokio::time::{Instant, sleep};

use crate::{
    RemoteConfig, RemoteError,
    backoff::Backoff,
    breaker::{Breaker, Gate},
    endpoint::Endpoint,
    extract,
    fault::Fault,
    window::Place,
};

/// A model that is served elsewhere, as a [`Generate`].
#[derive(Debug)]
pub struct RemoteModel {
    config: RemoteConfig,
    endpoints: Vec<Endpoint>,
    breaker: Breaker,
    fingerprint: String,
    calls: AtomicU64,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    answers: AtomicU64,
    overloads: AtomicU64,
    failures: AtomicU64,
}

/// What a remote model has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteStatistics {
    /// Requests sent, tries of one call counted each.
    pub requests: u64,
    /// Answers received whole.
    pub answers: u64,
    /// Replies that said that it was too much.
    pub overloads: u64,
    /// Other tries without an answer.
    pub failures: u64,
    /// Calls that may be in flight now, over all endpoints.
    pub window: usize,
}

/// A window of so few places that still meets refusals is not what is too large: the rate is.
const FEW_PLACES: usize = 4;

/// Tries of a call whose answers cannot be used.
const MALFORMED_TRIES: usize = 3;

impl RemoteModel {
    /// A model as `config` says; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`RemoteError::Setting`], [`RemoteError::Client`].
    pub fn new(config: RemoteConfig) -> Result<Self, RemoteError> {
        static PROVIDER: Once = Once::new();
        // reqwest is built without a cryptography of its own. A provider that the process has set before stays.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        config.validate()?;
        let endpoints =
            config.endpoints.iter().map(|endpoint| Endpoint::new(endpoint, &config)).collect::<Result<_, _>>()?;
        Ok(Self {
            endpoints,
            breaker: Breaker::new(config.down_after),
            // Where it is served does not change what it says: a run may move to another endpoint and go on.
            fingerprint: format!("openai:{}", config.model),
            calls: AtomicU64::new(0),
            counts: Counts::default(),
            config,
        })
    }

    /// What was done so far.
    pub fn statistics(&self) -> RemoteStatistics {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RemoteStatistics {
            requests: count(&self.counts.requests),
            answers: count(&self.counts.answers),
            overloads: count(&self.counts.overloads),
            failures: count(&self.counts.failures),
            window: self.endpoints.iter().map(|endpoint| endpoint.window.size()).sum(),
        }
    }

    fn unavailable(&self, reason: String) -> GenerateError {
        GenerateError::Unavailable { model: self.fingerprint.clone(), reason }
    }

    /// The usable endpoint with most room.
    fn roomiest(&self) -> Option<&Endpoint> {
        let usable = self.endpoints.iter().filter(|endpoint| endpoint.is_usable());
        usable.min_by(|left, right| left.window.load().total_cmp(&right.window.load()))
    }

    async fn answer(&self, request: GenerateRequest, mut sink: Option<TextSink>) -> Result<Completion, GenerateError> {
        let mut call = Call {
            request,
            repairs: Vec::new(),
            malformed: 0,
            backoff: Backoff::new(self.calls.fetch_add(1, Ordering::Relaxed)),
            began: None,
            last_reason: "every endpoint refused".into(),
        };
        loop {
            if let Gate::Gone(reason) = self.breaker.pass().await {
                return Err(self.gone(&reason));
            }
            let Some(endpoint) = self.roomiest() else { return Err(self.unavailable(call.last_reason)) };
            let elsewhere = |other: &&Endpoint| other.is_usable() && !std::ptr::eq(*other, endpoint);
            let patient = self.endpoints.iter().filter(elsewhere).all(|other| other.window.is_paused());
            let Some(place) = self.unless_gone(endpoint.window.enter(patient)).await? else { continue };
            self.unless_gone(endpoint.pace.enter()).await?;
            call.began.get_or_insert_with(Instant::now);
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            let result = endpoint.call(&self.config.model, &call.request, &call.repairs, sink.as_mut()).await;
            match result {
                Ok(completion) => {
                    self.counts.answers.fetch_add(1, Ordering::Relaxed);
                    endpoint.answered();
                    endpoint.pace.answered(completion.prompt_tokens + completion.completion_tokens);
                    self.breaker.answered();
                    place.answered();
                    return Ok(completion);
                }
                Err(fault) => {
                    let pause = self.after(&fault, endpoint, place, &mut call)?;
                    self.unless_gone(sleep(pause)).await?;
                }
            }
        }
    }

    /// What is waited for, unless the model is gone before.
    async fn unless_gone<T>(&self, wait: impl Future<Output = T>) -> Result<T, GenerateError> {
        tokio::select! {
            biased;
            value = wait => Ok(value),
            reason = self.breaker.gone() => Err(self.gone(&reason)),
        }
    }

    fn gone(&self, reason: &str) -> GenerateError {
        let minutes = self.config.down_after.as_secs_f64() / 60.0;
        self.unavailable(format!(
            "nothing has answered for {minutes:.1} min (last: {reason}). Check the endpoint and run again: what was \
             answered is kept"
        ))
    }

    /// What a fault means for endpoint, breaker and call: a pause before the next try, or the end.
    fn after(
        &self,
        fault: &Fault,
        endpoint: &Endpoint,
        place: Place,
        call: &mut Call,
    ) -> Result<Duration, GenerateError> {
        let reason = format!("{}: {}", endpoint.address(), fault.reason());
        reason.clone_into(&mut call.last_reason);
        let counter =
            if matches!(fault, Fault::Overloaded { .. }) { &self.counts.overloads } else { &self.counts.failures };
        counter.fetch_add(1, Ordering::Relaxed);
        let asked = match fault {
            // What came back shows that the endpoint lives.
            Fault::Rejected { .. } => {
                self.breaker.answered();
                return Err(GenerateError::Refused { reason });
            }
            Fault::Malformed(_) | Fault::BreaksSchema { .. } => {
                self.breaker.answered();
                endpoint.answered();
                call.malformed += 1;
                if call.malformed >= MALFORMED_TRIES {
                    return Err(
                        self.failed(format!("{MALFORMED_TRIES} answers could not be used, the last one: {reason}"))
                    );
                }
                if let Fault::BreaksSchema { answer, reason } = fault {
                    call.repairs = extract::repair(answer, reason).into();
                }
                return Ok(Duration::ZERO);
            }
            Fault::Unusable(_) => {
                endpoint.set_unusable();
                return Ok(Duration::ZERO);
            }
            Fault::Overloaded { retry_after, .. } => {
                place.overloaded(*retry_after);
                // As long as there are places to take away, it may only be too much at once.
                if endpoint.window.size() <= FEW_PLACES {
                    endpoint.pace.overloaded();
                }
                *retry_after
            }
            Fault::Transient(_) => {
                if let Some(rest) = endpoint.failed() {
                    place.overloaded(Some(rest));
                }
                None
            }
        };
        if self.breaker.failed(&reason) {
            eprintln!("{reason}; nothing answers any more, so calls wait while one in a while asks again");
        }
        let pause = call.backoff.pause(asked);
        let tried = call.began.map_or(Duration::ZERO, |began| began.elapsed());
        if tried + pause > self.config.give_up_after {
            return Err(self.failed(format!("tried for {:.0} s, the last time: {reason}", tried.as_secs_f64())));
        }
        Ok(pause)
    }

    fn failed(&self, reason: String) -> GenerateError {
        GenerateError::Failed { model: self.fingerprint.clone(), reason }
    }
}

/// A call on its way.
struct Call {
    request: GenerateRequest,
    /// An answer that broke its schema, and what was said of it.
    repairs: Vec<Message>,
    malformed: usize,
    backoff: Backoff,
    began: Option<Instant>,
    last_reason: String,
}

impl Generate for RemoteModel {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn concurrency(&self) -> usize {
        self.config.max_in_flight * self.endpoints.len()
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(self.answer(request, None))
    }

    fn stream(&self, request: GenerateRequest, sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(self.answer(request, Some(sink)))
    }

    fn score(&self, _: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        let what =
            "report how likely a given text is (chat completions have no such call); score with an embedded model";
        let error = GenerateError::Unsupported { model: self.fingerprint.clone(), what: what.into() };
        Box::pin(std::future::ready(Err(error)))
    }
}
