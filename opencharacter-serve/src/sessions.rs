//! `/v1/sessions`: chats that are kept, with swipes and branches.

mod silly_tavern;
mod summary;
mod tree;

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hyper::{
    StatusCode,
    header::{CONTENT_DISPOSITION, HeaderValue},
};
use opencharacter_card::Card;
use opencharacter_core::{GenerateRequest, Message, Role, Sampling};
use serde::Deserialize;
use serde_json::{Value, json};

use self::tree::Tree;
use crate::{
    adapters::{own_adapter, speaker},
    app::App,
    character_chat::{Chat, prompt_of, shown},
    error::ApiError,
    markdown::to_html,
    model::ServedModel,
    openai::{EventStream, Events, default_sampling},
    respond::{Id, Json, Query, Whole, found, json_response, response},
    store::{NewMessage, Session},
};

#[derive(Deserialize)]
pub(crate) struct SessionsQuery {
    character_id: Option<String>,
}

/// `GET /v1/sessions`
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Query(query): Query<SessionsQuery>,
) -> Result<Response, ApiError> {
    Ok(found(&json!({"object": "list", "data": app.store.sessions(query.character_id.as_deref())?})))
}

#[derive(Deserialize)]
pub(crate) struct Begun {
    character_id: String,
    #[serde(default)]
    user_name: String,
    /// Number of the greeting that is shown; the others are its swipes.
    #[serde(default)]
    greeting: usize,
}

/// `POST /v1/sessions`
pub(crate) async fn begin(State(app): State<Arc<App>>, Json(begun): Json<Begun>) -> Result<Response, ApiError> {
    let card = card_of(&app, &begun.character_id)?;
    let user = begun.user_name.trim();
    let session = app.store.begin(&begun.character_id, if user.is_empty() { "User" } else { user })?;
    let mut ids = Vec::new();
    for greeting in card.greetings().filter(|greeting| !greeting.is_empty()) {
        let message = NewMessage { parent: None, role: Role::Assistant, content: greeting, model: None, trace: None };
        ids.push(app.store.say(&session.id, &message)?);
    }
    if let Some(chosen) = ids.get(begun.greeting).or(ids.first()) {
        app.store.show_leaf(&session.id, *chosen)?;
    }
    Ok(json_response(StatusCode::CREATED, &document(&app, &session.id).await?))
}

fn card_of(app: &App, id: &str) -> Result<Card, ApiError> {
    app.store.card(id)?.ok_or_else(|| ApiError::missing(format!("there is no character `{id}`")))
}

/// A session with the branch that is shown.
async fn document(app: &Arc<App>, id: &str) -> Result<Value, ApiError> {
    let session = app.store.session(id)?;
    let card = card_of(app, &session.character_id)?;
    let messages = app.store.messages(id)?;
    let tree = Tree::new(&messages);
    let branch: Vec<Value> = tree
        .branch(session.leaf)
        .into_iter()
        .map(|message| {
            let text = shown(&card, Some(&session.user_name), &message.content);
            json!({
                "id": message.id,
                "parent": message.parent,
                "role": message.role,
                "content": message.content,
                "html": to_html(&text),
                "model": message.model,
                "swipes": tree.swipes(message),
                "trace": message.trace.as_deref().and_then(|trace| serde_json::from_str::<Value>(trace).ok()),
            })
        })
        .collect();
    let mut document = json!(session);
    document["messages"] = branch.into();
    document["own_adapter"] = matches!(own_adapter(app, &session.character_id, &card).await?, Some(Ok(_))).into();
    document["models"] = app.models.names().collect();
    document["character_name"] = card.display_name().into();
    Ok(document)
}

/// `GET /v1/sessions/ID`
pub(crate) async fn show(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    Ok(found(&document(&app, &id).await?))
}

/// `DELETE /v1/sessions/ID`
pub(crate) async fn remove(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    if app.store.remove_session(&id)? {
        Ok(found(&json!({"id": id, "deleted": true})))
    } else {
        Err(ApiError::missing(format!("there is no session `{id}`")))
    }
}

