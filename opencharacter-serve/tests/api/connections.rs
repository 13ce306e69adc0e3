//! Who is let in, and how connections end.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use opencharacter_serve::{ServeError, ServeOptions, ServedModel, Server};
use serde_json::json;

use crate::{
    parrot::{Nobody, Parrot},
    served::{Served, user},
};

#[test]
fn strangers_are_turned_away() {
    let served = Served::plain();
    for (headers, status) in [
        ("", 200),
        ("host: localhost:1\r\n", 200),
        ("host: evil.example\r\n", 403),
        ("origin: https://evil.example\r\n", 403),
        ("origin: null\r\n", 403),
    ] {
        assert_eq!(served.ask("GET", "/v1/models", headers, b"").0, status, "{headers}");
    }
    let own = format!("origin: http://{}\r\n", served.address);
    assert_eq!(served.ask("GET", "/v1/models", &own, b"").0, 200);
    drop(served);
    let served =
        Served::start(Parrot::default(), ServeOptions { key: Some("secret".into()), ..ServeOptions::default() });
    for (path, headers, status) in [
        ("/v1/models", "", 401),
        ("/v1/models", "authorization: Bearer secreT\r\n", 401),
        ("/v1/models", "authorization: Bearer secret\r\n", 200),
        ("/v1/models", "host: my.server\r\nauthorization: Bearer secret\r\n", 200),
        ("/health", "", 200),
        ("/", "", 200),
        ("/metrics", "", 401),
    ] {
        assert_eq!(served.ask("GET", path, headers, b"").0, status, "{path} {headers}");
    }
    let open = ServeOptions { address: ([0, 0, 0, 0], 0).into(), ..ServeOptions::default() };
    let model: Arc<dyn ServedModel> = Arc::new(Parrot::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bound = runtime.block_on(async { Server::bind(open, vec![("parrot".into(), model)], Arc::new(Nobody)).err() });
    assert!(matches!(bound, Some(ServeError::NeedsKey(_))));
}

#[test]
fn who_leaves_frees_a_place_and_who_is_too_many_hears_it() {
    let model = Parrot { pause: Duration::from_millis(20), ..Parrot::default() };
    let served = Served::start(model, ServeOptions { most_answers: 2, ..ServeOptions::default() });
    let body = json!({"messages": user(&"word ".repeat(400)), "stream": true}).to_string();
    for (stream, path) in [(true, "/v1/chat/completions"), (false, "/v1/chat/completions")] {
        let body = if stream { body.clone() } else { body.replace("true", "false") };
        let mut clients: Vec<TcpStream> = (0..2)
            .map(|_| {
                let mut client = TcpStream::connect(served.address).unwrap();
                let head = format!(
                    "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
                    served.address,
                    body.len()
                );
                client.write_all(head.as_bytes()).unwrap();
                client
            })
            .collect();
        wait_until(|| served.model.under_way.load(Ordering::SeqCst) == 2);
        let (status, head, _) = served.ask("POST", path, "", body.as_bytes());
        assert_eq!(status, 429);
        assert!(head.to_lowercase().contains("retry-after: "), "{head}");
        let before = served.model.dropped.load(Ordering::SeqCst);
        clients.clear();
        wait_until(|| served.model.under_way.load(Ordering::SeqCst) == 0);
        assert_eq!(served.model.dropped.load(Ordering::SeqCst), before + 2, "neither answer was brought to its end");
    }
    let (status, _) = served.json("POST", "/v1/chat/completions", &json!({"messages": user("hi")}));
    assert_eq!(status, 200);
}

fn wait_until(happens: impl Fn() -> bool) {
    for _ in 0..500 {
        if happens() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never happened");
}

#[test]
fn stopping_lets_an_open_answer_end() {
    let mut served =
        Served::start(Parrot { pause: Duration::from_millis(5), ..Parrot::default() }, ServeOptions::default());
    let mut client = TcpStream::connect(served.address).unwrap();
    let body = json!({"messages": user(&"word ".repeat(100)), "stream": true}).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
        served.address,
        body.len()
    );
    client.write_all(head.as_bytes()).unwrap();
    wait_until(|| served.model.under_way.load(Ordering::SeqCst) == 1);
    drop(served.stop.take());
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert!(reply.contains("[DONE]"), "{reply}");
}
