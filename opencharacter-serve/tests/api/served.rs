//! A server to be asked over real connections.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use opencharacter_card::{Card, CardFile, CardFormat, Spec};
use opencharacter_core::GenerateRequest;
use opencharacter_serve::{ServeOptions, Server};
use serde_json::{Value, json};

use crate::parrot::{Nobody, Parrot};

/// A server that answers until the value is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) model: Arc<Parrot>,
    pub(crate) stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    pub(crate) fn start(model: Parrot, options: ServeOptions) -> Self {
        let model = Arc::new(model);
        let options = ServeOptions { address: ([127, 0, 0, 1], 0).into(), ..options };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (sender, receiver) = std::sync::mpsc::channel();
        let served = Arc::clone(&model);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(options, vec![("parrot".into(), served as _)], Arc::new(Nobody)).unwrap();
                sender.send(server.address()).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        });
        Self { address: receiver.recv().unwrap(), model, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn plain() -> Self {
        Self::start(Parrot::default(), ServeOptions::default())
    }

    /// Status, headers and body of one exchange.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let host = if headers.to_lowercase().contains("host:") {
            String::new()
        } else {
            format!("host: {}\r\n", self.address)
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses by the head alone may close before it has read the body.
        let _ = stream.write_all(body);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        let split = reply.windows(4).position(|window| window == b"\r\n\r\n").expect("a reply");
        let head = String::from_utf8(reply[..split].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = reply[split + 4..].to_vec();
        let body = if head.to_lowercase().contains("transfer-encoding: chunked") { unchunked(&body) } else { body };
        (status, head, body)
    }

    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (status, _, bytes) = self.ask(method, path, "", &body);
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// The documents of a reply made of events.
    pub(crate) fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let (status, head, bytes) = self.ask("POST", path, "", body.to_string().as_bytes());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes));
        assert!(head.contains("text/event-stream"), "{head}");
        let text = String::from_utf8(bytes).unwrap();
        text.split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    pub(crate) fn import(&self, card: Card) -> String {
        let bytes = CardFile::new(card).write(CardFormat::Json(Spec::V3)).unwrap().bytes;
        let (status, _, body) = self.ask("POST", "/v1/characters/import", "", &bytes);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice::<Value>(&body).unwrap()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn last_asked(&self) -> GenerateRequest {
        self.model.asked.lock().unwrap().last().unwrap().clone()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&body[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
    whole
}

pub(crate) fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}