/// How an answer is to be drawn.
#[derive(Deserialize)]
pub(crate) struct Drawn {
    model: Option<String>,
    temperature: Option<f32>,
    max_tokens: Option<usize>,
    seed: Option<i64>,
}

#[derive(Deserialize)]
pub(crate) struct Spoken {
    content: String,
    #[serde(flatten)]
    drawn: Drawn,
}

/// `POST /v1/sessions/ID/messages`: the user speaks, and the character answers in events.
pub(crate) async fn say(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Json(spoken): Json<Spoken>,
) -> Result<Response, ApiError> {
    if spoken.content.trim().is_empty() {
        return Err(ApiError::field("content", "the message is empty"));
    }
    let session = app.store.session(&id)?;
    let model = model_of(&app, &session, spoken.drawn.model.as_deref()).await?;
    let place = app.gate.enter()?;
    let message =
        NewMessage { parent: session.leaf, role: Role::User, content: &spoken.content, model: None, trace: None };
    let leaf = app.store.say(&id, &message)?;
    let answer = Answer { app, session: Session { leaf: Some(leaf), ..session }, model, drawn: spoken.drawn };
    let events = EventStream::start(move |events| async move {
        events.send(&json!({"type": "said", "id": leaf}));
        answer.give_to(events).await;
        drop(place);
    });
    events.into_response().await
}

#[derive(Deserialize)]
pub(crate) struct Again {
    /// The message to answer: the user's. Without it, what the branch that is shown ends with.
    parent: Option<i64>,
    #[serde(flatten)]
    drawn: Drawn,
}

/// `POST /v1/sessions/ID/answers`: another answer to a message, as a swipe, in events.
pub(crate) async fn answer_again(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Json(again): Json<Again>,
) -> Result<Response, ApiError> {
    let session = app.store.session(&id)?;
    let messages = app.store.messages(&id)?;
    let branch = Tree::new(&messages).branch(session.leaf);
    let last_question = || branch.iter().rev().find(|message| message.role == Role::User).map(|message| message.id);
    let parent = again.parent.or_else(last_question);
    let asked = messages.iter().find(|message| Some(message.id) == parent && message.role == Role::User);
    let Some(asked) = asked else {
        return Err(ApiError::field("parent", "there is no message of the user to answer"));
    };
    let (leaf, model) = (asked.id, model_of(&app, &session, again.drawn.model.as_deref()).await?);
    let place = app.gate.enter()?;
    let answer = Answer { app, session: Session { leaf: Some(leaf), ..session }, model, drawn: again.drawn };
    let events = EventStream::start(move |events| async move {
        answer.give_to(events).await;
        drop(place);
    });
    events.into_response().await
}

/// A model by the name in a request; without one, who speaks for the character.
async fn model_of(
    app: &Arc<App>,
    session: &Session,
    name: Option<&str>,
) -> Result<(String, Arc<dyn ServedModel>), ApiError> {
    match name.filter(|name| !name.is_empty()) {
        None => speaker(app, &session.character_id, &card_of(app, &session.character_id)?).await,
        Some(name) => {
            let model = app.models.get(name).ok_or_else(|| ApiError::no_model(name))?;
            Ok((name.to_owned(), Arc::clone(model)))
        }
    }
}

/// A character's answer to the session's leaf, the user's message.
struct Answer {
    app: Arc<App>,
    session: Session,
    model: (String, Arc<dyn ServedModel>),
    drawn: Drawn,
}

impl Answer {
    /// Sends its pieces, and then where it is kept.
    async fn give_to(self, events: Events) {
        let sender = events.clone();
        match self.give(move |piece| sender.send(&piece)).await {
            Ok(end) => events.send(&end),
            Err(error) => events.fail(error),
        }
    }

