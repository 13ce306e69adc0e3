//! The batch API of a mock: files, batches and what becomes of their requests.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use hyper::StatusCode;
use serde_json::{Value, json};

use super::reply::Answer;

/// Decides a batch's fate by its number, counted from 0, and the number of its requests.
pub type DecideBatch = dyn Fn(usize, usize) -> BatchFate + Send + Sync;

/// Decides a request's fate by its batch's number and its body.
pub type DecideLine = dyn Fn(usize, &Value) -> LineFate + Send + Sync;

/// How a mock's batches go. Answers come in reverse order, always.
#[derive(Clone)]
pub struct MockBatches {
    /// So many looks at a batch show it at work.
    pub looks: u64,
    /// What becomes of each batch.
    pub fate: Arc<DecideBatch>,
    /// What becomes of each request of a batch that was not refused.
    pub line: Arc<DecideLine>,
}

impl fmt::Debug for MockBatches {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "MockBatches {{ looks: {} }}", self.looks)
    }
}

impl Default for MockBatches {
    /// Done at the second look, with every request answered.
    fn default() -> Self {
        Self { looks: 1, fate: Arc::new(|_, _| BatchFate::Completed), line: Arc::new(|_, _| LineFate::Answered) }
    }
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchFate {
    /// All of its requests were executed.
    Completed,
    /// Only so many of them were executed when its time was over.
    Expired(usize),
    /// Only so many of them were executed when somebody cancelled it.
    Cancelled(usize),
    /// It was refused for a reason, and perhaps for one of its lines, counted from 1.
    Failed {
        /// The error's code.
        code: &'static str,
        /// The line.
        line: Option<u64>,
    },
}

/// What becomes of a request that is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFate {
    /// It is answered.
    Answered,
    /// Neither file has a word on it.
    Missing,
    /// Its answer has no text.
    Empty,
    /// It failed with a status and a message.
    Error(u16, &'static str),
}

/// What an executed request is answered.
pub(super) type Execute<'a> = &'a dyn Fn(&Value) -> Value;

/// Files and batches so far.
#[derive(Debug, Default)]
pub(super) struct Store {
    files: Vec<Vec<u8>>,
    batches: Vec<Batch>,
}

#[derive(Debug)]
struct Batch {
    input_file_id: String,
    end: Value,
    looks: u64,
    requests: usize,
}

/// A reply's status and body.
pub(super) type Reply = (StatusCode, Vec<u8>);

fn found(value: &Value) -> Reply {
    (StatusCode::OK, value.to_string().into_bytes())
}

fn missing(what: &str) -> Reply {
    (StatusCode::NOT_FOUND, json!({"error": {"message": format!("no such {what}")}}).to_string().into_bytes())
}

/// The number in an id such as `file-7`.
fn number(id: &str) -> Option<usize> {
    id.rsplit_once('-')?.1.parse().ok()
}

impl Store {
    /// Requests in each batch so far.
    pub(super) fn sizes(&self) -> Vec<usize> {
        self.batches.iter().map(|batch| batch.requests).collect()
    }

    fn add_file(&mut self, content: Vec<u8>) -> String {
        self.files.push(content);
        format!("file-{}", self.files.len() - 1)
    }

    /// `POST /files` in multipart form.
    pub(super) fn upload(&mut self, form: &[u8]) -> Reply {
        let wrong = |reason: &str| (StatusCode::BAD_REQUEST, json!({"error": {"message": reason}}).to_string().into());
        let fields = fields(form);
        if fields.get("purpose").map(Vec::as_slice) != Some(b"batch") {
            return wrong("the purpose must be `batch`");
        }
        let Some(file) = fields.get("file") else { return wrong("there is no file") };
        let id = self.add_file(file.clone());
        found(&json!({"object": "file", "id": id, "bytes": file.len(), "purpose": "batch"}))
    }

    /// `GET /files/ID/content`.
    pub(super) fn content(&self, id: &str) -> Reply {
        let file = number(id).and_then(|number| self.files.get(number));
        file.map_or_else(|| missing("file"), |file| (StatusCode::OK, file.clone()))
    }

    /// `POST /batches`.
    pub(super) fn create(&mut self, body: &Value, behaviour: &MockBatches, execute: Execute<'_>) -> Reply {
        let as_documented = body["endpoint"] == "/v1/chat/completions" && body["completion_window"] == "24h";
        let input_file_id = body["input_file_id"].as_str().unwrap_or("").to_owned();
        let file = number(&input_file_id).and_then(|number| self.files.get(number)).cloned();
        let (Some(file), true) = (file, as_documented) else { return missing("file or endpoint") };
        let lines: Vec<Value> =
            file.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let number = self.batches.len();
        let end = self.end(number, &lines, behaviour, execute);
        self.batches.push(Batch { input_file_id, end, looks: 0, requests: lines.len() });
        self.look(&format!("batch-{number}"), behaviour)
    }

