//! `POST /v1/chat/completions`.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{extract::State, response::Response};
use futures_util::future::try_join_all;
use opencharacter_core::{Completion, FinishReason, GenerateError, GenerateRequest, Message, Role, Sampling};
use serde_json::{Value, json};

use super::{
    CHARACTER, log_probs,
    request::{ChatRequest, MOST_LOG_PROBS, conversation},
    stream::{EventStream, Events, sent_events},
};
use crate::{
    app::App,
    character_chat::{Chat, prompt_of},
    error::ApiError,
    model::ServedModel,
    respond::{Json, found},
};

/// What is to be asked, of whom, and under which names it is answered.
struct Asked {
    app: Arc<App>,
    model: Arc<dyn ServedModel>,
    requests: Vec<GenerateRequest>,
    /// What the client called the model.
    name: String,
    id: String,
    created: u64,
    usage: bool,
    /// A character's greeting needs no model.
    greeting: Option<String>,
}

/// `POST /v1/chat/completions`
pub(crate) async fn chat_completions(
    State(app): State<Arc<App>>,
    Json(request): Json<ChatRequest>,
) -> Result<Response, ApiError> {
    let asked = read(&app, &request)?;
    if request.common.streams() {
        let place = app.gate.enter()?;
        return Ok(sent_events(EventStream::start(move |events| async move {
            asked.stream(&events).await;
            drop(place);
        })));
    }
    let _place = app.gate.enter()?;
    asked.whole().await
}

fn read(app: &Arc<App>, request: &ChatRequest) -> Result<Asked, ApiError> {
    let messages = conversation(&request.messages)?;
    let schema = request.response_format.as_ref().map_or(Ok(None), super::request::ResponseFormat::schema)?;
    let log_probs = log_probs_wanted(request)?;
    let answers = request.common.answers()?;
    let name = request.model.clone().filter(|name| !name.is_empty());
    let sampling = request.common.sampling(app.answer_tokens, app.most_tokens, app.seed)?;
    let name = name.unwrap_or_else(|| app.models.first().0.to_owned());
    let mut greeting = None;
    let (model, messages) = if let Some(character) = name.strip_prefix(CHARACTER) {
        let card = app.store.card(character)?.ok_or_else(|| ApiError::no_model(&name))?;
        let model = app.models.first().1;
        greeting = first_words(&card, &messages, request.user.as_deref());
        let system: Vec<&str> = messages
            .iter()
            .filter(|message| message.role == Role::System)
            .map(|message| message.content.as_str())
            .collect();
        let history = messages.iter().filter(|message| message.role != Role::System).cloned().collect();
        let chat = Chat {
            card: &card,
            user: request.user.as_deref(),
            history,
            greeting: None,
            system: system.join("\n\n"),
            summary: "",
            id: character,
            seed: sampling.seed,
            answer_tokens: sampling.max_tokens,
        };
        (Arc::clone(model), if greeting.is_some() { messages } else { prompt_of(chat, &**model)?.messages() })
    } else {
        (Arc::clone(app.models.get(&name).ok_or_else(|| ApiError::no_model(&name))?), messages)
    };
    if messages.is_empty() && greeting.is_none() {
        return Err(ApiError::field("messages", "`messages` is empty; give at least one"));
    }
    let requests = (0..answers as u64).map(|number| GenerateRequest {
        messages: messages.clone(),
        sampling: Sampling { seed: sampling.seed.wrapping_add(number), ..sampling.clone() },
        schema: schema.clone(),
        log_probs,
    });
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let id = format!("chatcmpl-{}", crate::id::random_id());
    let usage = request.common.streams_usage();
    Ok(Asked { app: Arc::clone(app), model, requests: requests.collect(), name, id, created, usage, greeting })
}

/// The greeting, where nobody has said anything yet.
fn first_words(card: &opencharacter_card::Card, messages: &[Message], user: Option<&str>) -> Option<String> {
    let silent = messages.iter().all(|message| message.role == Role::System);
    let greeting = card.greetings().next().filter(|greeting| !greeting.is_empty())?;
    silent.then(|| crate::character_chat::shown(card, user, greeting))
}

