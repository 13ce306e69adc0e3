//! `chat`: a conversation in the terminal.

use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result, bail};
use opencharacter_core::{
    Character, FinishReason, Generate as _, GenerateError, GenerateRequest, Message, Persona, Profile, Sampling,
    SystemPrompt,
};
use opencharacter_engine::{Engine, EngineOptions};
use opencharacter_synth::OnError;
use rustyline::{DefaultEditor, error::ReadlineError};

use crate::{
    cli::ChatArguments,
    inputs::Input,
    inventing::{Notebook, invent},
    models, output,
};

/// `opencharacter chat`
pub async fn chat(arguments: &ChatArguments) -> Result<()> {
    let found = find(arguments).await?;
    let engine = models::chosen(&arguments.model, EngineOptions { max_sequences: 1, ..EngineOptions::default() })?;
    let character = match found {
        Found::Character(character) => *character,
        Found::Persona(persona) => character_of(&persona, arguments, &engine).await?,
    };
    let mut conversation = Conversation::new(&character, arguments)?;
    output::line(&format!(
        "You are talking with {}. /profile shows the profile, /reset starts over, /quit ends.",
        character.display_name()
    ))?;
    let mut editor = DefaultEditor::new().context("the terminal cannot be read")?;
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("the terminal cannot be read"),
        };
        let line = line.trim();
        match line {
            "" => {}
            "/quit" | "/exit" => return Ok(()),
            "/reset" => {
                conversation.reset();
                output::line("(the conversation starts over)")?;
            }
            "/profile" => output::line(&profile_text(&character))?,
            _ if line.starts_with('/') => output::line("Commands: /profile, /reset, /quit")?,
            question => {
                // A history that cannot be kept is no reason to stop talking.
                let _ = editor.add_history_entry(question);
                conversation.answer(question, &engine).await?;
            }
        }
    }
}

enum Found {
    Character(Box<Character>),
    Persona(Persona),
}

/// What the first argument means: a file, an id or name from `--characters`, or a persona.
async fn find(arguments: &ChatArguments) -> Result<Found> {
    let word = arguments.character.trim();
    if word.is_empty() {
        bail!("give a persona, for example \"a lighthouse keeper who hates the sea\"");
    }
    if Path::new(word).is_file() {
        return from_file(Path::new(word));
    }
    if let Some(path) = &arguments.characters {
        let characters = Input::new(path.clone(), OnError::Skip).characters().await?;
        let matches = |character: &&Character| {
            character.character_id == word || character.profile.name.eq_ignore_ascii_case(word)
        };
        if let Some(character) = characters.iter().find(matches) {
            return Ok(Found::Character(Box::new(character.clone())));
        }
    }
    if word.starts_with("character-") {
        bail!("there is no character `{word}`; name the file that holds it with `--characters RUN/characters.jsonl`");
    }
    Ok(Found::Persona(Persona::new(word, "", "")))
}

/// A character, a bare profile, or a text file with a persona.
fn from_file(path: &Path) -> Result<Found> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    if let Ok(character) = serde_json::from_str::<Character>(&text) {
        return Ok(Found::Character(Box::new(character)));
    }
    if let Ok(profile) = serde_json::from_str::<Profile>(&text)
        && !profile.name.is_empty()
    {
        let name = profile.name.clone();
        return Ok(Found::Character(Box::new(Character { profile, ..Character::from_name(&name, "", "") })));
    }
    if text.trim_start().starts_with(['{', '[']) {
        bail!("`{}` is JSON but no profile: it needs at least a `name`", path.display());
    }
    Ok(Found::Persona(Persona::new(&text, path.display().to_string(), "")))
}

/// Has a profile written for a persona, shown as it stands.
async fn character_of(persona: &Persona, arguments: &ChatArguments, engine: &Engine) -> Result<Character> {
    eprintln!("inventing a profile");
    let notebook = Notebook::new()?;
    if let Some(character) = invent(persona, notebook.model(engine), arguments.seed).await? {
        output::line(&profile_text(&character))?;
        return Ok(character);
    }
    eprintln!("no acceptable profile came out; the persona alone will have to do");
    Ok(Character {
        character_id: persona.character_id.clone(),
        persona: persona.persona.clone(),
        profile: Profile::default(),
        source: String::new(),
        license: String::new(),
        provenance: None,
    })
}

fn profile_text(character: &Character) -> String {
    let profile = character.profile.to_text();
    if character.persona.is_empty() { profile } else { format!("{}\n\n{profile}", character.persona) }
}

struct Conversation {
    system: Message,
    turns: Vec<Message>,
    sampling: Sampling,
    seed: u64,
}

impl Conversation {
    fn new(character: &Character, arguments: &ChatArguments) -> Result<Self> {
        Ok(Self {
            system: Message::system(SystemPrompt::default().render(character)?),
            turns: Vec::new(),
            sampling: Sampling {
                temperature: arguments.temperature,
                top_p: 0.95,
                repetition_penalty: 1.05,
                max_tokens: arguments.max_tokens,
                ..Sampling::default()
            },
            seed: arguments.seed,
        })
    }

    fn reset(&mut self) {
        self.turns.clear();
    }

    /// Answers in the terminal as the words come. Ctrl-C ends the answer and keeps what was said.
    async fn answer(&mut self, question: &str, engine: &Engine) -> Result<()> {
        self.turns.push(Message::user(question));
        let mut forgotten = Vec::new();
        let said = Arc::new(Mutex::new(String::new()));
        let completion = loop {
            let sink_said = Arc::clone(&said);
            let sink = Box::new(move |piece: &str| {
                // Somebody who closed the terminal reads no more; the answer still ends by itself.
                let _ = write!(std::io::stdout(), "{piece}").and_then(|()| std::io::stdout().flush());
                if let Ok(mut said) = sink_said.lock() {
                    said.push_str(piece);
                }
            });
            let result = tokio::select! {
                result = engine.stream(self.request(), sink) => Some(result),
                _ = tokio::signal::ctrl_c() => None,
            };
            match result {
                None => break None,
                Some(Ok(completion)) => break Some(completion),
                // The oldest question and answer make room; a question that is too long by itself is put aside.
                Some(Err(GenerateError::Refused { .. })) if self.turns.len() > 2 => {
                    forgotten.extend(self.turns.drain(..2));
                }
                Some(Err(GenerateError::Refused { reason })) => {
                    eprintln!("(this question cannot be answered: {reason})");
                    self.turns.pop();
                    forgotten.append(&mut self.turns);
                    self.turns = forgotten;
                    return Ok(());
                }
                Some(Err(error)) => return Err(error.into()),
            }
        };
        let cut = completion.as_ref().is_none_or(|completion| completion.finish == FinishReason::Length);
        output::line(if cut { " ..." } else { "" })?;
        if !forgotten.is_empty() {
            let count = forgotten.len() / 2;
            eprintln!(
                "(the conversation is too long: the oldest {count} of your questions and its answers are forgotten)"
            );
        }
        let text = completion.map_or_else(|| said.lock().map(|said| said.clone()).unwrap_or_default(), |c| c.text);
        self.turns.push(Message::assistant(text));
        Ok(())
    }

    fn request(&self) -> GenerateRequest {
        let mut messages = vec![self.system.clone()];
        messages.extend(self.turns.iter().cloned());
        let seed = self.seed.wrapping_add(self.turns.len() as u64);
        GenerateRequest {
            messages,
            sampling: Sampling { seed, ..self.sampling.clone() },
            schema: None,
            log_probs: None,
        }
    }
}
