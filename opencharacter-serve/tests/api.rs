//! The server over real connections, with a model that is made up.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opencharacter_card::{Card, CardFile, CardFormat, Spec};
use opencharacter_core::{
    BoxFuture, Character, Completion, FinishReason, Generate, GenerateError, GenerateRequest, Role, Sampling, Score,
    ScoreRequest, TextSink,
};
use opencharacter_serve::{Heard, Listener, ServeError, ServeOptions, ServedModel, Server, Workshop};
use serde_json::{Value, json};

/// Repeats the last message word by word, and notes what it was asked.
#[derive(Default)]
struct Parrot {
    pause: Duration,
    context: usize,
    /// What it says before the rest.
    says: String,
    asked: Mutex<Vec<GenerateRequest>>,
    under_way: AtomicUsize,
    dropped: AtomicUsize,
}

struct UnderWay<'a>(&'a Parrot, bool);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Parrot {
    async fn answer(&self, text: String, sampling: &Sampling, mut sink: Option<TextSink>) -> Completion {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let mut under_way = UnderWay(self, false);
        let text = format!("{}{text}", self.says);
        let words: Vec<&str> = text.split_inclusive(' ').take(sampling.max_tokens).collect();
        for word in &words {
            tokio::time::sleep(self.pause).await;
            if let Some(sink) = &mut sink {
                sink(word);
            }
        }
        under_way.1 = true;
        Completion {
            text: words.concat(),
            finish: if words.len() < sampling.max_tokens { FinishReason::Stop } else { FinishReason::Length },
            prompt_tokens: 7,
            cached_tokens: 0,
            completion_tokens: words.len(),
            log_probs: Vec::new(),
        }
    }
}

impl Generate for Parrot {
    fn fingerprint(&self) -> &'static str {
        "parrot"
    }

    fn concurrency(&self) -> usize {
        8
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.asked.lock().unwrap().push(request.clone());
        Box::pin(async move {
            let last = request.messages.last().unwrap().content.clone();
            Ok(self.answer(format!("You said: {last}"), &request.sampling, None).await)
        })
    }

    fn stream(&self, request: GenerateRequest, sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.asked.lock().unwrap().push(request.clone());
        Box::pin(async move {
            let last = request.messages.last().unwrap().content.clone();
            if last == "too long" {
                return Err(GenerateError::Refused { reason: "the context is full".into() });
            }
            Ok(self.answer(format!("You said: {last}"), &request.sampling, Some(sink)).await)
        })
    }

    fn score(&self, _: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(async { Err(GenerateError::Unsupported { model: "parrot".into(), what: "score".into() }) })
    }
}

impl ServedModel for Parrot {
    fn encode(&self, text: &str) -> Vec<u32> {
        text.split_whitespace().map(|word| word.len() as u32).collect()
    }

    fn decode(&self, tokens: &[u32]) -> String {
        tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn context_tokens(&self) -> usize {
        if self.context == 0 { 2048 } else { self.context }
    }

    fn complete(
        &self,
        prompt: &str,
        sampling: Sampling,
        _: Option<usize>,
        sink: Option<TextSink>,
    ) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        let text = prompt.to_uppercase();
        Box::pin(async move { Ok(self.answer(text, &sampling, sink).await) })
    }
}

struct Nobody;

impl Workshop for Nobody {
    fn invent(&self, persona: String, listener: Listener) -> BoxFuture<'_, Result<Card, String>> {
        Box::pin(async move {
            listener(Heard::Part("profile"));
            listener(Heard::Asked);
            listener(Heard::Piece("Name: Ada Holm".into()));
            if persona.contains("nobody") {
                return Err("no acceptable profile came out".into());
            }
            let mut character = Character::from_name("Ada Holm", "", "");
            character.persona = persona;
            Ok(Card { first_mes: "Who is there, {{user}}?".into(), ..Card::from_character(&character) })
        })
    }

    /// A parrot that says first what its weights are.
    fn adapted(&self, config: &[u8], weights: &[u8]) -> Result<Arc<dyn ServedModel>, String> {
        let says = String::from_utf8(weights.to_vec()).unwrap();
        if config == b"{}" {
            Ok(Arc::new(Parrot { says, ..Parrot::default() }))
        } else {
            Err("it is of another model".into())
        }
    }
}

