use std::{path::PathBuf, time::Duration};

use crate::{EndpointConfig, RemoteError};

/// A model that is asked through its provider's batch API.
///
/// The limits are those of the API: 50,000 requests and 200 MB per file.
#[derive(Debug, Clone)]
pub struct BatchConfig {
    /// The model's name at its endpoint.
    pub model: String,
    /// Where it is served.
    pub endpoint: EndpointConfig,
    /// Holds a file per submitted batch until its answers have been fetched; one process at a time uses it.
    pub folder: PathBuf,
    /// Requests in a batch at most.
    pub max_requests: usize,
    /// Bytes in a batch's file at most.
    pub max_bytes: usize,
    /// A batch is submitted when so long nothing was added to it.
    pub quiet: Duration,
    /// From submitting a batch to the first look at it; the pauses after it double.
    pub first_poll: Duration,
    /// The longest pause between two looks at a batch.
    pub longest_poll: Duration,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// For a file to be sent or fetched.
    pub request_timeout: Duration,
    /// An exchange that fails is tried again for so long; then the endpoint counts as gone.
    pub down_after: Duration,
}

const MOST_REQUESTS: usize = 50_000;
const MOST_BYTES: usize = 200_000_000;

impl BatchConfig {
    /// The defaults: files as large as the API takes, sent after 10 s of quiet, a look after 5 s and then up to 2 min
    /// apart, 10 s to connect, 20 min per file, gone after 30 min.
    pub fn new(model: impl Into<String>, endpoint: EndpointConfig, folder: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            endpoint,
            folder: folder.into(),
            max_requests: MOST_REQUESTS,
            max_bytes: MOST_BYTES,
            quiet: Duration::from_secs(10),
            first_poll: Duration::from_secs(5),
            longest_poll: Duration::from_mins(2),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_mins(20),
            down_after: Duration::from_mins(30),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), RemoteError> {
        let fault = |name, reason: String| Err(RemoteError::Setting { name, reason });
        if self.model.trim().is_empty() {
            return fault("model", "must name the model as its endpoint knows it".into());
        }
        if !(1..=MOST_REQUESTS).contains(&self.max_requests) {
            return fault("max_requests", format!("must be from 1 to {MOST_REQUESTS}, what a batch may hold"));
        }
        if !(1..=MOST_BYTES).contains(&self.max_bytes) {
            return fault("max_bytes", format!("must be from 1 to {MOST_BYTES}, what a batch's file may hold"));
        }
        Ok(())
    }
}