    /// Executes a batch as far as its fate lets it; the end as `GET /batches/ID` will show it.
    fn end(&mut self, number: usize, lines: &[Value], behaviour: &MockBatches, execute: Execute<'_>) -> Value {
        let ids: HashSet<_> = lines.iter().map(|line| line["custom_id"].as_str()).collect();
        let fate = if ids.len() < lines.len() {
            BatchFate::Failed { code: "duplicate_custom_id", line: None }
        } else {
            (behaviour.fate)(number, lines.len())
        };
        let (status, executed) = match fate {
            BatchFate::Completed => ("completed", lines.len()),
            BatchFate::Expired(count) => ("expired", count),
            BatchFate::Cancelled(count) => ("cancelled", count),
            BatchFate::Failed { code, line } => {
                let error = json!({"code": code, "line": line, "message": format!("{code} on purpose")});
                return json!({"status": "failed", "errors": {"object": "list", "data": [error]}});
            }
        };
        let (mut answers, mut errors) = (Vec::new(), Vec::new());
        for (place, line) in lines.iter().enumerate().rev() {
            let response = |status: u16, body: Value| json!({"custom_id": line["custom_id"], "response": {"status_code": status, "body": body}, "error": null});
            if place >= executed {
                let error = json!({"code": format!("batch_{status}"), "message": "not executed"});
                errors.push(json!({"custom_id": line["custom_id"], "response": null, "error": error}));
                continue;
            }
            match (behaviour.line)(number, &line["body"]) {
                LineFate::Answered => answers.push(response(200, execute(&line["body"]))),
                LineFate::Empty => answers.push(response(200, Answer::of(String::new(), Some("stop")).completion())),
                LineFate::Missing => {}
                LineFate::Error(status, message) => {
                    errors.push(response(status, json!({"error": {"message": message}})));
                }
            }
        }
        let mut file = |lines: &[Value]| {
            let content: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
            if lines.is_empty() { Value::Null } else { json!(self.add_file(content)) }
        };
        json!({"status": status, "output_file_id": file(&answers), "error_file_id": file(&errors)})
    }

    /// `GET /batches/ID`.
    pub(super) fn look(&mut self, id: &str, behaviour: &MockBatches) -> Reply {
        let Some(place) = number(id).filter(|place| *place < self.batches.len()) else { return missing("batch") };
        self.batches[place].looks += 1;
        found(&self.shown(place, behaviour))
    }

    fn shown(&self, place: usize, behaviour: &MockBatches) -> Value {
        let batch = &self.batches[place];
        // The reply to its creation was one look.
        let mut shown =
            if batch.looks > behaviour.looks + 1 { batch.end.clone() } else { json!({"status": "in_progress"}) };
        shown["id"] = json!(format!("batch-{place}"));
        shown["object"] = json!("batch");
        shown["input_file_id"] = json!(batch.input_file_id);
        shown["created_at"] = json!(std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()));
        shown
    }

    /// `GET /batches`, the newest first; two on a page, so that pages are turned.
    pub(super) fn list(&self, query: &str, behaviour: &MockBatches) -> Reply {
        const PAGE: usize = 2;
        let after = query.split('&').find_map(|pair| pair.strip_prefix("after=")).and_then(number);
        let before = after.unwrap_or(self.batches.len());
        let page: Vec<Value> = (0..before).rev().take(PAGE).map(|place| self.shown(place, behaviour)).collect();
        found(&json!({"object": "list", "data": page, "has_more": before > PAGE}))
    }
}

/// The fields of a multipart form, by their names.
fn fields(form: &[u8]) -> HashMap<String, Vec<u8>> {
    let position = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).position(|window| window == part);
    let mut fields = HashMap::new();
    let Some(end) = position(form, b"\r\n") else { return fields };
    let boundary = [b"\r\n", &form[..end]].concat();
    let mut rest = &form[end..];
    while let Some(head) = position(rest, b"\r\n\r\n") {
        let header = String::from_utf8_lossy(&rest[..head]).into_owned();
        let content = &rest[head + 4..];
        let Some(length) = position(content, &boundary) else { break };
        let name = header.split("name=\"").nth(1).and_then(|name| name.split('"').next()).unwrap_or("").to_owned();
        fields.insert(name, content[..length].to_vec());
        rest = &content[length + boundary.len()..];
    }
    fields
}
