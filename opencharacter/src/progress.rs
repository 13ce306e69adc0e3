use std::{
    cell::Cell,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::output;

/// Where progress is also kept: a process works in one folder at most.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// From now on, what stages say is also in the folder's `progress.json`, for who looks from outside.
pub fn keep_in(folder: &Path) {
    // A second folder of one process has its progress shown in the first.
    let _ = FOLDER.set(folder.to_owned());
}

/// Progress of one stage on standard error: a bar on a terminal, a line now and then elsewhere.
pub struct Stage {
    name: String,
    bar: ProgressBar,
    plain: Option<Mutex<Cell<Instant>>>,
    started: Instant,
    /// When something was shown last.
    shown: Mutex<Option<Instant>>,
    /// When it was last kept in the folder.
    kept: Mutex<Option<Instant>>,
}

/// Seconds between two lines where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(20);

impl Stage {
    /// A stage of `total` steps counted in `unit`.
    pub fn new(name: impl Into<String>, unit: &str) -> Self {
        let name = name.into();
        let bar = ProgressBar::new(0);
        let template = format!("{{prefix:<22}} {{bar:28}} {{pos}}/{{len}} {unit}  {{per_sec}}  {{eta}} left  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        bar.set_prefix(name.clone());
        bar.enable_steady_tick(Duration::from_millis(500));
        let plain = (!std::io::stderr().is_terminal()).then(|| Mutex::new(Cell::new(Instant::now())));
        Self { name, bar, plain, started: Instant::now(), shown: Mutex::new(None), kept: Mutex::new(None) }
    }

    /// A stage that counts bytes.
    pub fn bytes(name: impl Into<String>, total: u64) -> Self {
        let stage = Self::new(name, "bytes");
        if let Ok(style) = ProgressStyle::with_template("{prefix:<22} {bar:28} {bytes}/{total_bytes}  {eta} left") {
            stage.bar.set_style(style);
        }
        stage.bar.set_length(total);
        stage
    }

    /// [`Self::set`] for what happens thousands of times a second: nothing is written more often than can be read.
    pub fn set_with(&self, done: usize, total: usize, message: impl FnOnce() -> String) {
        const SHOWN_EVERY: Duration = Duration::from_millis(100);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if done < total && shown.is_some_and(|at| at.elapsed() < SHOWN_EVERY) {
            return;
        }
        *shown = Some(Instant::now());
        self.set(done, total, message());
    }

    /// `done` of `total`, with what else there is to say.
    pub fn set(&self, done: usize, total: usize, message: impl Into<String>) {
        let message = message.into();
        self.keep(done, total, &message);
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        if let Some(last) = &self.plain
            && let Ok(last) = last.lock()
            && last.get().elapsed() >= PLAIN_EVERY
        {
            last.set(Instant::now());
            let elapsed = self.started.elapsed().as_secs_f64();
            let left = elapsed / done.max(1) as f64 * total.saturating_sub(done) as f64;
            eprintln!("{}: {done}/{total}, {left:.0} s left  {message}", self.name);
        }
        self.bar.set_message(message);
    }

    /// Keeps where the stage is in the folder: at once when it begins, then once a second. A stage whose total grows with
    /// what is done is complete at every call, so that being complete is no reason to write.
    fn keep(&self, done: usize, total: usize, message: &str) {
        const EVERY: Duration = Duration::from_secs(1);
        let Some(folder) = FOLDER.get() else { return };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        *kept = Some(Instant::now());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let progress = json!({"stage": self.name, "done": done, "total": total, "message": message, "time": since});
        // What cannot be kept is only not seen from outside; the work itself says so where the disk is full.
        let _ = output::json_file(&folder.join("progress.json"), &progress);
    }

    /// Ends the stage with one line that stays.
    pub fn finish(self, summary: &str) {
        self.bar.finish_and_clear();
        eprintln!("{:<22} {summary}  ({})", self.name, seconds(self.started.elapsed().as_secs_f64()));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `12.3 s` or `4 min 05 s`.
pub fn seconds(value: f64) -> String {
    if value < 60.0 {
        return format!("{value:.1} s");
    }
    let whole = value.round() as u64;
    format!("{} min {:02} s", whole / 60, whole % 60)
}
