//! Answers as they come: server-sent events.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::Stream;
use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, HeaderValue},
};
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::respond::response;

/// A task that ends when nobody waits for it any more: a client that leaves frees its place in the model's batch.
pub(crate) struct AbortOnDrop(pub(crate) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Events of one answer, whose task ends with them.
pub(crate) struct EventStream {
    events: mpsc::UnboundedReceiver<Bytes>,
    _task: AbortOnDrop,
}

/// Where events go; an answer bounds how many wait.
#[derive(Clone)]
pub(crate) struct Events(mpsc::UnboundedSender<Bytes>);

impl Events {
    /// One event with a document.
    pub(crate) fn send(&self, document: &Value) {
        self.write(format!("data: {document}\n\n"));
    }

    /// The last event of the API's streams.
    pub(crate) fn done(&self) {
        self.write("data: [DONE]\n\n".to_owned());
    }

    fn write(&self, text: String) {
        // Nobody listens any more: the task is about to end.
        let _ = self.0.send(text.into());
    }
}

impl EventStream {
    /// Starts `work`, which sends events.
    pub(crate) fn start<F>(work: impl FnOnce(Events) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(work(Events(sender)));
        Self { events, _task: AbortOnDrop(task) }
    }
}

impl Stream for EventStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context).map(|event| event.map(Ok))
    }
}

/// A reply made of events.
pub(crate) fn sent_events(events: EventStream) -> Response {
    let mut reply = response(StatusCode::OK, "text/event-stream", Body::from_stream(events));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // A proxy in between must not gather them.
    reply.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    reply
}
