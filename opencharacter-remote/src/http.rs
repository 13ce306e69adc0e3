//! Exchanges with one endpoint: authorised, bounded in time and size, and without redirects.

use std::{sync::Once, time::Duration};

use reqwest::{
    Client, Method, RequestBuilder, Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
    redirect,
};

use crate::{EndpointConfig, RemoteError, fault::Fault};

/// A reply longer than this, or a line of one, is no answer to a question.
pub(crate) const LONGEST_REPLY: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    base: Url,
}

impl Http {
    pub(crate) fn new(
        endpoint: &EndpointConfig,
        connect_timeout: Duration,
        request_timeout: Duration,
    ) -> Result<Self, RemoteError> {
        static PROVIDER: Once = Once::new();
        // reqwest is built without a cryptography of its own. A provider that the process has set before stays.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut headers = HeaderMap::new();
        if let Some(key) = &endpoint.key
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder()
            .default_headers(headers)
            .connect_timeout(connect_timeout)
            .timeout(request_timeout)
            .pool_max_idle_per_host(usize::MAX)
            // A key must not follow a redirect, and an endpoint that moved should be named anew.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(RemoteError::Client)?;
        Ok(Self { client, base: endpoint.base_url.clone() })
    }

    /// The part of every address before what is asked for.
    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    /// The address of a path below the base; what an endpoint named is one segment, whatever it is made of.
    pub(crate) fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Every HTTP address can carry a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }
}

/// The reply to a request, whatever its status.
pub(crate) async fn reply_to(request: RequestBuilder) -> Result<Response, Fault> {
    request.send().await.map_err(|error| Fault::of_transport(&error))
}

/// A reply that is a success, or what it says instead.
pub(crate) async fn successful(response: Response) -> Result<Response, Fault> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let headers = response.headers().clone();
    let body = read(response).await.unwrap_or_default();
    Err(Fault::of_reply(status, &headers, &String::from_utf8_lossy(&body)))
}

/// A reply's whole body.
pub(crate) async fn read(mut response: Response) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::with_capacity(response.content_length().unwrap_or(0).min(1 << 20) as usize);
    while let Some(chunk) = chunk_of(&mut response).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST_REPLY {
            return Err(Fault::Malformed(format!("the reply is longer than {LONGEST_REPLY} bytes")));
        }
    }
    Ok(bytes)
}

/// The next piece of a reply's body.
pub(crate) async fn chunk_of(response: &mut Response) -> Result<Option<bytes::Bytes>, Fault> {
    response.chunk().await.map_err(|error| Fault::of_transport(&error))
}
