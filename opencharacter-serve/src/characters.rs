//! `/v1/characters`: characters made, brought, changed and taken away.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_DISPOSITION, HeaderValue},
};
use opencharacter_card::{Card, CardFile, CardFormat, Spec};
use opencharacter_core::ProfileField;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    adapters::own_adapter,
    app::App,
    error::ApiError,
    markdown::to_html,
    model::{Heard, Listener},
    openai::{CHARACTER, EventStream},
    respond::{Id, Json, Query, Whole, found, json_response, response},
};

/// A page of a list.
#[derive(Deserialize)]
pub(crate) struct ListQuery {
    #[serde(default)]
    search: String,
    #[serde(default = "a_page")]
    limit: usize,
    #[serde(default)]
    offset: usize,
}

fn a_page() -> usize {
    60
}

/// `GET /v1/characters`
pub(crate) async fn list(State(app): State<Arc<App>>, Query(query): Query<ListQuery>) -> Result<Response, ApiError> {
    let found_characters = app.store.characters(&query.search, query.limit.min(1000), query.offset)?;
    Ok(found(&json!({"object": "list", "data": found_characters})))
}

#[derive(Deserialize)]
pub(crate) struct Wanted {
    persona: String,
    /// Whether to send what the model writes while it writes.
    #[serde(default)]
    stream: bool,
}

/// Longer than any line.
const LONGEST_PERSONA: usize = 2000;

/// `POST /v1/characters`: a character for a one-line persona.
pub(crate) async fn create(State(app): State<Arc<App>>, Json(wanted): Json<Wanted>) -> Result<Response, ApiError> {
    let persona = wanted.persona.trim().to_owned();
    if persona.is_empty() || persona.chars().count() > LONGEST_PERSONA {
        let message = format!(
            "expected a persona of 1 to {LONGEST_PERSONA} characters, such as \"a lighthouse keeper who hates the sea\""
        );
        return Err(ApiError::field("persona", message));
    }
    let place = app.gate.enter()?;
    if wanted.stream {
        let events = EventStream::start(move |events| async move {
            let sender = events.clone();
            let listener = move |heard| sender.send(&event(heard));
            match invented(&app, persona, Arc::new(listener)).await {
                Ok(document) => events.send(&json!({"type": "created", "character": document})),
                Err(error) => events.fail(error),
            }
            drop(place);
        });
        return events.into_response().await;
    }
    Ok(json_response(StatusCode::CREATED, &invented(&app, persona, Arc::new(|_| {})).await?))
}

fn event(heard: Heard) -> Value {
    match heard {
        Heard::Part(name) => json!({"type": "part", "name": name}),
        Heard::Asked => json!({"type": "asked"}),
        Heard::Piece(text) => json!({"type": "piece", "text": text}),
    }
}

async fn invented(app: &Arc<App>, persona: String, listener: Listener) -> Result<Value, ApiError> {
    let _open = app.metrics.open();
    let card = app.workshop.invent(persona, listener).await.map_err(ApiError::unprocessable)?;
    let id = app.store.put_card(&CardFile::new(card))?;
    described(app, &id).await
}

/// `POST /v1/characters/import`: a card in any format.
pub(crate) async fn import(State(app): State<Arc<App>>, Whole(bytes): Whole) -> Result<Response, ApiError> {
    let file = CardFile::parse(&bytes).map_err(|error| ApiError::invalid(error.to_string()))?;
    let id = app.store.put_card(&file)?;
    app.adapters.forget(&id);
    let mut document = described(&app, &id).await?;
    let adapter = document["adapter"]["problem"].as_str().map(|problem| format!("its adapter is not used: {problem}"));
    document["warnings"] = file.warnings.iter().map(ToString::to_string).chain(adapter).collect();
    Ok(json_response(StatusCode::CREATED, &document))
}

fn no_character(id: &str) -> ApiError {
    ApiError::missing(format!("there is no character `{id}`; GET /v1/characters lists them"))
}

