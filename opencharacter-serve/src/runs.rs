//! `/v1/runs`: what commands that write a folder (`run`, `train`, `eval`) have done and are doing.
//!
//! A run is a folder with a lock, which its process holds for as long as it works. All else is read from the files that
//! the commands write, so a run on another machine shows here as soon as its folder does.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use axum::{extract::State, response::Response};
use hyper::{
    StatusCode,
    header::{CONTENT_SECURITY_POLICY, HeaderValue},
};
use serde_json::{Value, json};

use crate::{
    app::App,
    error::ApiError,
    respond::{Id, found, response},
};

/// What every folder of a run holds.
const LOCK: &str = "run.lock";
/// Files larger than this are not read whole.
const LARGEST: u64 = 64 << 20;
/// Points of a loss curve that are sent: more than a screen has columns.
const POINTS: usize = 1500;

/// A report is a page with a script of its own, about texts that nobody vouches for: it gets no access to this server.
const REPORT_POLICY: &str = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; \
                             style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

struct Run {
    id: String,
    path: PathBuf,
}

/// The runs, the one that was worked on last first.
fn runs(app: &App) -> Vec<Run> {
    let entries = app.runs.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let found = entries.filter_map(|entry| {
        let (id, path) = (entry.file_name().into_string().ok()?, entry.path());
        path.join(LOCK).is_file().then(|| (updated(&path), Run { id, path }))
    });
    let mut found: Vec<(u64, Run)> = found.collect();
    found.sort_by(|(first, a), (second, b)| second.cmp(first).then_with(|| a.id.cmp(&b.id)));
    found.into_iter().map(|(_, run)| run).collect()
}

/// When the run's folder was last written to, in Unix seconds.
fn updated(path: &Path) -> u64 {
    let files = ["progress.json", "metrics.jsonl", "scores.json", "report.html", LOCK];
    let times = files.iter().filter_map(|name| {
        let modified = fs::metadata(path.join(name)).ok()?.modified().ok()?;
        Some(modified.duration_since(UNIX_EPOCH).ok()?.as_secs())
    });
    times.max().unwrap_or(0)
}

impl Run {
    fn find(app: &App, id: &str) -> Result<Self, ApiError> {
        let missing = || ApiError::missing(format!("there is no run `{id}`; GET /v1/runs lists them"));
        // Only what the folder lists: an id is never part of a path.
        runs(app).into_iter().find(|run| run.id == id).ok_or_else(missing)
    }

    fn text(&self, name: &str) -> Option<String> {
        let path = self.path.join(name);
        if fs::metadata(&path).ok()?.len() > LARGEST {
            return None;
        }
        fs::read_to_string(path).ok()
    }

    /// A document; null where there is none (yet).
    fn document(&self, name: &str) -> Value {
        self.text(name).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null)
    }

    /// `running` while a process holds the lock, `done` when there is a result, `stopped` otherwise.
    fn state(&self) -> &'static str {
        let held = File::open(self.path.join(LOCK))
            .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)));
        if held {
            return "running";
        }
        // A run of the whole chain begins with a recipe and ends with a report; training and evaluation end with less.
        let has = |name: &&str| self.path.join(name).exists();
        let whole_chain = has(&"recipe.toml");
        let results: &[&str] = if whole_chain { &["report.html"] } else { &["scores.json", "training.json"] };
        if results.iter().any(has) { "done" } else { "stopped" }
    }

    fn listed(&self) -> Value {
        let state = self.state();
        let progress = if state == "done" { Value::Null } else { self.document("progress.json") };
        json!({"id": self.id, "title": self.title(), "state": state, "updated": updated(&self.path), "progress": progress})
    }

    /// What its recipe calls it.
    fn title(&self) -> Option<String> {
        let recipe: toml::Table = self.text("recipe.toml")?.parse().ok()?;
        Some(recipe.get("title")?.as_str()?.to_owned())
    }

    /// Training's steps so far, thinned out evenly where there are many; those with a held-out loss all stay.
    fn loss(&self) -> Vec<Value> {
        let text = self.text("metrics.jsonl").unwrap_or_default();
        // The last line may be half written.
        let steps: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let every = steps.len().div_ceil(POINTS).max(1);
        let last = steps.len().saturating_sub(1);
        let kept = steps
            .into_iter()
            .enumerate()
            .filter(|(place, step)| place % every == 0 || *place == last || step["held_out_loss"].is_number());
        let point =
            |step: &Value| json!({"step": step["step"], "loss": step["loss"], "held_out_loss": step["held_out_loss"]});
        kept.map(|(_, step)| point(&step)).collect()
    }
}

/// Reads files, which takes as long as it takes, where no answer waits for it.
async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let ended = tokio::task::spawn_blocking(read).await;
    ended.map_err(|error| ApiError::internal(format!("the run cannot be read: {error}")))?
}

/// `GET /v1/runs`
pub(crate) async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    reading(move || {
        let listed: Vec<Value> = runs(&app).iter().map(Run::listed).collect();
        Ok(found(&json!({"object": "list", "data": listed, "folder": app.runs})))
    })
    .await
}

/// `GET /v1/runs/ID`
pub(crate) async fn show(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    reading(move || {
        let run = Run::find(&app, &id)?;
        let mut document = run.listed();
        document["loss"] = run.loss().into();
        document["training"] = run.document("training.json");
        document["scores"] = run.document("scores.json");
        document["seconds"] = run.document("seconds.json");
        document["masks"] = run.document("masks.json");
        document["report"] = run.path.join("report.html").is_file().into();
        Ok(found(&document))
    })
    .await
}

/// `GET /v1/runs/ID/report`
pub(crate) async fn report(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    let read = move || {
        let report = Run::find(&app, &id)?.text("report.html");
        report.ok_or_else(|| ApiError::missing("this run has no report yet"))
    };
    let page = reading(read).await?;
    let mut reply = response(StatusCode::OK, "text/html; charset=utf-8", page);
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(REPORT_POLICY));
    Ok(reply)
}
