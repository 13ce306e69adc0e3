use std::time::Duration;

use opencharacter_core::without_credentials;
use reqwest::Url;

use crate::{ApiKey, RemoteError};

/// A model behind one or several endpoints.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// The model's name at its endpoints.
    pub model: String,
    /// Where it is served; calls go where most room is.
    pub endpoints: Vec<EndpointConfig>,
    /// Calls in flight per endpoint at most; the window below it is learned.
    pub max_in_flight: usize,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// For a whole answer.
    pub request_timeout: Duration,
    /// A call is tried again for at most so long.
    pub give_up_after: Duration,
    /// Without a single answer for so long, with calls failing, the model counts as gone.
    pub down_after: Duration,
}

impl RemoteConfig {
    /// The defaults: 256 calls in flight, 10 s to connect, 10 min per answer, 15 min per call, gone after 3 min.
    pub fn new(model: impl Into<String>, endpoints: Vec<EndpointConfig>) -> Self {
        Self {
            model: model.into(),
            endpoints,
            max_in_flight: 256,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_mins(10),
            give_up_after: Duration::from_mins(15),
            down_after: Duration::from_mins(3),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), RemoteError> {
        let fault = |name, reason: &str| Err(RemoteError::Setting { name, reason: reason.to_owned() });
        if self.model.trim().is_empty() {
            return fault("model", "must name the model as its endpoint knows it");
        }
        if self.endpoints.is_empty() {
            return fault("base_url", "must name at least one endpoint");
        }
        if self.max_in_flight == 0 {
            return fault("max_in_flight", "must be at least 1");
        }
        Ok(())
    }
}

/// One place where a model is served.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    pub(crate) base_url: Url,
    pub(crate) key: Option<ApiKey>,
}

impl EndpointConfig {
    /// `base_url` is the part before `/chat/completions`, usually ending in `/v1`.
    ///
    /// # Errors
    /// [`RemoteError::Address`]: no URL, not HTTP, or with a name and password in it (a key belongs in the environment).
    pub fn new(base_url: &str, key: Option<ApiKey>) -> Result<Self, RemoteError> {
        let fault = |reason: String| RemoteError::Address { address: without_credentials(base_url), reason };
        let mut url = Url::parse(base_url.trim()).map_err(|error| fault(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(fault(format!("`{}` is not HTTP", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fault("it holds credentials; put the key into the environment".into()));
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(Self { base_url: url, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_credentials_never_shown() {
        assert_eq!(EndpointConfig::new("http://localhost:8000/v1", None).unwrap().base_url.path(), "/v1/");
        for (address, part) in [
            ("localhost:8000", "not HTTP"),
            ("ftp://host/v1", "not HTTP"),
            ("nonsense", "no endpoint"),
            ("https://me:secret@host/v1", "environment"),
        ] {
            let error = EndpointConfig::new(address, None).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
        let key = ApiKey::from_environment("PATH").map(|key| format!("{key:?}"));
        assert_eq!(key.unwrap_or_default(), "ApiKey(hidden)");
        let missing = ApiKey::from_environment("OPENCHARACTER_NO_SUCH_KEY").unwrap_err().to_string();
        assert!(missing.contains("OPENCHARACTER_NO_SUCH_KEY") && missing.contains("export"), "{missing}");
    }
}
