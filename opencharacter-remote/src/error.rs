use std::path::PathBuf;

/// Why a remote model cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A key is not where it should be.
    #[error("the environment variable `{variable}` {reason}; set it to the endpoint's key (`export {variable}=...`)")]
    Key {
        /// The variable.
        variable: String,
        /// What is wrong.
        reason: String,
    },
    /// An address is none.
    #[error("`{address}` is no endpoint: {reason}; expected something like `https://api.example.com/v1`")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// A setting makes no sense.
    #[error("remote model setting `{name}`: {reason}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it must be.
        reason: String,
    },
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot start: {0}")]
    Client(reqwest::Error),
    /// The folder of submitted batches cannot be used.
    #[error("the folder of submitted batches `{folder}`: {reason}", folder = folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A batch model gathers calls in the background.
    #[error("a batch model must be opened within a tokio runtime; call it from an asynchronous function")]
    NoRuntime,
}
