//! What was done, for Prometheus.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use opencharacter_core::Completion;

/// Counters since the start.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: AtomicU64,
    client_errors: AtomicU64,
    server_errors: AtomicU64,
    answers: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    open: AtomicU64,
}

/// An answer under way.
pub(crate) struct Open<'a>(&'a Metrics);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a request by its reply's status.
    pub(crate) fn replied(&self, status: u16) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match status {
            400..500 => self.client_errors.fetch_add(1, Ordering::Relaxed),
            500.. => self.server_errors.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// Counts an answer as open until what is returned is dropped.
    pub(crate) fn open(&self) -> Open<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    /// Counts a whole answer.
    pub(crate) fn answered(&self, completion: &Completion) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.prompt_tokens.fetch_add(completion.prompt_tokens as u64, Ordering::Relaxed);
        self.cached_tokens.fetch_add(completion.cached_tokens as u64, Ordering::Relaxed);
        self.completion_tokens.fetch_add(completion.completion_tokens as u64, Ordering::Relaxed);
    }

    /// In Prometheus' text format.
    pub(crate) fn to_text(&self) -> String {
        let rows = [
            ("requests_total", "counter", "Requests replied to", &self.requests),
            ("client_errors_total", "counter", "Replies with a status of 400 to 499", &self.client_errors),
            ("server_errors_total", "counter", "Replies with a status of 500 or more", &self.server_errors),
            ("answers_total", "counter", "Answers that a model finished", &self.answers),
            ("prompt_tokens_total", "counter", "Tokens of their prompts", &self.prompt_tokens),
            ("cached_tokens_total", "counter", "Those of them that were cached", &self.cached_tokens),
            ("completion_tokens_total", "counter", "Tokens of the answers", &self.completion_tokens),
            ("open_answers", "gauge", "Answers under way", &self.open),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "# HELP opencharacter_{name} {help}\n# TYPE opencharacter_{name} {kind}\nopencharacter_{name} {}",
                value.load(Ordering::Relaxed)
            );
        }
        text
    }
}
