//! What clients of other servers send, and get.

use opencharacter_core::Role;
use serde_json::{Value, json};

use crate::served::{Served, user};

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
