//! What a chat said before the model's context was full.

use std::sync::Arc;

use opencharacter_card::{Prompt, Section};
use opencharacter_core::{GenerateRequest, Message, Role, Sampling};

use crate::{
    app::App,
    error::ApiError,
    model::ServedModel,
    store::{Said, Session},
};

/// The summary of the beginning of a branch.
pub(super) struct Summary<'a> {
    pub(super) text: &'a str,
    /// Messages of the branch that it covers, from the first.
    pub(super) covered: usize,
}

/// The session's summary, where it is one of this branch.
pub(super) fn of<'a>(session: &'a Session, branch: &[&Said]) -> Summary<'a> {
    let covered = session.summarised.and_then(|last| branch.iter().position(|message| message.id == last));
    match covered {
        Some(last) if !session.summary.is_empty() => Summary { text: &session.summary, covered: last + 1 },
        _ => Summary { text: "", covered: 0 },
    }
}

/// Tokens of a summary: a few sentences.
const TOKENS: usize = 160;

/// When messages had no room in `prompt`, has the model add them to the summary.
pub(super) async fn extend(
    app: &App,
    session: &Session,
    branch: &[&Said],
    prompt: &Prompt,
    model: &Arc<dyn ServedModel>,
) -> Result<(), ApiError> {
    let before = of(session, branch);
    let dropped = prompt.left_out.iter().filter_map(|part| match part.section {
        Section::History(index) => Some(index + 1),
        _ => None,
    });
    let Some(dropped) = dropped.max() else { return Ok(()) };
    let gone = &branch[before.covered..(before.covered + dropped).min(branch.len())];
    let Some(last) = gone.last() else { return Ok(()) };
    let mut text = String::from("Summarise in a few sentences what happened. Keep names and facts.\n\n");
    if !before.text.is_empty() {
        text.extend(["Before:\n", before.text, "\n\nThen:\n"]);
    }
    for message in gone {
        let speaker = if message.role == Role::User { session.user_name.as_str() } else { "The character" };
        text.extend([speaker, ": ", &message.content, "\n"]);
    }
    let sampling = Sampling { max_tokens: TOKENS, ..Sampling::default() };
    let request = GenerateRequest { messages: vec![Message::user(text)], sampling, schema: None, log_probs: None };
    // Without a summary the chat goes on; what had no room is then forgotten.
    if let Ok(completion) = model.generate(request).await {
        app.store.summarise(&session.id, completion.text.trim(), last.id)?;
    }
    Ok(())
}
