//! How a mock behaves.

use std::{fmt, sync::Arc, time::Duration};

use hyper::{Method, Response, StatusCode};
use opencharacter_core::KeyedRandom;
use serde_json::Value;

use super::{
    batches::MockBatches,
    reply::{Answer, Body, error},
    tiny_model,
};

/// What can go wrong with a reply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MockFault {
    /// 429 without a word on how long to wait.
    TooMany,
    /// 429 with `Retry-After` of so many seconds.
    TooManyFor(u64),
    /// 500.
    ServerError,
    /// The connection ends without a reply.
    Reset,
    /// The body breaks off in the middle.
    HalfReply,
    /// The reply comes so much later.
    Stall(Duration),
    /// 200 with a body that is no JSON.
    NotJson,
    /// An answer without text.
    Empty,
    /// An answer that does not say why it ended.
    Unfinished,
}

impl MockFault {
    /// As the command line names it.
    pub fn name(self) -> String {
        match self {
            Self::TooMany => "429".into(),
            Self::TooManyFor(seconds) => format!("429-{seconds}"),
            Self::ServerError => "500".into(),
            Self::Reset => "reset".into(),
            Self::HalfReply => "half".into(),
            Self::Stall(_) => "stall".into(),
            Self::NotJson => "not-json".into(),
            Self::Empty => "empty".into(),
            Self::Unfinished => "unfinished".into(),
        }
    }
}

/// Decides what goes wrong by a request's kind and its number among those, counted from 0.
pub type DecideFault = dyn Fn(MockRoute, u64) -> Option<MockFault> + Send + Sync;

/// How a mock behaves.
#[derive(Clone)]
pub struct MockOptions {
    /// From request to reply.
    pub latency: Duration,
    /// Shares of requests that go wrong; the rest is answered.
    pub faults: Vec<(MockFault, f64)>,
    /// Decides which.
    pub seed: u64,
    /// The text of an answer to a request's body.
    pub answer: Arc<dyn Fn(&Value) -> String + Send + Sync>,
    /// A request field that is refused with 400.
    pub refuses: Option<&'static str>,
    /// Requests at once; above it comes 429.
    pub capacity: usize,
    /// Every model is unknown: 404.
    pub unknown_model: bool,
    /// Answers come not from `answer` but from a tiny model: words drawn by the conversation and `seed`, which keeps to
    /// `temperature` 0, `max_tokens`, `stop` and JSON schemas of the plainer kind.
    pub tiny_model: bool,
    /// What goes wrong with single requests; before `faults`.
    pub fault_at: Arc<DecideFault>,
    /// How batches go.
    pub batches: MockBatches,
}

impl fmt::Debug for MockOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = (&self.latency, &self.faults, self.seed, self.refuses, self.capacity);
        write!(formatter, "MockOptions{shown:?}")
    }
}

impl Default for MockOptions {
    /// Answers at once, always, whatever it is asked, with the last message turned around.
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            faults: Vec::new(),
            seed: 0,
            answer: Arc::new(|body| {
                let last = body["messages"].as_array().and_then(|messages| messages.last());
                format!("You said: {}", last.map_or("", |message| message["content"].as_str().unwrap_or("")))
            }),
            refuses: None,
            capacity: usize::MAX,
            unknown_model: false,
            tiny_model: false,
            fault_at: Arc::new(|_, _| None),
            batches: MockBatches::default(),
        }
    }
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MockRoute {
    /// A chat completion.
    Chat,
    /// A file of requests.
    Upload,
    /// A batch to be made.
    Create,
    /// A look at a batch.
    Look,
    /// A look at all batches.
    List,
    /// A file to be fetched.
    Content,
}

impl MockRoute {
    /// By method and path; also the id in the path.
    pub(super) fn of(method: &Method, path: &str) -> Option<(Self, String)> {
        let path: Vec<&str> = path.trim_matches('/').split('/').collect();
        let posted = method == Method::POST;
        let (route, id) = match *path.strip_prefix(&["v1"])? {
            ["chat", "completions"] if posted => (Self::Chat, ""),
            ["files"] if posted => (Self::Upload, ""),
            ["batches"] if posted => (Self::Create, ""),
            ["batches"] => (Self::List, ""),
            ["batches", id] => (Self::Look, id),
            ["files", id, "content"] => (Self::Content, id),
            _ => return None,
        };
        Some((route, id.to_owned()))
    }
}

impl MockOptions {
    /// What is refused however often it is asked.
    pub(super) fn refusal(&self, route: MockRoute, body: &Value) -> Option<Response<Body>> {
        if route != MockRoute::Chat {
            return None;
        }
        if body.is_null() {
            return Some(error(StatusCode::BAD_REQUEST, "the body is no JSON", None));
        }
        if self.unknown_model {
            let message = format!("the model {} does not exist", body["model"]);
            return Some(error(StatusCode::NOT_FOUND, &message, None));
        }
        let field = self.refuses.filter(|field| body.get(field).is_some())?;
        Some(error(StatusCode::BAD_REQUEST, &format!("Unrecognized request argument supplied: {field}"), None))
    }

    /// The answer to a chat completion's body.
    pub(super) fn answer_to(&self, body: &Value) -> Answer {
        if self.tiny_model { tiny_model::answer(body) } else { Answer::of((self.answer)(body), Some("stop")) }
    }

    /// What goes wrong with the request of a number.
    pub(super) fn draw(&self, number: u64) -> Option<MockFault> {
        if self.faults.is_empty() {
            return None;
        }
        let mut draw = KeyedRandom::new(self.seed, &["mock", &number.to_string()]).uniform();
        self.faults
            .iter()
            .find(|(_, share)| {
                draw -= share;
                draw < 0.0
            })
            .map(|(fault, _)| *fault)
    }
}
