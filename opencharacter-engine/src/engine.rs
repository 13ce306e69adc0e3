use std::{
    sync::{Arc, mpsc},
    thread,
};

use opencharacter_core::{
    BoxFuture, Completion, Generate, GenerateError, GenerateRequest, Role, Sampling, Score, ScoreRequest, TextSink,
    content_hash, hex,
};
use opencharacter_nn::{Model, PackedAdapter, SequenceCache};
use tokio::sync::oneshot;

use crate::{
    constraint::ConstraintFactory,
    log_probs::LogProbs,
    rounding::Rounding,
    sampler::Sampler,
    scheduler::Scheduler,
    sequence::{Extras, Generation, Scoring, Sequence, ServedAdapter, Work},
    text::AnswerText,
};

/// How much the engine takes on at once.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Requests in one batch. An engine for one rounds answers as is fastest for a token alone, which on some machines is
    /// other than in batches: its texts differ there.
    pub max_sequences: usize,
    /// Tokens in one forward pass; prompts longer than what is left wait for the next.
    pub step_tokens: usize,
    /// Memory for keys and values, shared beginnings included.
    pub cache_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_sequences: 64, step_tokens: 512, cache_bytes: 3 << 30 }
    }
}

/// The embedded model as a [`Generate`], with or without an adapter.
///
/// Handles made of one another share the weights, the cache and every forward pass, so that requests to several
/// adapters run in one batch. The engine's thread ends with the last of them.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    adapter: Option<Arc<ServedAdapter>>,
    fingerprint: String,
}

/// What all handles of one engine have in common.
struct Shared {
    model: Arc<Model>,
    /// The base model's, without an adapter.
    fingerprint: String,
    constraints: ConstraintFactory,
    options: EngineOptions,
    mailbox: mpsc::Sender<Sequence>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the engine's thread; the handle answers as the base model.
    pub fn start(model: Arc<Model>, options: EngineOptions) -> Result<Self, GenerateError> {
        let fingerprint = fingerprint(&model, &options);
        let unavailable = |reason: String| GenerateError::Unavailable { model: fingerprint.clone(), reason };
        let constraints = ConstraintFactory::new(&model.tokenizer).map_err(unavailable)?;
        let (mailbox, letters) = mpsc::channel();
        let mut scheduler = Scheduler::new(Arc::clone(&model), options.clone());
        thread::Builder::new()
            .name("engine".into())
            .spawn(move || run(&mut scheduler, &letters))
            .map_err(|error| unavailable(error.to_string()))?;
        let shared = Shared { model, fingerprint: fingerprint.clone(), constraints, options, mailbox };
        Ok(Self { shared: Arc::new(shared), adapter: None, fingerprint })
    }

    /// A handle on the same engine that answers with `adapter`. `hash` is that of the adapter's files: it becomes part
    /// of the fingerprint, and handles with equal hashes share what they cache.
    #[must_use]
    pub fn with_adapter(&self, adapter: PackedAdapter, hash: String) -> Self {
        let fingerprint = hex(&content_hash(&[&self.shared.fingerprint, &hash]));
        let adapter = Some(Arc::new(ServedAdapter { packed: adapter, hash }));
        Self { shared: Arc::clone(&self.shared), adapter, fingerprint }
    }

    /// The model behind it.
    pub fn model(&self) -> &Arc<Model> {
        &self.shared.model
    }

    fn refused(error: impl std::fmt::Display) -> GenerateError {
        GenerateError::Refused { reason: error.to_string() }
    }

    fn context_limit(&self, tokens: usize) -> Result<usize, GenerateError> {
        let context = self.model().decoder.config().max_position_embeddings;
        if tokens >= context {
            return Err(Self::refused(format!(
                "the conversation has {tokens} tokens and the model's context holds {context}; shorten it"
            )));
        }
        Ok(context)
    }

    fn submit(&self, sequence: Sequence) -> Result<(), GenerateError> {
        self.shared.mailbox.send(sequence).map_err(|_| self.gone())
    }

    fn gone(&self) -> GenerateError {
        GenerateError::Unavailable {
            model: self.fingerprint.clone(),
            reason: "the engine's thread has ended; this is a bug, please report it".into(),
        }
    }

    async fn generate_with(
        &self,
        request: GenerateRequest,
        sink: Option<TextSink>,
    ) -> Result<Completion, GenerateError> {
        request.check()?;
        let Model { template, tokenizer, .. } = &**self.model();
        let tokens = template.encode_prompt(&request.messages, tokenizer).map_err(Self::refused)?;
        let constraint = match &request.schema {
            Some(schema) => Some(self.shared.constraints.json(schema).map_err(Self::refused)?),
            None => None,
        };
        let log_probs = request.log_probs.map(LogProbs::new);
        self.continue_with(tokens, request.sampling, Extras { constraint, log_probs, sink, ignore_end: false }).await
    }

