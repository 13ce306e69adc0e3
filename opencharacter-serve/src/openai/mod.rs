//! The API that `OpenAI`'s clients speak.

mod answer;
mod chat;
mod completions;
mod log_probs;
mod request;
mod stream;

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde_json::{Value, json};

pub use self::request::check_request;
pub(crate) use self::{
    chat::chat_completions,
    completions::completions,
    request::default_sampling,
    stream::{EventStream, Events},
};
use crate::{
    app::App,
    error::ApiError,
    respond::{Id, found},
};

/// What stands before a character's id in a model's name.
pub(crate) const CHARACTER: &str = "character/";

fn model(id: &str, owner: &str) -> Value {
    json!({"id": id, "object": "model", "created": 0, "owned_by": owner})
}

/// `GET /v1/models`
pub(crate) async fn list_models(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let mut data: Vec<Value> = app.models.names().map(|name| model(name, "opencharacter")).collect();
    for character in app.store.characters("", usize::MAX, 0)? {
        let mut entry = model(&format!("{CHARACTER}{}", character.id), "character");
        entry["name"] = character.name.into();
        data.push(entry);
    }
    Ok(found(&json!({"object": "list", "data": data})))
}

/// `GET /v1/models/ID`
pub(crate) async fn show_model(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    if app.models.get(&id).is_some() {
        return Ok(found(&model(&id, "opencharacter")));
    }
    match id.strip_prefix(CHARACTER) {
        Some(character) if app.store.card(character)?.is_some() => Ok(found(&model(&id, "character"))),
        _ => Err(ApiError::no_model(&id)),
    }
}
