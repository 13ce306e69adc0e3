//! [`Generate`](opencharacter_core::Generate) over any endpoint that speaks OpenAI's chat completions.
//!
//! ```no_run
//! use opencharacter_remote::{EndpointConfig, RemoteConfig, RemoteModel};
//! let endpoint = EndpointConfig::new("http://localhost:8000/v1", None)?;
//! let teacher = RemoteModel::new(RemoteConfig::new("llama-3.1-70b-instruct", vec![endpoint]), |notice| {
//!     eprintln!("{notice}");
//! })?;
//! # Ok::<(), opencharacter_remote::RemoteError>(())
//! ```
//!
//! # What happens to a call
//!
//! It waits for a place in the [window](window) of one of the model's endpoints, which is learned: it grows with each
//! answer and is halved when the endpoint says that it is too much (429, 503, 529) or does not answer in time. What can
//! succeed later (overload, server errors, broken connections, answers cut short) is tried again after a growing,
//! jittered pause, or the one that the endpoint asked for; what cannot (a refused key, a request that is wrong) fails at
//! once. A call that has been tried for too long fails alone ([`GenerateError::Failed`]); an endpoint that answers
//! nobody any more fails them all ([`GenerateError::Unavailable`]), which stops the run, to be resumed.
//!
//! No failure becomes an answer: an empty reply, half a body or JSON that does not satisfy its schema is an error.
//!
//! # In batches
//!
//! [`BatchModel`] asks the same endpoints through their batch API, where they have one: files of requests, answered
//! within a day, usually at half the price. What was submitted is found again by whoever comes after a kill.
//!
//! [`GenerateError::Failed`]: opencharacter_core::GenerateError::Failed
//! [`GenerateError::Unavailable`]: opencharacter_core::GenerateError::Unavailable

mod api_key;
mod backoff;
mod batch;
mod breaker;
mod call;
mod caller;
mod config;
mod endpoint;
mod error;
mod extract;
mod fault;
mod http;
mod lines;
#[cfg(feature = "mock")]
pub mod mock;
mod model;
mod notice;
mod pace;
mod quirks;
mod stream;
mod window;
mod wire;

pub use api_key::ApiKey;
pub use batch::{BatchConfig, BatchModel};
pub use config::{EndpointConfig, RemoteConfig};
pub use error::RemoteError;
pub use model::{RemoteModel, RemoteStatistics};
pub use notice::Notice;