/// A character as the page needs it.
async fn described(app: &Arc<App>, id: &str) -> Result<Value, ApiError> {
    let card = app.store.card(id)?.ok_or_else(|| no_character(id))?;
    let character = card.to_character();
    let profile: serde_json::Map<String, Value> =
        ProfileField::ALL.iter().map(|field| (field.key().to_owned(), character.profile.get(*field).into())).collect();
    let book = card.character_book.as_ref().map_or(0, |book| book.entries.len());
    let adapter = own_adapter(app, id, &card).await?.map(|adapted| match adapted {
        Ok(_) => json!({"used": true}),
        Err(problem) => json!({"used": false, "problem": problem}),
    });
    Ok(json!({
        "id": id,
        "adapter": adapter,
        "model": format!("{CHARACTER}{id}"),
        "name": card.display_name(),
        "persona": character.persona,
        "profile": profile,
        "greetings": card.greetings().filter(|greeting| !greeting.is_empty()).collect::<Vec<_>>(),
        "description": card.description,
        "personality": card.personality,
        "scenario": card.scenario,
        "first_mes": card.first_mes,
        "mes_example": card.mes_example,
        "system_prompt": card.system_prompt,
        "post_history_instructions": card.post_history_instructions,
        "alternate_greetings": card.alternate_greetings,
        "creator_notes": card.creator_notes,
        "creator_notes_html": to_html(&card.creator_notes),
        "tags": card.tags,
        "lorebook_entries": book,
    }))
}

/// `GET /v1/characters/ID`
pub(crate) async fn show(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    Ok(found(&described(&app, &id).await?))
}

/// Fields of a card that may be changed; those that are absent stay.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changes {
    name: Option<String>,
    description: Option<String>,
    personality: Option<String>,
    scenario: Option<String>,
    first_mes: Option<String>,
    mes_example: Option<String>,
    system_prompt: Option<String>,
    post_history_instructions: Option<String>,
    creator_notes: Option<String>,
    alternate_greetings: Option<Vec<String>>,
    tags: Option<Vec<String>>,
}

/// `PATCH /v1/characters/ID`
pub(crate) async fn edit(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Json(changes): Json<Changes>,
) -> Result<Response, ApiError> {
    let mut file = app.store.file(&id)?.ok_or_else(|| no_character(&id))?;
    keep_id(&mut file.card, &id);
    let card = &mut file.card;
    if changes.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
        return Err(ApiError::field("name", "a character needs a name"));
    }
    for (field, change) in [
        (&mut card.name, changes.name),
        (&mut card.description, changes.description),
        (&mut card.personality, changes.personality),
        (&mut card.scenario, changes.scenario),
        (&mut card.first_mes, changes.first_mes),
        (&mut card.mes_example, changes.mes_example),
        (&mut card.system_prompt, changes.system_prompt),
        (&mut card.post_history_instructions, changes.post_history_instructions),
        (&mut card.creator_notes, changes.creator_notes),
    ] {
        if let Some(text) = change {
            *field = text;
        }
    }
    if let Some(greetings) = changes.alternate_greetings {
        card.alternate_greetings = greetings;
    }
    if let Some(tags) = changes.tags {
        card.tags = tags;
    }
    app.store.put_card(&file)?;
    app.adapters.forget(&id);
    Ok(found(&described(&app, &id).await?))
}

/// A stranger's card has its id from its texts: written down, it survives their change.
fn keep_id(card: &mut Card, id: &str) {
    if card.to_character().character_id == id
        && let Some(own) = card.extensions.entry("opencharacter").or_insert_with(|| json!({})).as_object_mut()
    {
        own.entry("character_id").or_insert_with(|| id.into());
    }
}

/// `DELETE /v1/characters/ID`
pub(crate) async fn remove(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    app.adapters.forget(&id);
    if app.store.remove_character(&id)? {
        Ok(found(&json!({"id": id, "deleted": true})))
    } else {
        Err(no_character(&id))
    }
}

/// `GET /v1/characters/ID/avatar`
pub(crate) async fn avatar(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    let file = app.store.file(&id)?.ok_or_else(|| no_character(&id))?;
    let mut reply = response(StatusCode::OK, "image/png", file.picture());
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=60"));
    Ok(reply)
}

#[derive(Deserialize)]
pub(crate) struct CardQuery {
    #[serde(default)]
    format: CardFormatName,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum CardFormatName {
    #[default]
    Png,
    Json,
    Charx,
}

/// `GET /v1/characters/ID/card`
pub(crate) async fn card(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Query(query): Query<CardQuery>,
) -> Result<Response, ApiError> {
    let file = app.store.file(&id)?.ok_or_else(|| no_character(&id))?;
    let (format, content_type, name) = match query.format {
        CardFormatName::Png => (CardFormat::Png(Spec::V3), "image/png", "attachment; filename=\"character.png\""),
        CardFormatName::Json => {
            (CardFormat::Json(Spec::V3), "application/json", "attachment; filename=\"character.json\"")
        }
        CardFormatName::Charx => (CardFormat::Charx, "application/zip", "attachment; filename=\"character.charx\""),
    };
    let written = file.write(format).map_err(|error| ApiError::internal(error.to_string()))?;
    let mut reply = response(StatusCode::OK, content_type, written.bytes);
    reply.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static(name));
    Ok(reply)
}
