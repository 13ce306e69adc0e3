use std::sync::Arc;

use opencharacter_core::{
    BoxFuture, Completion, Generate, GenerateError, GenerateRequest, Score, ScoreRequest, TextSink,
};
use tokio::task::JoinHandle;

use crate::{
    RemoteConfig, RemoteError,
    caller::Caller,
    notice::{Notice, Notices},
};

/// A model that is served elsewhere, as a [`Generate`].
///
/// Each call is a task of its own on the tokio runtime that polls it first: writing a request and reading its reply
/// cost as much as everything else that is done for an answer, and a loop that waits for thousands of calls on one
/// thread would do it all there. Dropping a call ends its task.
#[derive(Debug)]
pub struct RemoteModel {
    caller: Arc<Caller>,
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

impl RemoteModel {
    /// A model as `config` says; nothing is asked of it yet. `told` gets the notices.
    ///
    /// # Errors
    /// [`RemoteError::Setting`], [`RemoteError::Client`].
    pub fn new(config: RemoteConfig, told: impl Fn(Notice) + Send + Sync + 'static) -> Result<Self, RemoteError> {
        Ok(Self { caller: Arc::new(Caller::new(config, Notices::new(told))?) })
    }

    /// What was done so far.
    pub fn statistics(&self) -> RemoteStatistics {
        self.caller.statistics()
    }

    async fn answer(&self, request: GenerateRequest, sink: Option<TextSink>) -> Result<Completion, GenerateError> {
        let caller = Arc::clone(&self.caller);
        let mut task = AbortOnDrop(tokio::spawn(async move { caller.answer(request, sink).await }));
        match (&mut task.0).await {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(self.caller.unavailable("the program is ending".into())),
            },
        }
    }
}

/// A task that nobody waits for any more need not go on.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where a model is served, and whether in batches, does not change what it says: a run may move and go on.
pub(crate) fn fingerprint(model: &str) -> String {
    format!("openai:{model}")
}

/// Why chat completions have no `score`.
pub(crate) fn unsupported_score(fingerprint: &str) -> GenerateError {
    let what = "report how likely a given text is (chat completions have no such call); score with an embedded model";
    GenerateError::Unsupported { model: fingerprint.to_owned(), what: what.into() }
}

impl Generate for RemoteModel {
    fn fingerprint(&self) -> &str {
        self.caller.fingerprint()
    }

    fn concurrency(&self) -> usize {
        self.caller.concurrency()
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(self.answer(request, None))
    }

    fn stream(&self, request: GenerateRequest, sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(self.answer(request, Some(sink)))
    }

    fn score(&self, _: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(std::future::ready(Err(unsupported_score(self.fingerprint()))))
    }
}
