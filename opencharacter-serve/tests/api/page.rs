//! The page, and the runs that it shows.

use opencharacter_serve::ServeOptions;
use serde_json::{Value, json};

use crate::{parrot::Parrot, served::Served};

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
