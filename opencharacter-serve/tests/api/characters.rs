//! Characters and their cards.

use opencharacter_card::{Card, CardFile, CardFormat};
use opencharacter_core::Character;
use serde_json::{Value, json};

use crate::served::{Served, user};

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
