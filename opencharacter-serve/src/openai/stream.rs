//! Answers as they come: server-sent events.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, HeaderValue},
};
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{error::ApiError, respond::response};

/// Events of one answer. Their task ends with them: a client that leaves frees its place in the model's batch.
pub(crate) struct EventStream {
    events: mpsc::UnboundedReceiver<Result<Bytes, ApiError>>,
    // Dropped, a set ends its tasks.
    _task: JoinSet<()>,
}

/// Where events go; an answer bounds how many wait.
#[derive(Clone)]
pub(crate) struct Events(mpsc::UnboundedSender<Result<Bytes, ApiError>>);

impl Events {
    /// One event with a document.
    pub(crate) fn send(&self, document: &Value) {
        self.write(Ok(format!("data: {document}\n\n").into()));
    }

    /// The last event of the API's streams.
    pub(crate) fn done(&self) {
        self.write(Ok("data: [DONE]\n\n".into()));
    }

    /// Ends with an error: an event where others have gone before it, the whole reply where it is the first.
    pub(crate) fn fail(&self, error: ApiError) {
        self.write(Err(error));
    }

    fn write(&self, event: Result<Bytes, ApiError>) {
        // Nobody listens any more: the task is about to end.
        let _ = self.0.send(event);
    }
}

/// Events of which the first waits for the second: a request that is refused is then an error and not an answer that
/// has begun.
pub(super) struct Opening {
    events: Events,
    first: Option<Value>,
}

impl Opening {
    pub(super) fn new(events: &Events, first: Option<Value>) -> Self {
        Self { events: events.clone(), first }
    }

    /// Sends the first event if it has not gone yet.
    pub(super) fn open(&mut self) {
        if let Some(first) = self.first.take() {
            self.events.send(&first);
        }
    }

    pub(super) fn send(&mut self, document: &Value) {
        self.open();
        self.events.send(document);
    }
}

impl EventStream {
    /// Starts `work`, which sends events.
    pub(crate) fn start<F>(work: impl FnOnce(Events) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, events) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(work(Events(sender)));
        Self { events, _task: task }
    }

    /// The reply that these events are, once the first has come.
    ///
    /// # Errors
    /// What the work failed with before it had sent anything.
    pub(crate) async fn into_response(mut self) -> Result<Response, ApiError> {
        let first = match self.events.recv().await {
            Some(Err(error)) => return Err(error),
            Some(Ok(event)) => event,
            None => Bytes::new(),
        };
        let events = stream::iter([Ok::<_, Infallible>(first)]).chain(self);
        let mut reply = response(StatusCode::OK, "text/event-stream", Body::from_stream(events));
        reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // A proxy in between must not gather them.
        reply.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(reply)
    }
}

impl Stream for EventStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = |event: Result<Bytes, ApiError>| {
            Ok(event.unwrap_or_else(|error| format!("data: {}\n\n", error.to_json()).into()))
        };
        self.events.poll_recv(context).map(|next| next.map(event))
    }
}
