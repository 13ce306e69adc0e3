//! A model that is made up, and a workshop that makes up characters.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opencharacter_card::Card;
use opencharacter_core::{
    BoxFuture, Character, Completion, FinishReason, Generate, GenerateError, GenerateRequest, Sampling, Score,
    ScoreRequest, TextSink,
};
use opencharacter_serve::{Heard, Listener, ServedModel, Workshop};

/// Repeats the last message word by word, and notes what it was asked.
#[derive(Default)]
pub(crate) struct Parrot {
    pub(crate) pause: Duration,
    pub(crate) context: usize,
    /// What it says before the rest.
    pub(crate) says: String,
    pub(crate) asked: Mutex<Vec<GenerateRequest>>,
    pub(crate) under_way: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
}

struct UnderWay<'a>(&'a Parrot, bool);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Parrot {
    async fn answer(&self, text: String, sampling: &Sampling, mut sink: Option<TextSink>) -> Completion {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let mut under_way = UnderWay(self, false);
        let text = format!("{}{text}", self.says);
        let words: Vec<&str> = text.split_inclusive(' ').take(sampling.max_tokens).collect();
        for word in &words {
            tokio::time::sleep(self.pause).await;
            if let Some(sink) = &mut sink {
                sink(word);
            }
        }
        under_way.1 = true;
        Completion {
            text: words.concat(),
            finish: if words.len() < sampling.max_tokens { FinishReason::Stop } else { FinishReason::Length },
            prompt_tokens: 7,
            cached_tokens: 0,
            completion_tokens: words.len(),
            log_probs: Vec::new(),
        }
    }
}

impl Generate for Parrot {
    fn fingerprint(&self) -> &'static str {
        "parrot"
    }

    fn concurrency(&self) -> usize {
        8
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.asked.lock().unwrap().push(request.clone());
        Box::pin(async move {
            let last = request.messages.last().unwrap().content.clone();
            Ok(self.answer(format!("You said: {last}"), &request.sampling, None).await)
        })
    }

    fn stream(&self, request: GenerateRequest, sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.asked.lock().unwrap().push(request.clone());
        Box::pin(async move {
            let last = request.messages.last().unwrap().content.clone();
            if last == "too long" {
                return Err(GenerateError::Refused { reason: "the context is full".into() });
            }
            Ok(self.answer(format!("You said: {last}"), &request.sampling, Some(sink)).await)
        })
    }

    fn score(&self, _: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(async { Err(GenerateError::Unsupported { model: "parrot".into(), what: "score".into() }) })
    }
}

impl ServedModel for Parrot {
    fn encode(&self, text: &str) -> Vec<u32> {
        text.split_whitespace().map(|word| word.len() as u32).collect()
    }

    fn decode(&self, tokens: &[u32]) -> String {
        tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn context_tokens(&self) -> usize {
        if self.context == 0 { 2048 } else { self.context }
    }

    fn complete(
        &self,
        prompt: &str,
        sampling: Sampling,
        _: Option<usize>,
        sink: Option<TextSink>,
    ) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        let text = prompt.to_uppercase();
        Box::pin(async move { Ok(self.answer(text, &sampling, sink).await) })
    }
}

pub(crate) struct Nobody;

impl Workshop for Nobody {
    fn invent(&self, persona: String, listener: Listener) -> BoxFuture<'_, Result<Card, String>> {
        Box::pin(async move {
            listener(Heard::Part("profile"));
            listener(Heard::Asked);
            listener(Heard::Piece("Name: Ada Holm".into()));
            if persona.contains("nobody") {
                return Err("no acceptable profile came out".into());
            }
            let mut character = Character::from_name("Ada Holm", "", "");
            character.persona = persona;
            Ok(Card { first_mes: "Who is there, {{user}}?".into(), ..Card::from_character(&character) })
        })
    }

    /// A parrot that says first what its weights are.
    fn adapted(&self, config: &[u8], weights: &[u8]) -> Result<Arc<dyn ServedModel>, String> {
        let says = String::from_utf8(weights.to_vec()).unwrap();
        if config == b"{}" {
            Ok(Arc::new(Parrot { says, ..Parrot::default() }))
        } else {
            Err("it is of another model".into())
        }
    }
}
