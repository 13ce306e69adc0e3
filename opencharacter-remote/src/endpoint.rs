use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opencharacter_core::{Completion, GenerateRequest, Message, TextSink};
use reqwest::{
    Client, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};

use crate::{
    EndpointConfig, RemoteConfig, RemoteError, extract,
    fault::Fault,
    pace::Pace,
    quirks::Quirks,
    stream::StreamedReply,
    window::Window,
    wire::{Reply, body},
};

/// A reply longer than this is no answer to a question.
const LONGEST_REPLY: usize = 64 << 20;
/// So many failures in a row and no answer between: the endpoint gets a rest.
const TOLERATED: usize = 5;
const LONGEST_REST: Duration = Duration::from_secs(20);

/// One place where a model is served, with what was learned of it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    client: Client,
    url: Url,
    pub(crate) window: Arc<Window>,
    pub(crate) pace: Pace,
    quirks: AtomicU16,
    /// Since its last answer.
    failures: AtomicUsize,
    longest_rest: Duration,
    /// It refuses everything: a wrong key, an unknown model.
    unusable: AtomicBool,
}

impl Endpoint {
    pub(crate) fn new(config: &EndpointConfig, remote: &RemoteConfig) -> Result<Self, RemoteError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &config.key
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder()
            .default_headers(headers)
            .connect_timeout(remote.connect_timeout)
            .timeout(remote.request_timeout)
            .pool_max_idle_per_host(usize::MAX)
            // A key must not follow a redirect, and an endpoint that moved should be named anew.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(RemoteError::Client)?;
        let url = config.base_url.join("chat/completions").map_err(|error| RemoteError::Address {
            address: config.base_url.to_string(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            client,
            url,
            window: Window::new(remote.max_in_flight),
            pace: Pace::default(),
            quirks: AtomicU16::new(0),
            failures: AtomicUsize::new(0),
            // Several tries must fit into the time after which the model counts as gone.
            longest_rest: LONGEST_REST.min(remote.down_after / 8),
            unusable: AtomicBool::new(false),
        })
    }

    /// Where it is, without anything secret.
    pub(crate) fn address(&self) -> &str {
        self.url.as_str()
    }

    pub(crate) fn is_usable(&self) -> bool {
        !self.unusable.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unusable(&self) {
        self.unusable.store(true, Ordering::Relaxed);
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
        request: &GenerateRequest,
        repairs: &[Message],
        mut sink: Option<&mut TextSink>,
    ) -> Result<Completion, Fault> {
        loop {
            let quirks = Quirks::from_bits(self.quirks.load(Ordering::Relaxed));
            let mut body = body(model, request, repairs, quirks);
            if sink.is_some() {
                body.insert("stream".into(), true.into());
                body.insert("stream_options".into(), serde_json::json!({ "include_usage": true }));
            }
            let result = self.send(&body, sink.as_deref_mut()).await;
            if let Err(Fault::Rejected { status: 400 | 422, reason }) = &result
                && let Some((learned, field)) = quirks.learn(body.keys().map(String::as_str), reason)
            {
                if self.quirks.swap(learned.bits(), Ordering::Relaxed) == quirks.bits() {
                    eprintln!("{} does not take `{field}` ({reason}); going on without", self.address());
                }
                continue;
            }
            let completion = result?;
            return match &request.schema {
                None => Ok(completion),
                Some(schema) => match extract::checked(&completion.text, schema) {
                    Ok(text) => Ok(Completion { text, ..completion }),
                    Err(reason) => Err(Fault::BreaksSchema { answer: completion.text, reason }),
                },
            };
        }
    }

    async fn send(
        &self,
        body: &serde_json::Map<String, serde_json::Value>,
        sink: Option<&mut TextSink>,
    ) -> Result<Completion, Fault> {
        let bytes = serde_json::to_vec(body).map_err(|error| Fault::Malformed(error.to_string()))?;
        let request = self.client.post(self.url.clone()).body(bytes);
        let response = request.send().await.map_err(|error| Fault::of_transport(&error))?;
        self.pace.heard(response.headers());
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let body = read(response).await.unwrap_or_default();
            return Err(Fault::of_reply(status, &headers, &String::from_utf8_lossy(&body)));
        }
        match sink {
            None => Reply::completion(&read(response).await?),
            Some(sink) => StreamedReply::read(response, sink).await,
        }
    }
}

/// A reply's whole body.
async fn read(mut response: Response) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::with_capacity(response.content_length().unwrap_or(0).min(1 << 20) as usize);
    while let Some(chunk) = response.chunk().await.map_err(|error| Fault::of_transport(&error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST_REPLY {
            return Err(Fault::Malformed(format!("the reply is longer than {LONGEST_REPLY} bytes")));
        }
    }
    Ok(bytes)
}
