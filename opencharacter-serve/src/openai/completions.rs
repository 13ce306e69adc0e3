//! `POST /v1/completions`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use futures_util::future::try_join_all;
use opencharacter_core::{Completion, GenerateError, Sampling};
use serde_json::{Value, json};

use super::{
    answer::{Heading, end_stream, finish_reason, usage},
    log_probs,
    request::{MOST_LOG_PROBS, Prompt, TextRequest},
    stream::{EventStream, Events, Opening},
};
use crate::{
    app::App,
    error::ApiError,
    model::ServedModel,
    respond::{Json, found},
};

/// Prompts of one request.
const MOST_PROMPTS: usize = 32;

struct Asked {
    app: Arc<App>,
    model: Arc<dyn ServedModel>,
    /// Prompt and sampling of each answer.
    calls: Vec<(String, Sampling)>,
    log_probs: Option<usize>,
    echo: bool,
    heading: Heading,
    usage: bool,
}

/// `POST /v1/completions`
pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    Json(request): Json<TextRequest>,
) -> Result<Response, ApiError> {
    let asked = read(&app, &request)?;
    let place = app.gate.enter()?;
    if request.common.streams() {
        let events = EventStream::start(move |events| async move {
            asked.stream(&events).await;
            drop(place);
        });
        return events.into_response().await;
    }
    asked.whole().await
}

fn read(app: &Arc<App>, request: &TextRequest) -> Result<Asked, ApiError> {
    let name = request.model.clone().filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| app.models.first().0.to_owned());
    let model = app.models.get(&name).ok_or_else(|| ApiError::no_model(&name))?;
    let prompts = match &request.prompt {
        Prompt::One(text) => vec![text.clone()],
        Prompt::Several(texts) => texts.clone(),
    };
    if prompts.is_empty() || prompts.len() > MOST_PROMPTS {
        return Err(ApiError::field("prompt", format!("expected 1 to {MOST_PROMPTS} prompts")));
    }
    if request.logprobs.is_some_and(|top| top > MOST_LOG_PROBS) {
        return Err(ApiError::field("logprobs", format!("at most {MOST_LOG_PROBS}")));
    }
    let sampling = request.common.sampling(app.answer_tokens, app.most_tokens, app.seed)?;
    let answers = request.common.answers()?;
    let calls = prompts.iter().flat_map(|prompt| {
        (0..answers as u64)
            .map(|number| (prompt.clone(), Sampling { seed: sampling.seed.wrapping_add(number), ..sampling.clone() }))
    });
    Ok(Asked {
        app: Arc::clone(app),
        model: Arc::clone(model),
        calls: calls.collect(),
        log_probs: request.logprobs,
        echo: request.echo == Some(true),
        heading: Heading::new("cmpl", name),
        usage: request.common.streams_usage(),
    })
}

impl Asked {
    fn document(&self, choices: &[Value]) -> Value {
        self.heading.document("text_completion", choices)
    }

    async fn whole(self) -> Result<Response, ApiError> {
        let calls = self.calls.iter().map(|(prompt, sampling)| {
            let (app, model, log_probs) = (&self.app, &self.model, self.log_probs);
            async move {
                let _open = app.metrics.open();
                let completion = model.complete(prompt, sampling.clone(), log_probs, None).await?;
                app.metrics.answered(&completion);
                Ok::<_, GenerateError>(completion)
            }
        });
        let completions = try_join_all(calls).await?;
        let choices = completions.iter().zip(&self.calls).enumerate().map(|(index, (completion, (prompt, _)))| {
            let before = if self.echo { prompt.as_str() } else { "" };
            json!({
                "index": index,
                "text": format!("{before}{}", completion.text),
                "logprobs": self.log_probs.map(|_| log_probs::text(&completion.log_probs)),
                "finish_reason": finish_reason(completion.finish),
            })
        });
        let mut document = self.document(&choices.collect::<Vec<_>>());
        document["usage"] = usage(completions.iter());
        Ok(found(&document))
    }

    async fn stream(self, events: &Events) {
        let calls = (0..self.calls.len()).map(|index| self.one_stream(index, events));
        let last = self.usage.then(|| self.document(&[]));
        end_stream(events, calls, last).await;
    }

    async fn one_stream(&self, index: usize, events: &Events) -> Result<Completion, GenerateError> {
        let (prompt, sampling) = &self.calls[index];
        let chunk = |text: &str, finish: Option<&str>, known: Option<Value>| {
            self.document(&[json!({"index": index, "text": text, "logprobs": known, "finish_reason": finish})])
        };
        let _open = self.app.metrics.open();
        let echo = || self.echo.then(|| chunk(prompt, None, None));
        let mut opening = Opening::new(events, echo());
        let sink: Option<opencharacter_core::TextSink> = if self.log_probs.is_some() {
            None
        } else {
            let (mut pieces, head) = (Opening::new(events, echo()), chunk("", None, None));
            Some(Box::new(move |piece: &str| {
                let mut chunk = head.clone();
                chunk["choices"][0]["text"] = piece.into();
                pieces.send(&chunk);
            }))
        };
        let in_pieces = sink.is_some();
        let completion = self.model.complete(prompt, sampling.clone(), self.log_probs, sink).await?;
        self.app.metrics.answered(&completion);
        if !in_pieces || completion.text.is_empty() {
            opening.open();
        }
        if !in_pieces {
            let known = log_probs::text(&completion.log_probs);
            events.send(&chunk(&completion.text, None, Some(known)));
        }
        events.send(&chunk("", Some(finish_reason(completion.finish)), None));
        Ok(completion)
    }
}
