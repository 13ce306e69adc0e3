use std::{env, fmt};

use crate::RemoteError;

/// A key that never shows: not in messages, logs, the ledger or a manifest. It comes from the environment alone.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// The key in the environment variable `name`.
    ///
    /// # Errors
    /// [`RemoteError::Key`] where it is not set, empty, or nothing that a header can carry.
    pub fn from_environment(name: &str) -> Result<Self, RemoteError> {
        let fault = |reason: &str| RemoteError::Key { variable: name.to_owned(), reason: reason.to_owned() };
        let key = env::var(name).map_err(|_| fault("is not set"))?;
        let key = key.trim();
        if key.is_empty() {
            return Err(fault("is empty"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fault("holds characters that no key has"));
        }
        Ok(Self(key.to_owned()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(hidden)")
    }
}
