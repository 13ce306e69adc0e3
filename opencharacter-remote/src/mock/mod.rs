//! An endpoint that answers, fails and stalls as it is told. It counts what it was asked, so that a test can say that
//! nothing was asked twice.

mod batches;
mod options;
mod reply;
mod tiny_model;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use opencharacter_core::content_hash;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

use self::{
    batches::Store,
    reply::{Answer, Body, error, half, whole},
};
pub use self::{
    batches::{BatchFate, DecideBatch, DecideLine, LineFate, MockBatches},
    options::{DecideFault, MockFault, MockOptions, MockRoute},
};

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
        let answered = locked(&self.answered);
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
    /// Requests by their kind.
    routes: Mutex<HashMap<MockRoute, u64>>,
    store: Mutex<Store>,
}

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
            routes: Mutex::default(),
            store: Mutex::default(),
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
        locked(&self.state.keys).clone()
    }

    /// Requests in each batch that was made.
    pub fn batches(&self) -> Vec<usize> {
        locked(&self.state.store).sizes()
    }

    /// Requests of a kind so far.
    pub fn requests_for(&self, route: MockRoute) -> u64 {
        locked(&self.state.routes).get(&route).copied().unwrap_or(0)
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
        let mut keys = locked(&state.keys);
        if !keys.iter().any(|seen| seen == key) {
            keys.push(key.to_owned());
        }
    }
    let Some((route, id)) = MockRoute::of(request.method(), request.uri().path()) else {
        return Ok(error(StatusCode::NOT_FOUND, "no such path", None));
    };
    let query = request.uri().query().unwrap_or("").to_owned();
    let asked = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let body: Value = serde_json::from_slice(&asked).unwrap_or_default();
    if let Some(refusal) = options.refusal(route, &body) {
        return Ok(refusal);
    }
    if open as usize > options.capacity {
        return Ok(error(StatusCode::TOO_MANY_REQUESTS, "too many at once", None));
    }
    let fault = (options.fault_at)(route, state.count(route)).or_else(|| options.draw(number));
    let stall = if let Some(MockFault::Stall(stall)) = fault { stall } else { Duration::ZERO };
    if options.latency + stall > Duration::ZERO {
        tokio::time::sleep(options.latency + stall).await;
    }
    match fault {
        Some(MockFault::TooMany) => return Ok(error(StatusCode::TOO_MANY_REQUESTS, "slow down", None)),
        Some(MockFault::TooManyFor(seconds)) => {
            return Ok(error(StatusCode::TOO_MANY_REQUESTS, "slow down", Some(seconds)));
        }
        Some(MockFault::ServerError) => return Ok(error(StatusCode::INTERNAL_SERVER_ERROR, "an accident", None)),
        Some(MockFault::Reset) => return Err(io::Error::other("reset on purpose")),
        _ if route == MockRoute::Chat => return Ok(chat(&state, &asked, &body, fault)),
        _ => {}
    }
    let (status, bytes) = state.batch_call(route, &id, &query, &asked, &body);
    // What was asked for has happened; only the word of it is lost.
    Ok(match fault {
        Some(MockFault::HalfReply) => half(&bytes),
        Some(MockFault::NotJson) => whole("<html>Bad gateway</html>".into()),
        _ if status.is_success() => whole(bytes),
        _ => error(status, &String::from_utf8_lossy(&bytes), None),
    })
}

fn chat(state: &State, asked: &[u8], body: &Value, fault: Option<MockFault>) -> Response<Body> {
    let completion = |answer: Answer| answer.completion().to_string().into_bytes();
    match fault {
        Some(MockFault::NotJson) => whole("<html>Bad gateway</html>".into()),
        Some(MockFault::Empty) => whole(completion(Answer::of(String::new(), Some("stop")))),
        Some(MockFault::Unfinished) => whole(completion(Answer::of("It was a dark and".into(), None))),
        Some(MockFault::HalfReply) => half(&completion(state.options.answer_to(body))),
        _ => {
            state.answered(asked);
            let answer = state.options.answer_to(body);
            if body["stream"] == json!(true) { answer.streamed() } else { whole(completion(answer)) }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// How many requests of this kind came before.
    fn count(&self, route: MockRoute) -> u64 {
        let mut routes = locked(&self.routes);
        let count = routes.entry(route).or_default();
        *count += 1;
        *count - 1
    }

    /// Takes note of a whole answer.
    fn answered(&self, asked: &[u8]) {
        *locked(&self.answered).entry(content_hash(&[asked])).or_default() += 1;
    }

    fn batch_call(&self, route: MockRoute, id: &str, query: &str, asked: &[u8], body: &Value) -> batches::Reply {
        let behaviour = &self.options.batches;
        let execute = |body: &Value| {
            self.answered(body.to_string().as_bytes());
            self.options.answer_to(body).completion()
        };
        let mut store = locked(&self.store);
        match route {
            MockRoute::Upload => store.upload(asked),
            MockRoute::Create => store.create(body, behaviour, &execute),
            MockRoute::List => store.list(query, behaviour),
            MockRoute::Content => store.content(id),
            MockRoute::Look | MockRoute::Chat => store.look(id, behaviour),
        }
    }
}
