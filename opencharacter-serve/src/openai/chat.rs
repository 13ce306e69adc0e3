//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use futures_util::future::try_join_all;
use opencharacter_core::{Completion, FinishReason, GenerateError, GenerateRequest, Message, Role, Sampling};
use serde_json::{Value, json};

use super::{
    CHARACTER,
    answer::{Heading, end_stream, finish_reason, usage},
    log_probs,
    request::{ChatRequest, MOST_LOG_PROBS, conversation},
    stream::{EventStream, Events, Opening},
};
use crate::{
    adapters::speaker,
    app::App,
    character_chat::{Chat, prompt_of},
    error::ApiError,
    model::ServedModel,
    respond::{Json, found},
};

/// What is to be asked, and of whom.
struct Asked {
    app: Arc<App>,
    model: Arc<dyn ServedModel>,
    requests: Vec<GenerateRequest>,
    heading: Heading,
    usage: bool,
    /// A character's greeting needs no model.
    greeting: Option<String>,
}

/// `POST /v1/chat/completions`
pub(crate) async fn chat_completions(
    State(app): State<Arc<App>>,
    Json(request): Json<ChatRequest>,
) -> Result<Response, ApiError> {
    let asked = read(&app, &request).await?;
    if request.common.streams() {
        let place = app.gate.enter()?;
        let events = EventStream::start(move |events| async move {
            asked.stream(&events).await;
            drop(place);
        });
        return events.into_response().await;
    }
    let _place = app.gate.enter()?;
    asked.whole().await
}

async fn read(app: &Arc<App>, request: &ChatRequest) -> Result<Asked, ApiError> {
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
        let (_, model) = speaker(app, character, &card).await?;
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
        let messages = if greeting.is_some() { messages } else { prompt_of(chat, &*model)?.messages() };
        (model, messages)
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
    let heading = Heading::new("chatcmpl", name);
    let usage = request.common.streams_usage();
    Ok(Asked { app: Arc::clone(app), model, requests: requests.collect(), heading, usage, greeting })
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
        let mut document = self.heading.document("chat.completion", &choices);
        document["usage"] = usage(completions.iter());
        Ok(found(&document))
    }

    fn chunk(&self, index: usize, delta: &Value, finish: Option<FinishReason>, log_probs: Option<&Value>) -> Value {
        let choice = json!({
            "index": index,
            "delta": delta,
            "logprobs": log_probs,
            "finish_reason": finish.map(finish_reason),
        });
        self.heading.document("chat.completion.chunk", &[choice])
    }

    async fn stream(self, events: &Events) {
        let calls = self.requests.iter().enumerate().map(|(index, request)| self.one_stream(index, request, events));
        let last = self.usage.then(|| self.heading.document("chat.completion.chunk", &[]));
        end_stream(events, calls, last).await;
    }

    async fn one_stream(
        &self,
        index: usize,
        request: &GenerateRequest,
        events: &Events,
    ) -> Result<Completion, GenerateError> {
        let first = || Some(self.chunk(index, &json!({"role": "assistant", "content": ""}), None, None));
        let mut opening = Opening::new(events, first());
        let completion = match (&self.greeting, request.log_probs) {
            (Some(text), _) => {
                opening.send(&self.chunk(index, &json!({"content": text}), None, None));
                spoken(text)
            }
            (None, None) => {
                let _open = self.app.metrics.open();
                let (mut pieces, head) = (Opening::new(events, first()), self.chunk(index, &json!({}), None, None));
                let sink = Box::new(move |piece: &str| {
                    let mut chunk = head.clone();
                    chunk["choices"][0]["delta"] = json!({"content": piece});
                    pieces.send(&chunk);
                });
                let completion = self.model.stream(request.clone(), sink).await?;
                if completion.text.is_empty() {
                    opening.open();
                }
                completion
            }
            // What is known of a token is known when the answer is whole.
            (None, Some(_)) => {
                let _open = self.app.metrics.open();
                let completion = self.model.generate(request.clone()).await?;
                let known = log_probs::chat(&completion.log_probs);
                opening.send(&self.chunk(index, &json!({"content": completion.text}), None, Some(&known)));
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