    /// Has it said piece by piece, keeps it, and gives the last event.
    async fn give(self, send: impl Fn(Value) + Clone + Send + 'static) -> Result<Value, ApiError> {
        let Self { app, session, model: (name, model), drawn } = &self;
        let card = card_of(app, &session.character_id)?;
        let messages = app.store.messages(&session.id)?;
        let tree = Tree::new(&messages);
        let branch = tree.branch(session.leaf);
        let summary = summary::of(session, &branch);
        let greeting = tree.greeting(&branch);
        let unsummarised = &branch[summary.covered..];
        let history =
            unsummarised.iter().map(|message| Message { role: message.role, content: message.content.clone() });
        // Every answer to the same message is drawn anew.
        let number = tree.children(session.leaf).len() as u64;
        let sampling = Sampling {
            temperature: drawn.temperature.filter(|value| (0.0..=2.0).contains(value)).unwrap_or(0.8),
            max_tokens: drawn.max_tokens.unwrap_or(app.answer_tokens).clamp(1, app.most_tokens.max(1)),
            seed: drawn.seed.map_or(app.seed, i64::cast_unsigned).wrapping_add(number),
            ..default_sampling()
        };
        let chat = Chat {
            card: &card,
            user: Some(&session.user_name),
            history: history.collect(),
            greeting: greeting.filter(|_| summary.covered == 0),
            system: String::new(),
            summary: summary.text,
            id: &session.id,
            seed: app.seed,
            answer_tokens: sampling.max_tokens,
        };
        let prompt = prompt_of(chat, &**model)?;
        let trace = json!({"lore": prompt.lore, "left_out": prompt.left_out, "tokens": prompt.tokens});
        let _open = app.metrics.open();
        let said = send.clone();
        let sink = Box::new(move |piece: &str| said(json!({"type": "piece", "text": piece})));
        let request = GenerateRequest { messages: prompt.messages(), sampling, schema: None, log_probs: None };
        let completion = model.stream(request, sink).await?;
        app.metrics.answered(&completion);
        let text = trace.to_string();
        let id = app.store.say(
            &session.id,
            &NewMessage {
                parent: session.leaf,
                role: Role::Assistant,
                content: &completion.text,
                model: Some(name),
                trace: Some(&text),
            },
        )?;
        let html = to_html(&shown(&card, Some(&session.user_name), &completion.text));
        summary::extend(app, session, &branch, &prompt, model).await?;
        Ok(json!({"type": "answered", "id": id, "html": html, "trace": trace}))
    }
}

#[derive(Deserialize)]
pub(crate) struct Branched {
    /// The message in whose place it stands; it stays as a swipe.
    message: i64,
    content: String,
}

/// `POST /v1/sessions/ID/branch`: a message with other words.
pub(crate) async fn branch(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Json(branched): Json<Branched>,
) -> Result<Response, ApiError> {
    app.store.session(&id)?;
    let messages = app.store.messages(&id)?;
    let Some(before) = messages.iter().find(|message| message.id == branched.message) else {
        return Err(ApiError::field("message", "there is no such message in this session"));
    };
    let message =
        NewMessage { parent: before.parent, role: before.role, content: &branched.content, model: None, trace: None };
    app.store.say(&id, &message)?;
    Ok(found(&document(&app, &id).await?))
}

#[derive(Deserialize)]
pub(crate) struct Chosen {
    message: i64,
}

/// `POST /v1/sessions/ID/leaf`: shows the branch that a message is on, to its latest end.
pub(crate) async fn choose(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Json(chosen): Json<Chosen>,
) -> Result<Response, ApiError> {
    app.store.session(&id)?;
    let messages = app.store.messages(&id)?;
    if messages.iter().all(|message| message.id != chosen.message) {
        return Err(ApiError::field("message", "there is no such message in this session"));
    }
    app.store.show_leaf(&id, Tree::new(&messages).end_of(chosen.message))?;
    Ok(found(&document(&app, &id).await?))
}

