//! `/tokenize`, `/detokenize` and `/props`, as llama.cpp and vLLM have them.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    error::ApiError,
    model::ServedModel,
    respond::{Json, found},
};

/// A text under the name that llama.cpp's clients use, or vLLM's.
#[derive(Deserialize)]
pub(crate) struct Text {
    model: Option<String>,
    #[serde(alias = "prompt")]
    content: String,
}

#[derive(Deserialize)]
pub(crate) struct Tokens {
    model: Option<String>,
    tokens: Vec<u32>,
}

fn named<'a>(app: &'a App, name: Option<&str>) -> Result<&'a Arc<dyn ServedModel>, ApiError> {
    match name.filter(|name| !name.is_empty()) {
        None => Ok(app.models.first().1),
        Some(name) if name.starts_with(crate::openai::CHARACTER) => Ok(app.models.first().1),
        Some(name) => app.models.get(name).ok_or_else(|| ApiError::no_model(name)),
    }
}

/// `POST /tokenize`
pub(crate) async fn tokenize(State(app): State<Arc<App>>, Json(text): Json<Text>) -> Result<Response, ApiError> {
    let model = named(&app, text.model.as_deref())?;
    let tokens = model.encode(&text.content);
    Ok(found(&json!({"tokens": tokens, "count": tokens.len(), "max_model_len": model.context_tokens()})))
}

/// `POST /detokenize`
pub(crate) async fn detokenize(State(app): State<Arc<App>>, Json(tokens): Json<Tokens>) -> Result<Response, ApiError> {
    let text = named(&app, tokens.model.as_deref())?.decode(&tokens.tokens);
    Ok(found(&json!({"content": text, "prompt": text})))
}

/// `GET /props`
pub(crate) async fn props(State(app): State<Arc<App>>) -> Response {
    let (name, model) = app.models.first();
    found(&json!({
        "default_generation_settings": {"n_ctx": model.context_tokens()},
        "total_slots": model.concurrency(),
        "model_path": name,
        "build_info": concat!("opencharacter ", env!("CARGO_PKG_VERSION")),
    }))
}
