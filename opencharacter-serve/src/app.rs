//! What all requests share, and which function answers which.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{
    Router,
    extract::State,
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use hyper::StatusCode;
use serde_json::json;

use crate::{
    adapters::Adapters,
    characters,
    error::ApiError,
    gate::Gate,
    guard::guard,
    metrics::Metrics,
    model::{Models, Workshop},
    openai, page,
    respond::{found, response},
    runs, sessions,
    store::Store,
    tokens,
};

/// What all requests share.
pub(crate) struct App {
    pub(crate) models: Models,
    pub(crate) workshop: Arc<dyn Workshop>,
    pub(crate) adapters: Adapters,
    pub(crate) store: Store,
    pub(crate) gate: Gate,
    pub(crate) metrics: Metrics,
    /// The folder whose folders are runs.
    pub(crate) runs: Option<PathBuf>,
    pub(crate) key: Option<String>,
    pub(crate) address: SocketAddr,
    /// Longest answer where a request names none.
    pub(crate) answer_tokens: usize,
    /// Longest answer, whatever a request says.
    pub(crate) most_tokens: usize,
    pub(crate) seed: u64,
}

impl App {
    /// Whether a `Host` header names the address it is bound to.
    pub(crate) fn listens_on(&self, host: &str) -> bool {
        host.parse::<SocketAddr>().is_ok_and(|named| named == self.address)
    }
}

pub(crate) fn router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/app.js", get(page::script))
        .route("/style.css", get(page::style))
        .route("/icon.svg", get(page::icon))
        .route("/health", get(async || found(&json!({"status": "ok"}))))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(page::openapi))
        .route("/props", get(tokens::props))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/models", get(openai::list_models))
        .route("/v1/models/{*id}", get(openai::show_model))
        .route("/v1/chat/completions", post(openai::chat_completions))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/characters", get(characters::list).post(characters::create))
        .route("/v1/characters/import", post(characters::import))
        .route("/v1/characters/{id}", get(characters::show).patch(characters::edit).delete(characters::remove))
        .route("/v1/characters/{id}/avatar", get(characters::avatar))
        .route("/v1/characters/{id}/card", get(characters::card))
        .route("/v1/sessions", get(sessions::list).post(sessions::begin))
        .route("/v1/sessions/import", post(sessions::import))
        .route("/v1/sessions/{id}", get(sessions::show).delete(sessions::remove))
        .route("/v1/sessions/{id}/messages", post(sessions::say))
        .route("/v1/sessions/{id}/answers", post(sessions::answer_again))
        .route("/v1/sessions/{id}/branch", post(sessions::branch))
        .route("/v1/sessions/{id}/leaf", post(sessions::choose))
        .route("/v1/sessions/{id}/export", get(sessions::export))
        .route("/v1/preferences", get(sessions::preferences).post(sessions::prefer))
        .route("/v1/runs", get(runs::list))
        .route("/v1/runs/{id}", get(runs::show))
        .route("/v1/runs/{id}/report", get(runs::report))
        .fallback(async || ApiError::missing("there is nothing at this address").into_response())
        .method_not_allowed_fallback(async || {
            let mut error = ApiError::missing("this address does not take that method");
            error.status = StatusCode::METHOD_NOT_ALLOWED;
            error.into_response()
        })
        .layer(from_fn_with_state(Arc::clone(app), guard))
        .with_state(Arc::clone(app))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    response(StatusCode::OK, "text/plain; version=0.0.4", app.metrics.to_text())
}
