//! An endpoint that answers, fails and stalls as it is told. It counts what it was asked, so that a test can say that
//! nothing was asked twice.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use opencharacter_core::{KeyedRandom, content_hash};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
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
        }
    }
}

/// A mock that listens on loopback until it is dropped.
#[derive(Debug)]
pub struct MockEndpoint {
    address: SocketAddr,
    state: Arc<State>,
    listening: JoinHandle<()>,
}

/// What a mock was asked; also what `GET /statistics` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MockCounts {
    /// Requests in all.
    pub requests: u64,
    /// The most that were open at once.
    pub most_open: u64,
    /// Different requests that were answered whole.
    pub different: usize,
    /// Whole answers in all.
    pub answered: u64,
}

impl State {
    fn counts(&self) -> MockCounts {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        MockCounts {
            requests: self.requests.load(Ordering::Relaxed),
            most_open: self.most_open.load(Ordering::Relaxed),
            different: answered.len(),
            answered: answered.values().sum(),
        }
    }
}

#[derive(Debug)]
struct State {
    options: MockOptions,
    requests: AtomicU64,
    open: AtomicU64,
    most_open: AtomicU64,
    /// Whole answers given, by the hash of what was asked.
    answered: Mutex<HashMap<[u8; 32], u64>>,
    /// Authorization headers seen.
    keys: Mutex<Vec<String>>,
}

type Body = BoxBody<Bytes, io::Error>;

impl MockEndpoint {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When no port can be had.
    #[expect(clippy::unused_async, reason = "it listens on the runtime that awaits it")]
    pub async fn start(options: MockOptions) -> io::Result<Self> {
        Self::start_at(options, 0)
    }

    /// Starts one on a given port of loopback; 0 takes a free one.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn start_at(options: MockOptions, port: u16) -> io::Result<Self> {
        // All calls of a run may connect at once.
        const WAITING: u32 = 16_384;
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
        let listener = socket.listen(WAITING)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            options,
            requests: AtomicU64::new(0),
            open: AtomicU64::new(0),
            most_open: AtomicU64::new(0),
            answered: Mutex::default(),
            keys: Mutex::default(),
        });
        let listening = tokio::spawn(listen(listener, Arc::clone(&state)));
        Ok(Self { address, state, listening })
    }

    /// What to give a client.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// The most requests that were open at once.
    pub fn most_open(&self) -> u64 {
        self.state.most_open.load(Ordering::Relaxed)
    }

    /// Different requests that were answered whole, and answers in all.
    pub fn answered(&self) -> (usize, u64) {
        let counts = self.state.counts();
        (counts.different, counts.answered)
    }

    /// The `Authorization` headers seen, each once.
    pub fn keys(&self) -> Vec<String> {
        self.state.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for MockEndpoint {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, state: Arc<State>) {
    // Connections end with the listener: a mock that is dropped is gone for those who are connected too.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Small replies should not wait for more; an old kernel that cannot is only slower.
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| reply(Arc::clone(&state), request));
            // A reset on purpose is an error here.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// A request in the count of open ones.
struct Open<'a>(&'a State);

