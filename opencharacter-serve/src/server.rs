//! Connections.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use opencharacter_card::CardFile;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    adapters::Adapters,
    app::{App, router},
    error::ServeError,
    gate::Gate,
    metrics::Metrics,
    model::{Models, ServedModel, Workshop},
    store::Store,
};

/// How it serves.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Asked of everybody where there is one. Needed where other machines can reach `address`.
    pub key: Option<String>,
    /// The database of characters and chats; in memory where there is none.
    pub database: Option<PathBuf>,
    /// The folder whose folders are runs, to be shown.
    pub runs: Option<PathBuf>,
    /// Answers under way and waiting at a time; more are turned away with 429.
    pub most_answers: usize,
    /// Longest answer in tokens where a request names none.
    pub answer_tokens: usize,
    /// No answer is longer than so many tokens, whatever a request says.
    pub most_tokens: usize,
    /// What answers are drawn with where a request brings no seed.
    pub seed: u64,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            key: None,
            database: None,
            runs: None,
            most_answers: 2048,
            answer_tokens: 512,
            most_tokens: usize::MAX,
            seed: 0,
        }
    }
}

/// Connections at a time; others wait to be taken up.
const MOST_CONNECTIONS: usize = 4096;
/// A request's head must come within this time.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// Connections that wait to be taken up.
const WAITING: u32 = 1024;
/// After the word to stop, open answers have this long to end.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// A server that listens and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
}

impl Server {
    /// Listens, and opens the database.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn bind(
        options: ServeOptions,
        models: Vec<(String, Arc<dyn ServedModel>)>,
        workshop: Arc<dyn Workshop>,
    ) -> Result<Self, ServeError> {
        let models = Models::new(models).ok_or(ServeError::NoModel)?;
        let address = options.address;
        if options.key.is_none() && !address.ip().is_loopback() {
            return Err(ServeError::NeedsKey(address));
        }
        let store = Store::open(options.database.as_deref())?;
        let listener = listen(address).map_err(|source| ServeError::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| ServeError::Listen { address, source })?;
        let app = Arc::new(App {
            models,
            workshop,
            adapters: Adapters::default(),
            runs: options.runs,
            store,
            gate: Gate::new(options.most_answers),
            metrics: Metrics::default(),
            key: options.key,
            address,
            answer_tokens: options.answer_tokens.min(options.most_tokens),
            most_tokens: options.most_tokens,
            seed: options.seed,
        });
        Ok(Self { listener, address, app })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds the cards whose characters are not known yet: what a user changed since stays. How many were new.
    ///
    /// # Errors
    /// [`ServeError::Store`].
    pub fn add_cards(&self, cards: &[CardFile]) -> Result<usize, ServeError> {
        self.app.store.add_new(cards)
    }

    /// Serves until `stop` ends, and then until open answers have ended, half a minute at most.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let router = router(&self.app);
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let (stopping, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            while connections.try_join_next().is_some() {}
            let stream = tokio::select! {
                () = &mut stop => break,
                stream = accept(&self.listener, &places) => stream,
            };
            let (stream, place) = stream;
            let (router, stopped) = (router.clone(), stopped.clone());
            connections.spawn(async move {
                serve(stream, router, stopped).await;
                drop(place);
            });
        }
        drop(self.listener);
        // Whoever listens to the channel hears that its sender is gone.
        drop(stopping);
        let ended = async { while connections.join_next().await.is_some() {} };
        // What has not ended by then is dropped with the set.
        let _ = tokio::time::timeout(LAST_WORDS, ended).await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that is started again takes its port over from the connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // Too many open files, or a client that was gone at once: neither ends the server.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve(stream: TcpStream, router: Router, mut stopped: watch::Receiver<()>) {
    // Words are sent as they come.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        let request = request.map(Body::new);
        async move { tower_call(&mut router, request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // A connection that broke concerns only its client.
    tokio::select! {
        _ = &mut connection => return,
        _ = stopped.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn tower_call(
    router: &mut Router,
    request: Request<Body>,
) -> Result<axum::response::Response, std::convert::Infallible> {
    use axum::routing::RouterIntoService;
    use tower_service::Service as _;
    let mut service: RouterIntoService<Body> = router.clone().into_service();
    service.call(request).await
}
