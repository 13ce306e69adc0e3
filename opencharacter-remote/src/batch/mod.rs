//! Calls in batches: half the price, and answers within a day.

mod api;
mod config;
mod desk;
mod outcome;
mod record;
mod request_line;
mod run;

use std::{fs::File, sync::Arc};

use opencharacter_core::{
    BoxFuture, Completion, Generate, GenerateError, GenerateRequest, Score, ScoreRequest, TextSink,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

pub use self::config::BatchConfig;
use self::{
    api::Api,
    desk::{Delivery, Desk, Letter},
    outcome::Outcome,
    record::Records,
    request_line::RequestLine,
    run::Runner,
};
use crate::{
    Notice, RemoteError,
    call::{self, Call},
    fault::Fault,
    http::Http,
    model::{fingerprint, unsupported_score},
    notice::Notices,
    quirks::{LearnedQuirks, Quirks},
    wire::Body,
};

/// In so many batches a call is tried whose answer did not come.
const TRIES: usize = 4;

/// A model that is asked through its provider's batch API, as a [`Generate`].
///
/// Calls are gathered until a file is full or nothing was added for a while, submitted together, and answered when the
/// batch is over. Keep [`concurrency`](Generate::concurrency) calls in flight, or batches stay small.
///
/// What was submitted is paid for. So each batch leaves a record in [`BatchConfig::folder`] before it is submitted, and
/// a call whose request an earlier process submitted waits for that batch. The record goes when all of its answers
/// were taken. A dropped call that is in no batch yet is not sent; one in a batch is answered there all the same, and
/// asking again finds the answer.
#[derive(Debug)]
pub struct BatchModel {
    config: BatchConfig,
    fingerprint: String,
    endpoint: String,
    quirks: Arc<LearnedQuirks>,
    /// The desk works until this is dropped.
    desk: mpsc::UnboundedSender<Letter>,
    _lock: File,
}

impl BatchModel {
    /// A model as `config` says, and the batches that its folder knows of. `told` gets the notices. Nothing is asked of
    /// the endpoint before the first call.
    ///
    /// # Errors
    /// [`RemoteError::Setting`], [`RemoteError::Folder`], [`RemoteError::Client`], [`RemoteError::NoRuntime`].
    pub fn open(config: BatchConfig, told: impl Fn(Notice) + Send + Sync + 'static) -> Result<Self, RemoteError> {
        config.validate()?;
        let runtime = Handle::try_current().map_err(|_| RemoteError::NoRuntime)?;
        let notices = Notices::new(told);
        let api = Api::new(Http::new(&config.endpoint, config.connect_timeout, config.request_timeout)?);
        let endpoint = api.address();
        let (records, lock) = Records::open(&config.folder, &endpoint, &config.model)?;
        let found = records.load()?;
        let left_out = found.iter().flat_map(|record| record.left_out.iter().map(String::as_str));
        let quirks = Arc::new(LearnedQuirks::new(Quirks::leaving_out(left_out), &endpoint, notices.clone()));
        let (first_poll, longest_poll, down_after) = (config.first_poll, config.longest_poll, config.down_after);
        let runner = Arc::new(Runner { api, records, notices, first_poll, longest_poll, down_after });
        let (desk, letters) = mpsc::unbounded_channel();
        runtime.spawn(Desk::new(runner, Arc::clone(&quirks), config.clone(), found).work(letters));
        Ok(Self { fingerprint: fingerprint(&config.model), endpoint, config, quirks, desk, _lock: lock })
    }

    async fn answer(&self, request: GenerateRequest) -> Result<Completion, GenerateError> {
        let mut call = Call::new(request)?;
        let mut tries = 0;
        loop {
            let quirks = self.quirks.now();
            let body = call.body(&self.config.model, quirks);
            let fault = match self.outcome(&body).await? {
                Outcome::NotBegun => continue,
                Outcome::Fault(fault) => fault,
                Outcome::Answer(completion) => match call.checked(completion) {
                    Ok(completion) => return Ok(completion),
                    Err(fault) => fault,
                },
            };
            if self.quirks.learn(quirks, &body, &fault) {
                continue;
            }
            let reason = format!("{}: {}", self.endpoint, fault.reason());
            match &fault {
                Fault::Rejected { .. } => return Err(GenerateError::Refused { reason }),
                Fault::Unusable(_) => return Err(self.unavailable(reason)),
                Fault::Malformed(_) | Fault::BreaksSchema { .. } => {
                    if !call.may_repair(&fault) {
                        return Err(self.failed(call::useless(&reason)));
                    }
                }
                Fault::Overloaded { .. } | Fault::Transient(_) => {
                    tries += 1;
                    if tries == TRIES {
                        return Err(self.failed(format!("tried in {TRIES} batches, the last time: {reason}")));
                    }
                }
            }
        }
    }

    /// What one batch brings for a body.
    async fn outcome(&self, body: &Body<'_>) -> Result<Outcome, GenerateError> {
        let refused = |reason: String| GenerateError::Refused { reason };
        let line = RequestLine::new(body).map_err(|error| refused(format!("the request is no JSON: {error}")))?;
        if line.bytes.len() > self.config.max_bytes {
            let (bytes, most) = (line.bytes.len(), self.config.max_bytes);
            return Err(refused(format!(
                "the request has {bytes} bytes and a batch's file {most} at most; shorten it"
            )));
        }
        let id = line.id.clone();
        let (reply, delivery) = oneshot::channel();
        let gone = || self.unavailable("the desk has closed; the runtime that the model was opened in ended".into());
        self.desk.send(Letter::Ask { line, reply }).map_err(|_| gone())?;
        let Delivery { batch, outcome } = delivery.await.map_err(|_| gone())?;
        self.desk.send(Letter::Taken { id, batch }).map_err(|_| gone())?;
        Ok(outcome)
    }

    fn failed(&self, reason: String) -> GenerateError {
        GenerateError::Failed { model: self.fingerprint.clone(), reason }
    }

    fn unavailable(&self, reason: String) -> GenerateError {
        GenerateError::Unavailable { model: self.fingerprint.clone(), reason }
    }
}

impl Generate for BatchModel {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn concurrency(&self) -> usize {
        self.config.max_requests
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(self.answer(request))
    }

    fn stream(&self, request: GenerateRequest, mut sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            let completion = self.answer(request).await?;
            sink(&completion.text);
            Ok(completion)
        })
    }

    fn score(&self, _: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(std::future::ready(Err(unsupported_score(&self.fingerprint))))
    }
}
