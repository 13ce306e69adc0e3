//! `serve` and `card create` with the embedded model. Needs it; see `CONTRIBUTING.md`.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencharacter"));
    // A key of the user's is none of the tests' business.
    command.env_remove("OPENCHARACTER_API_KEY");
    command
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(["serve", "--forget", "--listen", "127.0.0.1:0"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim().to_owned() }
    }

    fn get(&self, path: &str) -> Value {
        let text = ureq::get(format!("{}{path}", self.address)).call().unwrap().body_mut().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let sent = ureq::post(format!("{}{path}", self.address)).send(body.to_string()).unwrap();
        serde_json::from_str(&sent.into_body().read_to_string().unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_server_says_what_the_command_line_says() {
    let folder = tempfile::tempdir().unwrap();
    let messages = json!([{"role": "user", "content": "What is the capital of France?"}]);
    fs::write(folder.path().join("messages.json"), messages.to_string()).unwrap();
    let mut command = program();
    command.current_dir(folder.path());
    let output =
        command.args(["complete", "--json", "--max-tokens", "24", "--messages", "messages.json"]).output().unwrap();
    let completion: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let server = Server::start(&[]);
    let asked = json!({"messages": messages, "max_tokens": 24, "temperature": 0, "top_p": 1, "repetition_penalty": 1});
    let reply = server.post("/v1/chat/completions", &asked);
    assert_eq!(reply["choices"][0]["message"]["content"], completion["text"]);
    assert_eq!(reply["usage"]["completion_tokens"], completion["completion_tokens"]);
    // An answer that was begun goes on where it was.
    let text = completion["text"].as_str().unwrap();
    let (begun, rest) = text.split_at(text.find(' ').unwrap());
    let prefilled = json!([messages[0], {"role": "assistant", "content": begun}]);
    let mut asked = asked;
    asked["messages"] = prefilled;
    let reply = server.post("/v1/chat/completions", &asked);
    let answer = reply["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(answer.starts_with(&rest[..rest.len().min(20)]), "`{begun}` went on with `{answer}` in place of `{rest}`");
}

#[test]
fn a_card_is_created_served_and_packed() {
    let folder = tempfile::tempdir().unwrap();
    let line = |words: &[&str]| {
        let output = program().current_dir(folder.path()).args(words).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        output
    };
    fs::create_dir(folder.path().join("cards")).unwrap();
    line(&["card", "create", "a lighthouse keeper who hates the sea", "--out", "cards/keeper.png"]);
    let shown = line(&["card", "show", "cards/keeper.png", "--json"]);
    let character: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(character["persona"], "a lighthouse keeper who hates the sea");
    let cards = folder.path().join("cards");
    let server = Server::start(&["--characters", cards.to_str().unwrap()]);
    let list = server.get("/v1/characters");
    let id = list["data"][0]["id"].as_str().unwrap();
    assert_eq!(list["data"][0]["persona"], character["persona"]);
    let greeting = server.post("/v1/chat/completions", &json!({"model": format!("character/{id}"), "messages": []}));
    assert!(!greeting["choices"][0]["message"]["content"].as_str().unwrap().is_empty(), "{greeting}");
    // An adapter travels with its character, in a CHARX and in nothing else.
    let dialogues = concat!(env!("CARGO_MANIFEST_DIR"), "/../benchsuite/clients/dialogues.jsonl");
    line(&["train", "--dialogues", dialogues, "--epochs", "1", "--rank", "2", "--out", "run"]);
    line(&["card", "convert", "cards/keeper.png", "--adapter", "run/adapter", "--out", "own.charx"]);
    let bytes = fs::read(folder.path().join("own.charx")).unwrap();
    let brought = |bytes: &[u8]| -> Value {
        let sent = ureq::post(format!("{}/v1/characters/import", server.address)).send(bytes).unwrap();
        serde_json::from_str(&sent.into_body().read_to_string().unwrap()).unwrap()
    };
    assert_eq!(brought(&bytes)["adapter"], json!({"used": true}));
    // One that says it is larger than it is: the character speaks without it.
    let config = fs::read_to_string(folder.path().join("run/adapter/adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["r"] = json!(1_000_000_000_000_u64);
    fs::write(folder.path().join("run/adapter/adapter_config.json"), config.to_string()).unwrap();
    line(&["card", "convert", "cards/keeper.png", "--adapter", "run/adapter", "--out", "large.charx"]);
    let large = brought(&fs::read(folder.path().join("large.charx")).unwrap());
    assert_eq!(large["adapter"]["used"], false, "{large}");
    let mut refused = program();
    let words = ["card", "convert", "cards/keeper.png", "--adapter", "run/adapter", "--out", "keeper.json"];
    let refused = refused.current_dir(folder.path()).args(words).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
}
