//! Chats that are kept.

use opencharacter_card::Card;
use opencharacter_core::Role;
use opencharacter_serve::ServeOptions;
use serde_json::{Value, json};

use crate::{parrot::Parrot, served::Served};

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