impl<'a> Open<'a> {
    fn new(state: &'a State) -> (Self, u64) {
        let open = state.open.fetch_add(1, Ordering::Relaxed) + 1;
        state.most_open.fetch_max(open, Ordering::Relaxed);
        (Self(state), open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn reply(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    if request.method() == Method::GET && request.uri().path() == "/statistics" {
        return Ok(whole(json!(state.counts()).to_string().into_bytes()));
    }
    let number = state.requests.fetch_add(1, Ordering::Relaxed);
    let (_open, open) = Open::new(&state);
    let options = &state.options;
    if let Some(key) = request.headers().get("authorization").and_then(|value| value.to_str().ok()) {
        let mut keys = state.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.iter().any(|seen| seen == key) {
            keys.push(key.to_owned());
        }
    }
    let asked = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let Ok(body) = serde_json::from_slice::<Value>(&asked) else {
        return Ok(error(StatusCode::BAD_REQUEST, "the body is no JSON", None));
    };
    if options.unknown_model {
        let message = format!("the model {} does not exist", body["model"]);
        return Ok(error(StatusCode::NOT_FOUND, &message, None));
    }
    if let Some(field) = options.refuses.filter(|field| body.get(field).is_some()) {
        return Ok(error(StatusCode::BAD_REQUEST, &format!("Unrecognized request argument supplied: {field}"), None));
    }
    if open as usize > options.capacity {
        return Ok(error(StatusCode::TOO_MANY_REQUESTS, "too many at once", None));
    }
    let fault = options.draw(number);
    let stall = if let Some(MockFault::Stall(stall)) = fault { stall } else { Duration::ZERO };
    if options.latency + stall > Duration::ZERO {
        tokio::time::sleep(options.latency + stall).await;
    }
    match fault {
        Some(MockFault::TooMany) => Ok(error(StatusCode::TOO_MANY_REQUESTS, "slow down", None)),
        Some(MockFault::TooManyFor(seconds)) => Ok(error(StatusCode::TOO_MANY_REQUESTS, "slow down", Some(seconds))),
        Some(MockFault::ServerError) => Ok(error(StatusCode::INTERNAL_SERVER_ERROR, "an accident", None)),
        Some(MockFault::Reset) => Err(io::Error::other("reset on purpose")),
        Some(MockFault::NotJson) => Ok(whole("<html>Bad gateway</html>".into())),
        Some(MockFault::Empty) => Ok(whole(completion("", Some("stop")))),
        Some(MockFault::Unfinished) => Ok(whole(completion("It was a dark and", None))),
        Some(MockFault::HalfReply) => Ok(half(&completion(&(options.answer)(&body), Some("stop")))),
        None | Some(MockFault::Stall(_)) => {
            let answer = (options.answer)(&body);
            *state
                .answered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(content_hash(&[&asked]))
                .or_default() += 1;
            if body["stream"] == json!(true) {
                Ok(streamed(&answer))
            } else {
                Ok(whole(completion(&answer, Some("stop"))))
            }
        }
    }
}

impl MockOptions {
    fn draw(&self, number: u64) -> Option<MockFault> {
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

fn completion(text: &str, finish: Option<&str>) -> Vec<u8> {
    let words = text.split_whitespace().count();
    json!({
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words},
    })
    .to_string()
    .into_bytes()
}

fn boxed(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never: Infallible| match never {}).boxed()
}

fn with(status: StatusCode, headers: &[(&'static str, String)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}

fn whole(bytes: Vec<u8>) -> Response<Body> {
    with(StatusCode::OK, &[("content-type", "application/json".into())], boxed(bytes))
}

fn error(status: StatusCode, message: &str, retry_after: Option<u64>) -> Response<Body> {
    let headers: Vec<_> = retry_after.map(|seconds| ("retry-after", seconds.to_string())).into_iter().collect();
    with(status, &headers, boxed(json!({"error": {"message": message}}).to_string().into_bytes()))
}

/// A reply that says how long it is and breaks off before.
fn half(bytes: &[u8]) -> Response<Body> {
    let length = bytes.len().to_string();
    let first = Bytes::from(bytes[..bytes.len() / 2].to_vec());
    let frames = [Ok(Frame::data(first)), Err(io::Error::other("cut on purpose"))];
    with(StatusCode::OK, &[("content-length", length)], StreamBody::new(stream::iter(frames)).boxed())
}

/// Word by word.
fn streamed(text: &str) -> Response<Body> {
    let words = text.split_whitespace().count();
    let mut events: Vec<Value> =
        text.split_inclusive(' ').map(|word| json!({"choices": [{"delta": {"content": word}}]})).collect();
    events.push(json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}));
    events.push(json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": words}}));
    let lines = events.iter().map(Value::to_string).chain(["[DONE]".to_owned()]);
    let body: String = lines.flat_map(|line| ["data: ".to_owned(), line, "\n\n".to_owned()]).collect();
    with(StatusCode::OK, &[("content-type", "text/event-stream".into())], boxed(body.into_bytes()))
}