fn log_probs_wanted(request: &ChatRequest) -> Result<Option<usize>, ApiError> {
    let top = request.top_logprobs.unwrap_or(0);
    if top > MOST_LOG_PROBS {
        return Err(ApiError::field("top_logprobs", format!("`top_logprobs` is {top}; at most {MOST_LOG_PROBS}")));
    }
    Ok((request.logprobs == Some(true)).then_some(top))
}

pub(super) fn finish_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

pub(super) fn usage<'c>(completions: impl Iterator<Item = &'c Completion> + Clone) -> Value {
    // The prompt is one, however many answers it gets.
    let prompt = completions.clone().map(|completion| completion.prompt_tokens).max().unwrap_or(0);
    let cached = completions.clone().map(|completion| completion.cached_tokens).min().unwrap_or(0);
    let completion: usize = completions.map(|completion| completion.completion_tokens).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}

impl Asked {
    async fn whole(self) -> Result<Response, ApiError> {
        let completions = if let Some(text) = &self.greeting {
            vec![spoken(text); self.requests.len()]
        } else {
            let calls = self.requests.iter().map(|request| {
                let (app, model) = (&self.app, &self.model);
                async move {
                    let _open = app.metrics.open();
                    let completion = model.generate(request.clone()).await?;
                    app.metrics.answered(&completion);
                    Ok::<_, GenerateError>(completion)
                }
            });
            try_join_all(calls).await?
        };
        let with_log_probs = self.requests.iter().any(|request| request.log_probs.is_some());
        let choices: Vec<Value> = completions
            .iter()
            .enumerate()
            .map(|(index, completion)| {
                json!({
                    "index": index,
                    "message": {"role": "assistant", "content": completion.text, "refusal": null},
                    "logprobs": with_log_probs.then(|| log_probs::chat(&completion.log_probs)),
                    "finish_reason": finish_reason(completion.finish),
                })
            })
            .collect();
        Ok(found(&json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.name,
            "choices": choices,
            "usage": usage(completions.iter()),
        })))
    }

    fn chunk(&self, index: usize, delta: &Value, finish: Option<FinishReason>, log_probs: Option<&Value>) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.name,
            "choices": [{
                "index": index,
                "delta": delta,
                "logprobs": log_probs,
                "finish_reason": finish.map(finish_reason),
            }],
        })
    }

    async fn stream(self, events: &Events) {
        let calls = self.requests.iter().enumerate().map(|(index, request)| self.one_stream(index, request, events));
        let completions = match try_join_all(calls).await {
            Ok(completions) => completions,
            Err(error) => return events.send(&ApiError::from(error).to_json()),
        };
        if self.usage {
            let mut last = self.chunk(0, &json!({}), None, None);
            last["choices"] = json!([]);
            last["usage"] = usage(completions.iter());
            events.send(&last);
        }
        events.done();
    }

    async fn one_stream(
        &self,
        index: usize,
        request: &GenerateRequest,
        events: &Events,
    ) -> Result<Completion, GenerateError> {
        events.send(&self.chunk(index, &json!({"role": "assistant", "content": ""}), None, None));
        let completion = match (&self.greeting, request.log_probs) {
            (Some(text), _) => {
                events.send(&self.chunk(index, &json!({"content": text}), None, None));
                spoken(text)
            }
            (None, None) => {
                let _open = self.app.metrics.open();
                let (sender, head) = (events.clone(), self.chunk(index, &json!({}), None, None));
                let sink = Box::new(move |piece: &str| {
                    let mut chunk = head.clone();
                    chunk["choices"][0]["delta"] = json!({"content": piece});
                    sender.send(&chunk);
                });
                self.model.stream(request.clone(), sink).await?
            }
            // What is known of a token is known when the answer is whole.
            (None, Some(_)) => {
                let _open = self.app.metrics.open();
                let completion = self.model.generate(request.clone()).await?;
                let known = log_probs::chat(&completion.log_probs);
                events.send(&self.chunk(index, &json!({"content": completion.text}), None, Some(&known)));
                completion
            }
        };
        self.app.metrics.answered(&completion);
        events.send(&self.chunk(index, &json!({}), Some(completion.finish), None));
        Ok(completion)
    }
}

/// What was said without a model.
fn spoken(text: &str) -> Completion {
    Completion {
        text: text.to_owned(),
        finish: FinishReason::Stop,
        prompt_tokens: 0,
        cached_tokens: 0,
        completion_tokens: 0,
        log_probs: Vec::new(),
    }
}
