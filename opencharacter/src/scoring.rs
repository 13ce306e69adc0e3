//! `score` and `complete`.

use std::{collections::HashMap, fs};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, stream};
use opencharacter_core::{
    Dialogue, Generate as _, GenerateRequest, Message, Role, Sampling, ScoreRequest, SystemPrompt,
};
use opencharacter_engine::EngineOptions;
use serde::Serialize;

use crate::{
    cli::{CompleteArguments, ScoreArguments},
    inputs::{self, Input},
    interrupt::Interrupt,
    models, output,
    progress::Stage,
};

/// One line of `score --json`.
#[derive(Serialize)]
struct ScoreLine {
    id: String,
    tokens: usize,
    nll: f64,
}

/// `opencharacter score`
pub async fn score(arguments: &ScoreArguments, interrupt: &Interrupt) -> Result<()> {
    let input = Input::new(arguments.dialogues.clone(), arguments.on_error.into()).limited(arguments.limit, 0);
    let (dialogues, characters) = inputs::dialogues(&input, arguments.characters.as_ref()).await?;
    let engine = models::chosen(&arguments.model, EngineOptions::default())?;
    let system = SystemPrompt::default();
    let prompts: HashMap<&str, String> = characters
        .iter()
        .map(|character| Ok((character.character_id.as_str(), system.render(character)?)))
        .collect::<Result<_>>()?;
    let stage = Stage::new("scoring", "dialogues");
    let total = dialogues.len();
    let requests = dialogues.into_iter().map(|dialogue| {
        let id = dialogue.dialogue_id.clone();
        with_system(dialogue, &prompts).map(|messages| (id, messages))
    });
    let requests: Vec<(String, Vec<Message>)> = requests.collect::<Result<_>>()?;
    let engine = &engine;
    // In order, so that output streams as it is computed and two runs print the same.
    let mut scores = stream::iter(requests)
        .map(|(id, messages)| async move { (id, engine.score(ScoreRequest { messages }).await) })
        .buffered(engine.concurrency());
    let (mut done, mut tokens, mut log_prob) = (0, 0, 0.0);
    while let Some((id, result)) = interrupt.guard(async { anyhow::Ok(scores.next().await) }).await? {
        let score = result.with_context(|| format!("dialogue `{id}`"))?;
        done += 1;
        tokens += score.tokens;
        log_prob += score.log_prob;
        stage.set(done, total, "");
        let line = ScoreLine { id, tokens: score.tokens, nll: score.nll() };
        if arguments.json {
            output::json(&line)?;
        } else {
            output::line(&format!("{}\t{}\t{:.4}", line.id, line.tokens, line.nll))?;
        }
    }
    stage.finish(&format!("{done} dialogues, {tokens} tokens, mean nll {:.4}", -log_prob / tokens.max(1) as f64));
    Ok(())
}

/// The dialogue's messages, led by its character's system prompt unless it brings its own.
fn with_system(dialogue: Dialogue, prompts: &HashMap<&str, String>) -> Result<Vec<Message>> {
    let brings_system = dialogue.messages.first().is_some_and(|message| message.role == Role::System);
    if brings_system || dialogue.character_id.is_empty() {
        return Ok(dialogue.messages);
    }
    let prompt = prompts.get(dialogue.character_id.as_str()).with_context(|| {
        format!(
            "dialogue `{}` belongs to the character `{}`, which is not known; give its file with `--characters`",
            dialogue.dialogue_id, dialogue.character_id
        )
    })?;
    let mut messages = vec![Message::system(prompt.clone())];
    messages.extend(dialogue.messages);
    Ok(messages)
}

/// `opencharacter complete`
pub async fn complete(arguments: &CompleteArguments, interrupt: &Interrupt) -> Result<()> {
    let read =
        |path: &std::path::Path| fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()));
    let messages: Vec<Message> = serde_json::from_str(&read(&arguments.messages)?).with_context(|| {
        format!(
            "`{}` must be a JSON array of messages like {{\"role\": \"user\", \"content\": \"...\"}}",
            arguments.messages.display()
        )
    })?;
    let schema = match &arguments.schema {
        None => None,
        Some(path) => {
            let text = read(path)?;
            Some(serde_json::from_str(&text).with_context(|| format!("`{}` is not JSON", path.display()))?)
        }
    };
    let engine = models::chosen(&arguments.model, EngineOptions::default())?;
    let sampling = Sampling {
        temperature: arguments.temperature,
        top_p: arguments.top_p,
        max_tokens: arguments.max_tokens,
        seed: arguments.seed,
        ..Sampling::default()
    };
    let request = GenerateRequest { messages, sampling, schema, log_probs: arguments.log_probs };
    let completion = interrupt.guard(engine.generate(request)).await?;
    if arguments.json { output::json(&completion) } else { output::line(&completion.text) }
}
