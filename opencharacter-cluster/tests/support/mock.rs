//! A model whose answers follow from the request alone, and which tells a file of its calls.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opencharacter_core::{
    BoxFuture, Completion, FinishReason, Generate, GenerateError, GenerateRequest, Message, Sampling, Score,
    ScoreRequest, TextSink, content_hash, hex,
};

pub const FINGERPRINT: &str = "mock";

/// Counts that outlive the model.
#[derive(Default)]
pub struct Counts {
    pub begun: AtomicUsize,
    pub under_way: AtomicUsize,
    pub most_under_way: AtomicUsize,
    pub done: AtomicUsize,
}

pub struct Mock {
    pub fingerprint: String,
    pub latency: Duration,
    pub concurrency: usize,
    /// Keeps its thread for as long as a call takes, so that nothing else of its process runs.
    pub stalls: bool,
    pub fails_with: Option<GenerateError>,
    /// The answer's length; 0 for a hash of the request.
    pub answer_bytes: usize,
    pub counts: Arc<Counts>,
    /// A line `begun ...` or `done ...` for each call.
    pub log: Option<PathBuf>,
}

impl Mock {
    pub fn new(latency: Duration, concurrency: usize) -> Self {
        Self {
            fingerprint: FINGERPRINT.into(),
            latency,
            concurrency,
            stalls: false,
            fails_with: None,
            answer_bytes: 0,
            counts: Arc::default(),
            log: None,
        }
    }

    pub fn logging(self, log: &Path) -> Self {
        Self { log: Some(log.to_owned()), ..self }
    }

    async fn call(&self, request: &str) -> Result<String, GenerateError> {
        let hash = hex(&content_hash(&[request])[..16]);
        self.note("begun", &hash);
        let _running = Running::new(&self.counts);
        if self.stalls {
            std::thread::sleep(self.latency);
        } else if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        if let Some(error) = &self.fails_with {
            return Err(error.clone());
        }
        self.note("done", &hash);
        self.counts.done.fetch_add(1, Ordering::SeqCst);
        Ok(hash)
    }

    fn note(&self, what: &str, hash: &str) {
        if let Some(path) = &self.log {
            let mut file = File::options().create(true).append(true).open(path).unwrap();
            // One write of one short line: processes do not mix theirs.
            file.write_all(format!("{what} {hash}\n").as_bytes()).unwrap();
        }
    }
}

struct Running<'a>(&'a Counts);

impl<'a> Running<'a> {
    fn new(counts: &'a Counts) -> Self {
        counts.begun.fetch_add(1, Ordering::SeqCst);
        let now = counts.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most_under_way.fetch_max(now, Ordering::SeqCst);
        Self(counts)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Generate for Mock {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            let hash = self.call(&serde_json::to_string(&request).unwrap()).await?;
            let text = if self.answer_bytes == 0 { hash } else { "x".repeat(self.answer_bytes) };
            Ok(Completion {
                text,
                finish: FinishReason::Stop,
                prompt_tokens: 10,
                cached_tokens: 0,
                completion_tokens: 5,
                log_probs: Vec::new(),
            })
        })
    }

    fn stream(&self, request: GenerateRequest, _: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.generate(request)
    }

    fn score(&self, request: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(async move {
            let hash = self.call(&serde_json::to_string(&request).unwrap()).await?;
            let log_prob = -f64::from(u32::from_str_radix(&hash[..8], 16).unwrap()) / 3.0;
            Ok(Score { tokens: 5, log_prob, prompt_tokens: 10 })
        })
    }
}

/// A call that is told from others by `text` and `seed`.
pub fn request(text: &str, seed: u64) -> GenerateRequest {
    let sampling = Sampling { temperature: 0.7, seed, ..Sampling::default() };
    GenerateRequest { messages: vec![Message::user(text)], sampling, schema: None, log_probs: None }
}
