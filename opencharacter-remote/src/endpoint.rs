use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opencharacter_core::{Completion, TextSink, without_credentials};
use reqwest::{Method, Url, header::CONTENT_TYPE};

use crate::{
    EndpointConfig, RemoteConfig, RemoteError,
    call::Call,
    fault::Fault,
    http::{self, Http},
    notice::Notices,
    pace::Pace,
    quirks::{LearnedQuirks, Quirks},
    stream::StreamedReply,
    window::Window,
    wire::{Body, Reply},
};

/// So many failures in a row and no answer between: the endpoint gets a rest.
const TOLERATED: usize = 5;
const LONGEST_REST: Duration = Duration::from_secs(20);

/// One place where a model is served, with what was learned of it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    http: Http,
    url: Url,
    /// Where it is, without anything secret.
    address: String,
    pub(crate) window: Arc<Window>,
    pub(crate) pace: Pace,
    quirks: LearnedQuirks,
    /// Since its last answer.
    failures: AtomicUsize,
    longest_rest: Duration,
    /// Why it refuses everything: a wrong key, an unknown model.
    unusable: OnceLock<String>,
}

impl Endpoint {
    pub(crate) fn new(config: &EndpointConfig, remote: &RemoteConfig, notices: Notices) -> Result<Self, RemoteError> {
        let http = Http::new(config, remote.connect_timeout, remote.request_timeout)?;
        let url = http.url(&["chat", "completions"]);
        let address = without_credentials(url.as_str());
        Ok(Self {
            quirks: LearnedQuirks::new(Quirks::default(), &address, notices),
            address,
            http,
            url,
            window: Window::new(remote.max_in_flight),
            pace: Pace::default(),
            failures: AtomicUsize::new(0),
            // Several tries must fit into the time after which the model counts as gone.
            longest_rest: LONGEST_REST.min(remote.down_after / 8),
            unusable: OnceLock::new(),
        })
    }

    /// Where it is, without anything secret.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.unusable.get().is_none()
    }

    /// Why nothing is asked of it any more.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.unusable.get().map(String::as_str)
    }

    pub(crate) fn set_unusable(&self, reason: &str) {
        // Calls under way may find out together; the first reason stays.
        let _ = self.unusable.set(reason.to_owned());
    }

    /// Takes note of an answer.
    pub(crate) fn answered(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Takes note of a failure; how long the endpoint should be left alone, if at all. Without it, an endpoint that
    /// refuses connections at once would look like the one with most room.
    pub(crate) fn failed(&self) -> Option<Duration> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let beyond = failures.checked_sub(TOLERATED)?;
        Some(Duration::from_millis(250).saturating_mul(2_u32.saturating_pow(beyond as u32)).min(self.longest_rest))
    }

    /// One try. A field that the endpoint turns out not to take is left out, and the try made again.
    pub(crate) async fn call(
        &self,
        model: &str,
        call: &Call,
        mut sink: Option<&mut TextSink>,
    ) -> Result<Completion, Fault> {
        loop {
            let quirks = self.quirks.now();
            let mut body = call.body(model, quirks);
            if sink.is_some() {
                body.fields.insert("stream".into(), true.into());
                body.fields.insert("stream_options".into(), serde_json::json!({ "include_usage": true }));
            }
            match self.send(&body, sink.as_deref_mut()).await {
                Err(fault) if self.quirks.learn(quirks, &body, &fault) => {}
                result => return call.checked(result?),
            }
        }
    }

    async fn send(&self, body: &Body<'_>, sink: Option<&mut TextSink>) -> Result<Completion, Fault> {
        let bytes = serde_json::to_vec(body).map_err(|error| Fault::Malformed(error.to_string()))?;
        let request = self.http.request(Method::POST, self.url.clone());
        let response = http::reply_to(request.header(CONTENT_TYPE, "application/json").body(bytes)).await?;
        self.pace.heard(response.headers());
        let response = http::successful(response).await?;
        match sink {
            None => Reply::parse(&http::read(response).await?)?.completion(),
            Some(sink) => StreamedReply::read(response, sink).await,
        }
    }
}
