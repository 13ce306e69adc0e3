use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use opencharacter_core::{Completion, GenerateError, GenerateRequest, TextSink};
use tokio::time::{Instant, sleep};

use crate::{
    RemoteConfig, RemoteError,
    backoff::Backoff,
    breaker::{Breaker, Gate},
    call::{self, Call},
    endpoint::Endpoint,
    fault::Fault,
    model::{RemoteStatistics, fingerprint},
    notice::{Notice, Notices},
    window::Place,
};

/// Brings calls to their end over the endpoints of one model.
#[derive(Debug)]
pub(crate) struct Caller {
    config: RemoteConfig,
    endpoints: Vec<Endpoint>,
    breaker: Breaker,
    fingerprint: String,
    calls: AtomicU64,
    counts: Counts,
    notices: Notices,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    answers: AtomicU64,
    overloads: AtomicU64,
    failures: AtomicU64,
}

/// A window of so few places that still meets refusals is not what is too large: the rate is.
const FEW_PLACES: usize = 4;

impl Caller {
    /// Nothing is asked of the endpoints yet.
    pub(crate) fn new(config: RemoteConfig, notices: Notices) -> Result<Self, RemoteError> {
        config.validate()?;
        let endpoint = |endpoint| Endpoint::new(endpoint, &config, notices.clone());
        let endpoints = config.endpoints.iter().map(endpoint).collect::<Result<_, _>>()?;
        Ok(Self {
            endpoints,
            breaker: Breaker::new(config.down_after),
            fingerprint: fingerprint(&config.model),
            calls: AtomicU64::new(0),
            counts: Counts::default(),
            notices,
            config,
        })
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Calls that are worth having under way.
    pub(crate) fn concurrency(&self) -> usize {
        self.config.max_in_flight * self.endpoints.len()
    }

    /// What was done so far.
    pub(crate) fn statistics(&self) -> RemoteStatistics {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RemoteStatistics {
            requests: count(&self.counts.requests),
            answers: count(&self.counts.answers),
            overloads: count(&self.counts.overloads),
            failures: count(&self.counts.failures),
            window: self.endpoints.iter().map(|endpoint| endpoint.window.size()).sum(),
        }
    }

    pub(crate) fn unavailable(&self, reason: String) -> GenerateError {
        GenerateError::Unavailable { model: self.fingerprint.clone(), reason }
    }

    /// For a call that may never have been sent: others found out before.
    fn none_usable(&self) -> GenerateError {
        let refusals: Vec<&str> = self.endpoints.iter().filter_map(Endpoint::refusal).collect();
        self.unavailable(refusals.join("; "))
    }

    /// The usable endpoint with most room.
    fn roomiest(&self) -> Option<&Endpoint> {
        let usable = self.endpoints.iter().filter(|endpoint| endpoint.is_usable());
        usable.min_by(|left, right| left.window.load().total_cmp(&right.window.load()))
    }

    /// The answer to a request, heard by `sink` piece by piece where there is one.
    pub(crate) async fn answer(
        &self,
        request: GenerateRequest,
        mut sink: Option<TextSink>,
    ) -> Result<Completion, GenerateError> {
        let mut call = Call::new(request)?;
        let mut tries = Tries { backoff: Backoff::new(self.calls.fetch_add(1, Ordering::Relaxed)), began: None };
        loop {
            if let Gate::Gone(reason) = self.breaker.pass().await {
                return Err(self.gone(&reason));
            }
            let Some(endpoint) = self.roomiest() else { return Err(self.none_usable()) };
            let elsewhere = |other: &&Endpoint| other.is_usable() && !std::ptr::eq(*other, endpoint);
            let patient = self.endpoints.iter().filter(elsewhere).all(|other| other.window.is_paused());
            let Some(place) = self.unless_gone(endpoint.window.enter(patient)).await? else { continue };
            self.unless_gone(endpoint.pace.enter()).await?;
            tries.began.get_or_insert_with(Instant::now);
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            let result = endpoint.call(&self.config.model, &call, sink.as_mut()).await;
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
                    let pause = self.after(&fault, endpoint, place, &mut call, &mut tries)?;
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
        tries: &mut Tries,
    ) -> Result<Duration, GenerateError> {
        let reason = format!("{}: {}", endpoint.address(), fault.reason());
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
                return if call.may_repair(fault) {
                    Ok(Duration::ZERO)
                } else {
                    Err(self.failed(call::useless(&reason)))
                };
            }
            Fault::Unusable(_) => {
                endpoint.set_unusable(&reason);
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
            self.notices.tell(Notice::NothingAnswers { reason: reason.clone() });
        }
        let pause = tries.backoff.pause(asked);
        let tried = tries.began.map_or(Duration::ZERO, |began| began.elapsed());
        if tried + pause > self.config.give_up_after {
            return Err(self.failed(format!("tried for {:.0} s, the last time: {reason}", tried.as_secs_f64())));
        }
        Ok(pause)
    }

    fn failed(&self, reason: String) -> GenerateError {
        GenerateError::Failed { model: self.fingerprint.clone(), reason }
    }
}

/// What a call has gone through.
struct Tries {
    backoff: Backoff,
    began: Option<Instant>,
}