    /// Continues a prompt given in tokens. With `ignore_end`, the model's wish to end its turn is passed over and the
    /// text has exactly `max_tokens` tokens: what a benchmark needs.
    pub async fn continue_tokens(
        &self,
        prompt: Vec<u32>,
        sampling: Sampling,
        ignore_end: bool,
    ) -> Result<Completion, GenerateError> {
        if prompt.is_empty() {
            return Err(Self::refused("the prompt holds no token"));
        }
        self.continue_with(prompt, sampling, Extras { ignore_end, ..Extras::default() }).await
    }

    /// Continues a text without a chat template; `sink` hears it piece by piece. A text without tokens stands for the
    /// beginning of a document.
    ///
    /// # Errors
    /// [`GenerateError::Refused`] for a text that the context does not hold.
    pub async fn continue_text(
        &self,
        text: &str,
        sampling: Sampling,
        log_probs: Option<usize>,
        sink: Option<TextSink>,
    ) -> Result<Completion, GenerateError> {
        let tokens = self.model().tokenizer.encode_document(text);
        if tokens.is_empty() {
            return Err(Self::refused("the prompt holds no token, and the model has none that begins a document"));
        }
        let log_probs = log_probs.map(LogProbs::new);
        self.continue_with(tokens, sampling, Extras { log_probs, sink, ..Extras::default() }).await
    }

    async fn continue_with(
        &self,
        tokens: Vec<u32>,
        sampling: Sampling,
        extras: Extras,
    ) -> Result<Completion, GenerateError> {
        let context = self.context_limit(tokens.len())?;
        let max_tokens = sampling.max_tokens.clamp(1, context - tokens.len());
        let (reply, answer) = oneshot::channel();
        self.submit(Sequence {
            reserved_tokens: tokens.len() + max_tokens,
            cache: SequenceCache::default(),
            cached_tokens: 0,
            adapter: self.adapter.clone(),
            work: Work::Generate(Box::new(Generation {
                prompt_tokens: tokens.len(),
                max_tokens,
                text: AnswerText::new(&sampling.stop),
                sampler: Sampler::new(sampling),
                extras,
                reply,
            })),
            tokens,
        })?;
        answer.await.map_err(|_| self.gone())?
    }

    async fn score_conversation(&self, request: ScoreRequest) -> Result<Score, GenerateError> {
        if !request.messages.iter().any(|message| message.role == Role::Assistant) {
            return Err(Self::refused("the conversation holds no assistant message to score"));
        }
        let Model { template, tokenizer, .. } = &**self.model();
        let conversation = template.encode_conversation(&request.messages, tokenizer).map_err(Self::refused)?;
        self.context_limit(conversation.tokens.len())?;
        let (reply, answer) = oneshot::channel();
        self.submit(Sequence {
            reserved_tokens: conversation.tokens.len(),
            cache: SequenceCache::default(),
            cached_tokens: 0,
            adapter: self.adapter.clone(),
            work: Work::Score(Scoring { scored: conversation.trained, log_prob: 0.0, count: 0, reply }),
            tokens: conversation.tokens,
        })?;
        answer.await.map_err(|_| self.gone())?
    }
}

/// What answers follow from: the model's files, and the engine's rounding where it rounds.
fn fingerprint(model: &Model, options: &EngineOptions) -> String {
    match Rounding::new(&model.decoder, options).description() {
        Some(rounding) => hex(&content_hash(&[model.fingerprint.as_str(), rounding.as_str()])),
        None => model.fingerprint.clone(),
    }
}

/// The engine's thread: waits while there is nothing to do, and ends when every [`Engine`] handle is gone.
fn run(scheduler: &mut Scheduler, letters: &mpsc::Receiver<Sequence>) {
    loop {
        if scheduler.is_idle() {
            match letters.recv() {
                Ok(sequence) => scheduler.submit(sequence),
                Err(mpsc::RecvError) => return,
            }
        }
        while let Ok(sequence) = letters.try_recv() {
            scheduler.submit(sequence);
        }
        scheduler.step();
    }
}

impl Generate for Engine {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn concurrency(&self) -> usize {
        // A little more than one batch, so that a place that falls free is taken at the next step.
        self.shared.options.max_sequences + 8
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(self.generate_with(request, None))
    }

    fn stream(&self, request: GenerateRequest, sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(self.generate_with(request, Some(sink)))
    }

    fn score(&self, request: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(self.score_conversation(request))
    }
}