/// A server that answers until the value is dropped.
struct Served {
    address: SocketAddr,
    model: Arc<Parrot>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn start(model: Parrot, options: ServeOptions) -> Self {
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

    fn plain() -> Self {
        Self::start(Parrot::default(), ServeOptions::default())
    }

    /// Status, headers and body of one exchange.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
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

    fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (status, _, bytes) = self.ask(method, path, "", &body);
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// The documents of a reply made of events.
    fn events(&self, path: &str, body: &Value) -> Vec<Value> {
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

    fn import(&self, card: Card) -> String {
        let bytes = CardFile::new(card).write(CardFormat::Json(Spec::V3)).unwrap().bytes;
        let (status, _, body) = self.ask("POST", "/v1/characters/import", "", &bytes);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice::<Value>(&body).unwrap()["id"].as_str().unwrap().to_owned()
    }

    fn last_asked(&self) -> GenerateRequest {
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

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[test]
fn conversations_are_answered_whole_and_in_pieces() {
    let served = Served::plain();
    let (status, reply) = served.json("POST", "/v1/chat/completions", &json!({
        "model": "parrot", "n": 2, "seed": 5, "messages": [
            {"role": "system", "content": "One."}, {"role": "system", "content": [{"type": "text", "text": "Two."}]},
            {"role": "user", "content": "one two", "name": "x"}],
        "some_new_sampler": {"deep": 1}, "presence_penalty": 0.3,
    }));
    assert_eq!(status, 200, "{reply}");
    assert_eq!(reply["choices"][1]["message"]["content"], "You said: one two");
    assert_eq!(reply["choices"][1]["finish_reason"], "stop");
    assert_eq!(
        reply["usage"],
        json!({"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15, "prompt_tokens_details": {"cached_tokens": 0}})
    );
    let asked = served.last_asked();
    assert_eq!(asked.messages[0].content, "One.\n\nTwo.");
    assert_eq!(asked.sampling.seed, 6);

    let body = json!({"messages": user("one two three"), "stream": true, "max_tokens": 3.0, "stream_options": {"include_usage": true}});
    let events = served.events("/v1/chat/completions", &body);
    let text: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "You said: one ");
    assert!(events.iter().any(|event| event["choices"][0]["finish_reason"] == "length"));
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 3);

    let (status, reply) = served.json("POST", "/v1/completions", &json!({"prompt": ["ab cd", "e"], "echo": true}));
    assert_eq!((status, &reply["choices"][0]["text"]), (200, &json!("ab cdAB CD")));
    assert_eq!(reply["choices"][1]["text"], "eE");
    let (_, reply) = served.json("POST", "/tokenize", &json!({"content": "ab c"}));
    assert_eq!(reply["tokens"], json!([2, 1]));
    let (_, metrics, text) = served.ask("GET", "/metrics", "", b"");
    assert!(metrics.contains("text/plain"));
    assert!(String::from_utf8(text).unwrap().contains("opencharacter_answers_total 5\n"));
}

#[test]
fn what_is_wrong_is_said_in_the_shape_that_clients_know() {
    let served = Served::plain();
    let message = user("hi");
    for (path, body, status, part) in [
        ("/v1/chat/completions", json!("text"), 400, "not what is expected"),
        ("/v1/chat/completions", json!({}), 400, "messages"),
        ("/v1/chat/completions", json!({"messages": []}), 400, "empty"),
        ("/v1/chat/completions", json!({"messages": [{"role": "wizard", "content": "x"}]}), 400, "wizard"),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            400,
            "image_url",
        ),
        ("/v1/chat/completions", json!({"messages": message, "model": "gpt-9"}), 404, "gpt-9"),
        ("/v1/chat/completions", json!({"messages": message, "model": "character/x"}), 404, "character/x"),
        ("/v1/chat/completions", json!({"messages": message, "temperature": 3}), 400, "temperature"),
        ("/v1/chat/completions", json!({"messages": message, "n": 0}), 400, "`n` is 0"),
        ("/v1/chat/completions", json!({"messages": message, "max_tokens": 0}), 400, "max_tokens"),
        (
            "/v1/chat/completions",
            json!({"messages": message, "logprobs": true, "top_logprobs": 21}),
            400,
            "top_logprobs",
        ),
        ("/v1/chat/completions", json!({"messages": message, "response_format": {"type": "xml"}}), 400, "xml"),
        (
            "/v1/chat/completions",
            json!({"messages": message, "response_format": {"type": "json_schema"}}),
            400,
            "schema",
        ),
        ("/v1/completions", json!({"prompt": []}), 400, "prompt"),
        // Refused before a word was said: an error, not a stream that begins with one.
        ("/v1/chat/completions", json!({"messages": user("too long"), "stream": true}), 400, "the context is full"),
        ("/v1/characters", json!({"persona": " "}), 400, "persona"),
        ("/v1/characters", json!({"persona": "nobody"}), 422, "no acceptable profile"),
        ("/v1/characters/import", json!({"no": "card"}), 400, ""),
        ("/v1/sessions", json!({"character_id": "x"}), 404, "no character"),
        ("/v1/sessions/x/messages", json!({"content": "x"}), 404, "no session"),
        ("/v1/nothing", json!({}), 404, "nothing at this address"),
        ("/v1/models", json!({}), 405, "method"),
    ] {
        let (got, reply) = served.json("POST", path, &body);
        assert_eq!(got, status, "{path} {body}: {reply}");
        let text = reply["error"]["message"].as_str().unwrap_or_else(|| panic!("{path} {body}: {reply}"));
        assert!(text.contains(part), "{path} {body}: {text}");
        assert!(reply["error"]["type"].is_string());
    }
    for (method, path, body) in [
        ("POST", "/v1/chat/completions", &b"\xFF\xFE{"[..]),
        ("GET", "/v1/characters?limit=many", b""),
        ("GET", "/v1/characters/%FF", b""),
    ] {
        let (status, head, body) = served.ask(method, path, "", body);
        assert!(status == 400 && head.contains("application/json"), "{path}: {head}");
        assert!(serde_json::from_slice::<Value>(&body).unwrap()["error"]["message"].is_string());
    }
}

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
fn characters_are_models() {
    let served = Served::plain();
    let (status, made) = served.json("POST", "/v1/characters", &json!({"persona": "A keeper who hates the sea"}));
    assert_eq!((status, &made["name"]), (201, &json!("Ada Holm")));
    let model = made["model"].as_str().unwrap().to_owned();
    let (_, models) = served.json("GET", "/v1/models", &Value::Null);
    assert!(models["data"].as_array().unwrap().iter().any(|one| one["id"] == model.as_str()));
    assert_eq!(served.json("GET", &format!("/v1/models/{model}"), &Value::Null).0, 200);
    // Nobody has spoken: the greeting, and no model is asked.
    let (_, reply) =
        served.json("POST", "/v1/chat/completions", &json!({"model": model, "user": "Ben", "messages": []}));
    assert_eq!(reply["choices"][0]["message"]["content"], "Who is there, Ben?");
    assert!(served.model.asked.lock().unwrap().is_empty());
    let (_, reply) = served.json(
        "POST",
        "/v1/chat/completions",
        &json!({"model": model, "user": "Ben",
        "messages": [{"role": "system", "content": "It rains."}, {"role": "user", "content": "Me."}]}),
    );
    assert_eq!(reply["choices"][0]["message"]["content"], "You said: Me.");
    let asked = served.last_asked().messages;
    assert!(
        asked[0].role == Role::System
            && asked[0].content.contains("hates the sea")
            && asked[0].content.contains("It rains.")
    );
    assert_eq!((asked[1].role, asked[1].content.as_str()), (Role::Assistant, "Who is there, Ben?"));
    // A reply that was begun is gone on with.
    let (_, _) = served.json(
        "POST",
        "/v1/chat/completions",
        &json!({"model": model,
        "messages": [{"role": "user", "content": "Me."}, {"role": "assistant", "content": "I"}]}),
    );
    assert_eq!(served.last_asked().messages.last().unwrap().role, Role::Assistant);
}

#[test]
fn cards_come_change_and_go() {
    let served = Served::plain();
    let card = Card {
        name: "Mara".into(),
        description: "A {{char}} of few words.".into(),
        creator_notes: "**bold** <script>alert(1)</script>".into(),
        extensions: json!({"other": {"deep": [1, null]}}).as_object().unwrap().clone(),
        ..Card::default()
    };
    let id = served.import(card);
    let path = format!("/v1/characters/{id}");
    let (_, shown) = served.json("GET", &path, &Value::Null);
    let html = shown["creator_notes_html"].as_str().unwrap();
    assert!(!html.contains("<script") && html.contains("<strong>bold</strong>"), "{html}");
    let (status, changed) =
        served.json("PATCH", &path, &json!({"description": "Somebody else.", "alternate_greetings": ["Hm."]}));
    assert_eq!((status, &changed["id"], &changed["greetings"]), (200, &json!(id), &json!(["Hm."])));
    assert_eq!(served.json("PATCH", &path, &json!({"descripton": "x"})).0, 400);
    assert_eq!(served.json("PATCH", &path, &json!({"name": " "})).0, 400);
    for (format, content_type) in [("png", "image/png"), ("json", "application/json"), ("charx", "application/zip")] {
        let (status, head, bytes) = served.ask("GET", &format!("{path}/card?format={format}"), "", b"");
        assert!(status == 200 && head.contains(content_type), "{head}");
        let card = CardFile::parse(&bytes).unwrap().card;
        assert_eq!(card.description, "Somebody else.");
        assert_eq!(card.extensions["other"], json!({"deep": [1, null]}), "what nobody here knows survives");
    }
    let (_, head, picture) = served.ask("GET", &format!("{path}/avatar"), "", b"");
    assert!(picture.starts_with(b"\x89PNG") && head.contains("sandbox"), "{head}");
    let (_, list) = served.json("GET", "/v1/characters?search=MAR", &Value::Null);
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert_eq!(served.json("GET", "/v1/characters?search=zz", &Value::Null).1["data"], json!([]));
    assert_eq!(served.json("DELETE", &path, &Value::Null).0, 200);
    assert_eq!(served.json("DELETE", &path, &Value::Null).0, 404);
    for bytes in [&b"\x89PNG\r\n\x1a\n"[..], b"PK\x03\x04", b"", b"{\"spec\": 3}"] {
        let (status, _, body) = served.ask("POST", "/v1/characters/import", "", bytes);
        assert_eq!(status, 400, "{}", String::from_utf8_lossy(&body));
    }
}

#[test]
fn chats_are_kept_with_swipes_and_branches() {
    let folder = tempfile::tempdir().unwrap();
    let options = || ServeOptions { database: Some(folder.path().join("new/serve.sqlite")), ..ServeOptions::default() };
    let served = Served::start(Parrot::default(), options());
    let card = Card {
        name: "Mara".into(),
        first_mes: "Hello {{user}}.".into(),
        alternate_greetings: vec!["Yes?".into()],
        ..Card::default()
    };
    let character = served.import(card);
    let (status, session) =
        served.json("POST", "/v1/sessions", &json!({"character_id": character, "user_name": "Ben", "greeting": 1}));
    assert_eq!(status, 201);
    assert_eq!(session["messages"][0]["content"], "Yes?");
    assert_eq!(session["messages"][0]["swipes"].as_array().unwrap().len(), 2);
    let id = session["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/sessions/{id}");
    let events = served.events(&format!("{path}/messages"), &json!({"content": "one two"}));
    assert_eq!(events[0]["type"], "said");
    let pieces: String = events.iter().filter_map(|event| event["text"].as_str()).collect();
    assert_eq!(pieces, "You said: one two");
    assert_eq!(events.last().unwrap()["type"], "answered");
    let first = events.last().unwrap()["id"].clone();
    // Another answer is a swipe, drawn anew.
    let seed = served.last_asked().sampling.seed;
    let second = served.events(&format!("{path}/answers"), &json!({})).last().unwrap()["id"].clone();
    assert_ne!(served.last_asked().sampling.seed, seed);
    let (_, shown) = served.json("GET", &path, &Value::Null);
    assert_eq!(shown["messages"][2]["swipes"], json!([first, second]));
    assert_eq!(shown["leaf"], second);
    // The user's words changed: a branch, and the way back.
    let said = shown["messages"][1]["id"].clone();
    let (_, branched) = served.json("POST", &format!("{path}/branch"), &json!({"message": said, "content": "three"}));
    assert_eq!(branched["messages"].as_array().unwrap().len(), 2);
    let answered = served.events(&format!("{path}/answers"), &json!({}));
    assert_eq!(answered.last().unwrap()["html"], "<p>You said: three</p>\n");
    let (_, back) = served.json("POST", &format!("{path}/leaf"), &json!({"message": said}));
    assert_eq!(back["leaf"], second);
    // Which is better is kept for training.
    let (status, pair) =
        served.json("POST", "/v1/preferences", &json!({"session": id, "chosen": second, "rejected": first}));
    assert_eq!(status, 201);
    assert_eq!(pair["prompt"].as_array().unwrap().last().unwrap(), &json!({"role": "user", "content": "one two"}));
    assert_eq!(
        served.json("POST", "/v1/preferences", &json!({"session": id, "chosen": second, "rejected": second})).0,
        400
    );
    let (_, _, lines) = served.ask("GET", "/v1/preferences", "", b"");
    assert_eq!(str::from_utf8(&lines).unwrap().lines().count(), 1);
    // Out, and in again.
    let (_, _, chat) = served.ask("GET", &format!("{path}/export"), "", b"");
    let (status, _, body) = served.ask("POST", &format!("/v1/sessions/import?character_id={character}"), "", &chat);
    assert_eq!(status, 201);
    let imported: Value = serde_json::from_slice(&body).unwrap();
    let words = |session: &Value| -> Vec<String> {
        session["messages"].as_array().unwrap().iter().map(|one| one["content"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(words(&imported), words(&back));
    drop(served);
    // A server that is started again knows it all.
    let served = Served::start(Parrot::default(), options());
    assert_eq!(words(&served.json("GET", &path, &Value::Null).1), words(&back));
    assert_eq!(served.json("GET", "/v1/sessions", &Value::Null).1["data"].as_array().unwrap().len(), 2);
    assert_eq!(served.json("DELETE", &path, &Value::Null).0, 200);
    assert_eq!(served.json("GET", &path, &Value::Null).0, 404);
}

#[test]
fn a_long_chat_goes_on_with_a_summary() {
    let served = Served::start(
        Parrot { context: 400, ..Parrot::default() },
        ServeOptions { answer_tokens: 60, ..ServeOptions::default() },
    );
    let character =
        served.import(Card { name: "Mara".into(), description: "Knows the tide tables.".into(), ..Card::default() });
    let (_, session) = served.json("POST", "/v1/sessions", &json!({"character_id": character}));
    let path = format!("/v1/sessions/{}/messages", session["id"].as_str().unwrap());
    let mut summaries = 0;
    for turn in 0..12 {
        let words = format!("{turn} {}", "word ".repeat(30));
        let events = served.events(&path, &json!({"content": words}));
        assert_eq!(events.last().unwrap()["type"], "answered", "{:?}", events.last());
        let asked = served.model.asked.lock().unwrap();
        summaries += usize::from(asked.last().unwrap().messages[0].content.starts_with("Summarise"));
        let prompt = asked.iter().rev().find(|request| request.messages[0].role == Role::System).unwrap();
        assert!(prompt.messages[0].content.contains("tide tables"), "the character is never left out");
        assert!(prompt.messages.last().unwrap().content.starts_with(&turn.to_string()));
    }
    assert!(summaries > 0, "what had no room was summarised");
    let asked = served.model.asked.lock().unwrap();
    let last = asked.iter().rev().find(|request| request.messages[0].role == Role::System).unwrap();
    assert!(last.messages[0].content.contains("What happened before:"));
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

#[test]
fn the_page_asks_nobody_else_for_anything() {
    let served = Served::plain();
    for (path, content_type) in [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
        ("/openapi.json", "application/json"),
    ] {
        let (status, head, body) = served.ask("GET", path, "", b"");
        assert!(status == 200 && head.contains(content_type), "{path}: {head}");
        assert!(head.contains("default-src 'none'"), "{path}: {head}");
        let text = String::from_utf8(body).unwrap();
        let addresses = text.matches("://").count();
        let own = text.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(addresses, own, "{path} names an address elsewhere");
    }
}

#[test]
fn a_character_may_bring_its_own_adapter() {
    let served = Served::plain();
    let charx = |weights: &str, config: &str| {
        let mut file = CardFile::new(Card::from_character(&Character::from_name("Grace", "A sailor", "")));
        file.add_asset("x_adapter", "adapter_config", "json", config.into()).unwrap();
        file.add_asset("x_adapter", "adapter_model", "safetensors", weights.into()).unwrap();
        file.write(CardFormat::Charx).unwrap().bytes
    };
    let import = |bytes: &[u8]| {
        let (status, _, body) = served.ask("POST", "/v1/characters/import", "", bytes);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice::<Value>(&body).unwrap()
    };
    let answer = |model: &str| {
        let (status, reply) =
            served.json("POST", "/v1/chat/completions", &json!({"model": model, "messages": user("hi")}));
        assert_eq!(status, 200, "{reply}");
        reply["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let grace = import(&charx("Ahoy! ", "{}"));
    assert_eq!(grace["adapter"], json!({"used": true}));
    assert_eq!(grace["warnings"], json!([]));
    let model = grace["model"].as_str().unwrap();
    assert_eq!(answer(model), "Ahoy! You said: hi");
    assert_eq!(answer("parrot"), "You said: hi");
    // In a chat that is kept, too, unless another model is named.
    let (_, session) = served.json("POST", "/v1/sessions", &json!({"character_id": grace["id"]}));
    assert_eq!(session["own_adapter"], true);
    let path = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    served.events(&format!("{path}/messages"), &json!({"content": "hi"}));
    served.events(&format!("{path}/answers"), &json!({"model": "parrot"}));
    let (_, session) = served.json("GET", &path, &Value::Null);
    let last = session["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["content"], &last["model"]), (&json!("You said: hi"), &json!("parrot")));
    let first = last["swipes"][0].clone();
    let (_, session) = served.json("POST", &format!("{path}/leaf"), &json!({"message": first}));
    let shown = session["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&shown["content"], shown["model"].as_str().unwrap()), (&json!("Ahoy! You said: hi"), model));
    // Brought again with other weights, it says other things; with ones that do not fit, the model speaks by itself.
    import(&charx("Land! ", "{}"));
    assert_eq!(answer(model), "Land! You said: hi");
    let stranger = import(&charx("Ahoy! ", "null"));
    assert_eq!(stranger["warnings"], json!(["its adapter is not used: it is of another model"]));
    assert_eq!(stranger["adapter"], json!({"used": false, "problem": "it is of another model"}));
    assert_eq!(answer(model), "You said: hi");
}

#[test]
fn a_character_can_be_watched_while_it_is_made() {
    let served = Served::plain();
    let events = served.events("/v1/characters", &json!({"persona": "a sailor", "stream": true}));
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["part", "asked", "piece", "created"]);
    assert_eq!(events[2]["text"], "Name: Ada Holm");
    let id = events[3]["character"]["id"].as_str().unwrap();
    assert_eq!(served.json("GET", &format!("/v1/characters/{id}"), &Value::Null).0, 200);
    let events = served.events("/v1/characters", &json!({"persona": "nobody", "stream": true}));
    assert!(events.last().unwrap()["error"]["message"].as_str().unwrap().contains("no acceptable profile"));
}

#[test]
fn runs_are_shown_while_they_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("first");
    std::fs::create_dir(&run).unwrap();
    let write = |name: &str, text: &str| std::fs::write(run.join(name), text).unwrap();
    write("recipe.toml", "title = \"A <b>run</b>\"\n");
    write("progress.json", r#"{"stage": "training", "done": 2, "total": 9, "message": "loss 2", "time": 5}"#);
    // The last line is being written.
    write(
        "metrics.jsonl",
        "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"loss\":2.0,\"held_out_loss\":2.5}\n{\"step\":3,\"lo",
    );
    write("masks.json", r#"[{"id": "d1", "pieces": [{"text": "Hello", "trained": true}]}]"#);
    std::fs::create_dir(folder.path().join("no run")).unwrap();
    let lock = std::fs::File::create(run.join("run.lock")).unwrap();
    lock.lock().unwrap();
    let options = ServeOptions { runs: Some(folder.path().to_owned()), ..ServeOptions::default() };
    let served = Served::start(Parrot::default(), options);
    let (_, listed) = served.json("GET", "/v1/runs", &Value::Null);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["data"][0]["title"], "A <b>run</b>");
    let (_, shown) = served.json("GET", "/v1/runs/first", &Value::Null);
    assert_eq!((&shown["state"], &shown["progress"]["done"]), (&json!("running"), &json!(2)));
    assert_eq!(shown["loss"].as_array().unwrap().len(), 2);
    assert_eq!(shown["loss"][1], json!({"step": 2, "loss": 2.0, "held_out_loss": 2.5}));
    assert_eq!(shown["masks"][0]["pieces"][0]["trained"], true);
    assert_eq!(shown["report"], false);
    assert_eq!(served.ask("GET", "/v1/runs/first/report", "", b"").0, 404);
    drop(lock);
    assert_eq!(served.json("GET", "/v1/runs/first", &Value::Null).1["state"], "stopped");
    write("report.html", "<!doctype html><script>fetch('/v1/models')</script>");
    assert_eq!(served.json("GET", "/v1/runs/first", &Value::Null).1["state"], "done");
    let (status, head, _) = served.ask("GET", "/v1/runs/first/report", "", b"");
    assert_eq!(status, 200);
    // A page of its own origin, which may ask this server nothing.
    assert!(head.contains("sandbox allow-scripts; default-src 'none'"), "{head}");
    for path in ["/v1/runs/..", "/v1/runs/..%2Ffirst", "/v1/runs/no%20run", "/v1/runs/%2Fetc/report"] {
        assert_eq!(served.ask("GET", path, "", b"").0, 404, "{path}");
    }
}