/// `GET /v1/sessions/ID/export`: as `SillyTavern` keeps chats.
pub(crate) async fn export(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    let session = app.store.session(&id)?;
    let card = card_of(&app, &session.character_id)?;
    let lines = silly_tavern::write(&session, card.display_name(), &app.store.messages(&id)?);
    let mut reply = response(StatusCode::OK, "application/jsonl", lines);
    let name = HeaderValue::from_static("attachment; filename=\"chat.jsonl\"");
    reply.headers_mut().insert(CONTENT_DISPOSITION, name);
    Ok(reply)
}

#[derive(Deserialize)]
pub(crate) struct ImportQuery {
    character_id: String,
}

/// `POST /v1/sessions/import?character_id=ID`: a chat as `SillyTavern` keeps it.
pub(crate) async fn import(
    State(app): State<Arc<App>>,
    Query(query): Query<ImportQuery>,
    Whole(bytes): Whole,
) -> Result<Response, ApiError> {
    card_of(&app, &query.character_id)?;
    let chat = silly_tavern::read(&bytes).map_err(ApiError::invalid)?;
    let session = app.store.begin(&query.character_id, &chat.user_name)?;
    let mut parent = None;
    for said in chat.messages {
        let mut chosen = None;
        for (number, swipe) in said.swipes.iter().enumerate() {
            let message = NewMessage { parent, role: said.role, content: swipe, model: None, trace: None };
            let id = app.store.say(&session.id, &message)?;
            if number == said.chosen {
                chosen = Some(id);
            }
        }
        parent = chosen.or(parent);
    }
    if let Some(leaf) = parent {
        app.store.show_leaf(&session.id, leaf)?;
    }
    Ok(json_response(StatusCode::CREATED, &document(&app, &session.id).await?))
}

#[derive(Deserialize)]
pub(crate) struct Preferred {
    session: String,
    chosen: i64,
    rejected: i64,
}

/// `POST /v1/preferences`: of two answers to the same message, one is better.
pub(crate) async fn prefer(
    State(app): State<Arc<App>>,
    Json(preferred): Json<Preferred>,
) -> Result<Response, ApiError> {
    let session = app.store.session(&preferred.session)?;
    let card = card_of(&app, &session.character_id)?;
    let messages = app.store.messages(&session.id)?;
    let find = |id: i64| messages.iter().find(|message| message.id == id && message.role == Role::Assistant);
    let (Some(chosen), Some(rejected)) = (find(preferred.chosen), find(preferred.rejected)) else {
        return Err(ApiError::field("chosen", "expected two answers of this session"));
    };
    if chosen.parent != rejected.parent || chosen.id == rejected.id {
        return Err(ApiError::field("rejected", "expected two different answers to the same message"));
    }
    let branch = Tree::new(&messages).branch(chosen.parent);
    let chat = Chat {
        card: &card,
        user: Some(&session.user_name),
        history: branch.iter().map(|said| Message { role: said.role, content: said.content.clone() }).collect(),
        greeting: None,
        system: String::new(),
        summary: "",
        id: &session.id,
        seed: app.seed,
        answer_tokens: app.answer_tokens,
    };
    let prompt = prompt_of(chat, &**app.models.first().1)?.messages();
    // The same fields as `opencharacter pairs` writes and `train --pairs` reads.
    let pair = json!({
        "pair_id": format!("pair-{}-{}", chosen.id, rejected.id),
        "character_id": session.character_id,
        "prompt": prompt,
        "chosen": chosen.content,
        "rejected": rejected.content,
    });
    app.store.prefer(&session.character_id, &pair.to_string())?;
    Ok(json_response(StatusCode::CREATED, &pair))
}

/// `GET /v1/preferences`: JSON Lines for `train --pairs`.
pub(crate) async fn preferences(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let mut lines = app.store.preferences()?.join("\n");
    if !lines.is_empty() {
        lines.push('\n');
    }
    Ok(response(StatusCode::OK, "application/jsonl", lines))
}
