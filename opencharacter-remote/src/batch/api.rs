//! The calls of the batch API, one try each.

use std::{collections::HashMap, fmt, time::Duration};

use bytes::Bytes;
use opencharacter_core::without_credentials;
use reqwest::{
    Body, Method, RequestBuilder, Url,
    multipart::{Form, Part},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    batch::{outcome::OutputLine, request_line::CALLED},
    fault::Fault,
    http::{self, Http},
    lines::Lines,
};

/// For a reply that is no file.
const SOON: Duration = Duration::from_mins(1);

/// A batch as its endpoint describes it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct BatchObject {
    pub(crate) id: String,
    pub(crate) status: Status,
    input_file_id: Option<String>,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    errors: Option<Errors>,
    #[serde(default)]
    created_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(crate) enum Status {
    /// Of whatever kind: the end is still to come.
    Working,
    Completed,
    Failed,
    Expired,
    Cancelled,
}

#[derive(Debug, Clone, Deserialize)]
struct Errors {
    #[serde(default)]
    data: Vec<BatchError>,
}

#[derive(Debug, Clone, Deserialize)]
struct BatchError {
    code: Option<String>,
    message: Option<String>,
    /// Counted from 1.
    line: Option<u64>,
}

#[derive(Deserialize)]
struct FileObject {
    id: String,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    data: Vec<BatchObject>,
    #[serde(default)]
    has_more: bool,
}

impl From<String> for Status {
    fn from(name: String) -> Self {
        match name.as_str() {
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            "expired" => Self::Expired,
            "cancelled" => Self::Cancelled,
            _ => Self::Working,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Working => "in progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        })
    }
}

impl BatchObject {
    /// The files that say what became of its requests.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        [&self.output_file_id, &self.error_file_id].into_iter().flatten().map(String::as_str)
    }

    /// Whether it failed only because too much was waiting already.
    pub(crate) fn queue_is_full(&self) -> bool {
        self.errors().iter().any(|error| error.code.as_deref() == Some("token_limit_exceeded"))
    }

    /// Which lines of its file were wrong, counted from 1, and why.
    pub(crate) fn blamed_lines(&self) -> HashMap<u64, &str> {
        self.errors().iter().filter_map(|error| Some((error.line?, error.said()))).collect()
    }

    /// Why it failed.
    pub(crate) fn reason(&self) -> &str {
        self.errors().first().map_or("no reason was given", BatchError::said)
    }

    fn errors(&self) -> &[BatchError] {
        self.errors.as_ref().map_or(&[], |errors| &errors.data)
    }
}

impl BatchError {
    fn said(&self) -> &str {
        self.message.as_deref().or(self.code.as_deref()).unwrap_or("no reason was given")
    }
}

/// The batch API of one endpoint.
#[derive(Debug)]
pub(crate) struct Api {
    http: Http,
}

impl Api {
    pub(crate) fn new(http: Http) -> Self {
        Self { http }
    }

    /// Where it is, without anything secret.
    pub(crate) fn address(&self) -> String {
        without_credentials(self.http.base().as_str())
    }

    /// A request whose reply is short and should come soon.
    fn small(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url).timeout(SOON)
    }

    /// Sends a file of requests; its id.
    pub(crate) async fn upload(&self, lines: Bytes) -> Result<String, Fault> {
        let length = lines.len() as u64;
        let part = Part::stream_with_length(Body::from(lines), length).file_name("requests.jsonl");
        let part = part.mime_str("application/jsonl").map_err(|error| Fault::of_transport(&error))?;
        let form = Form::new().text("purpose", "batch").part("file", part);
        let request = self.http.request(Method::POST, self.http.url(&["files"])).multipart(form);
        Ok(exchange::<FileObject>(request).await?.id)
    }

    /// Makes a batch of an uploaded file.
    pub(crate) async fn create(&self, input_file_id: &str) -> Result<BatchObject, Fault> {
        let body = json!({"input_file_id": input_file_id, "endpoint": CALLED, "completion_window": "24h"});
        let request = self.small(Method::POST, self.http.url(&["batches"]));
        exchange(request.header("content-type", "application/json").body(body.to_string())).await
    }

    /// How a batch stands.
    pub(crate) async fn look_at(&self, batch_id: &str) -> Result<BatchObject, Fault> {
        exchange(self.small(Method::GET, self.http.url(&["batches", batch_id]))).await
    }

    /// The batch that was made of a file, if any was since a time in seconds since 1970.
    pub(crate) async fn made_of(&self, input_file_id: &str, since: u64) -> Result<Option<BatchObject>, Fault> {
        let mut after: Option<String> = None;
        loop {
            let mut url = self.http.url(&["batches"]);
            url.query_pairs_mut().append_pair("limit", "100");
            if let Some(after) = &after {
                url.query_pairs_mut().append_pair("after", after);
            }
            // The newest come first.
            let page: Page = exchange(self.small(Method::GET, url)).await?;
            let last = page.data.last().map(|batch| (batch.id.clone(), batch.created_at));
            let made = page.data.into_iter().find(|batch| batch.input_file_id.as_deref() == Some(input_file_id));
            if made.is_some() {
                return Ok(made);
            }
            match last {
                Some((id, created_at)) if page.has_more && created_at >= since && after.as_ref() != Some(&id) => {
                    after = Some(id);
                }
                _ => return Ok(None),
            }
        }
    }

    /// Hands on the lines of a result file. Lines that are none are passed over: their requests count as unanswered.
    pub(crate) async fn read(&self, file_id: &str, mut take: impl FnMut(OutputLine) + Send) -> Result<(), Fault> {
        let url = self.http.url(&["files", file_id, "content"]);
        let response = http::reply_to(self.http.request(Method::GET, url)).await?;
        let mut response = http::successful(response).await?;
        let mut take = |line: &[u8]| {
            if let Ok(line) = serde_json::from_slice(line) {
                take(line);
            }
        };
        let mut lines = Lines::default();
        while let Some(chunk) = http::chunk_of(&mut response).await? {
            lines.push(&chunk)?;
            while let Some(line) = lines.next() {
                take(&line);
            }
        }
        take(&lines.rest());
        Ok(())
    }
}

async fn exchange<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, Fault> {
    let response = http::successful(http::reply_to(request).await?).await?;
    let body = http::read(response).await?;
    serde_json::from_slice(&body).map_err(|error| Fault::Malformed(format!("the reply is not as expected: {error}")))
}
