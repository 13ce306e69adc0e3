//! `serve`: models and characters over HTTP.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, bail};
use opencharacter_card::{Card, CardFile, read_folder};
use opencharacter_core::{
    BoxFuture, Character, Completion, Generate, GenerateError, GenerateRequest, Persona, Sampling, Score, ScoreRequest,
    TextSink,
};
use opencharacter_engine::{Engine, EngineOptions};
use opencharacter_serve::{Heard, Listener, ServeOptions, ServedModel, Server, Workshop};
use opencharacter_storage::Location;
use opencharacter_synth::OnError;
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    cli::ServeArguments,
    failure::Usage,
    inputs::Input,
    interrupt::Interrupt,
    inventing::{Notebook, card_with_words, invent},
    models, output,
};

/// Asked of everybody who wants anything of the server, where it is set.
const KEY_VARIABLE: &str = "OPENCHARACTER_API_KEY";

/// `opencharacter serve`
pub async fn command(arguments: &ServeArguments, interrupt: &Interrupt) -> Result<()> {
    let key = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty());
    let cards = match &arguments.characters {
        Some(location) => cards_at(location).await?,
        None => Vec::new(),
    };
    let engine = models::engine(&models::load(&arguments.model)?, EngineOptions::default())?;
    let served = served_models(arguments, &engine)?;
    let workshop = Arc::new(EngineWorkshop { base: engine, first: served[0].1.clone(), seed: arguments.seed });
    let options = ServeOptions {
        address: arguments.listen,
        key,
        database: (!arguments.forget).then(|| arguments.database.clone().unwrap_or_else(default_database)),
        runs: Some(arguments.runs.clone()),
        most_answers: arguments.most_answers,
        answer_tokens: arguments.max_tokens,
        most_tokens: arguments.most_tokens.unwrap_or(usize::MAX),
        seed: arguments.seed,
    };
    let served: Vec<(String, Arc<dyn ServedModel>)> =
        served.into_iter().map(|(name, engine)| (name, Arc::new(Served(engine)) as Arc<dyn ServedModel>)).collect();
    let server = Server::bind(options, served, workshop)?;
    if !cards.is_empty() {
        let added = server.add_cards(&cards)?;
        eprintln!("{added} new characters of {}", cards.len());
    }
    output::line(&format!("http://{}", server.address()))?;
    eprintln!("the page is there, the API under /v1; Ctrl-C ends");
    server.run(interrupt.pressed()).await;
    Ok(())
}

/// The model, and each adapter under its name: the first of them answers where nothing is named.
fn served_models(arguments: &ServeArguments, engine: &Engine) -> Result<Vec<(String, Engine)>> {
    let mut served: Vec<(String, Engine)> = Vec::new();
    for adapter in &arguments.adapters {
        let (name, folder) = match adapter.split_once('=') {
            Some((name, folder)) => (name.to_owned(), PathBuf::from(folder)),
            None => (String::from("tuned"), PathBuf::from(adapter)),
        };
        if name.is_empty() || served.iter().any(|(known, _)| *known == name) {
            bail!(Usage(format!(
                "`--adapter {adapter}`: give each adapter a name of its own, as in `--adapter NAME=DIR`"
            )));
        }
        served.push((name, models::adapted(engine, &folder)?));
    }
    let name = PathBuf::from(&arguments.model);
    let name = name.file_stem().map_or_else(|| arguments.model.clone(), |stem| stem.to_string_lossy().into_owned());
    if served.iter().any(|(known, _)| *known == name) {
        bail!(Usage(format!("an adapter is named `{name}`, as the model itself is")));
    }
    served.push((name, engine.clone()));
    Ok(served)
}

/// A folder of cards as they are, anything else as characters.
async fn cards_at(location: &Location) -> Result<Vec<CardFile>> {
    if let Location::Local(path) = location
        && path.is_dir()
    {
        let folder = read_folder(path)?;
        let mut cards = Vec::new();
        for entry in folder {
            match entry.card {
                Ok(file) => cards.push(file),
                Err(error) => eprintln!("left out: {error}"),
            }
        }
        return Ok(cards);
    }
    let characters = Input::new(location.clone(), OnError::Skip).characters().await?;
    Ok(characters.iter().map(|character| CardFile::new(Card::from_character(character))).collect())
}

/// Where characters and chats are kept.
fn default_database() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home).unwrap_or_default();
    data.join("opencharacter/serve.sqlite")
}

/// The engine as what is served.
struct Served(Engine);

impl Generate for Served {
    fn fingerprint(&self) -> &str {
        self.0.fingerprint()
    }

    fn concurrency(&self) -> usize {
        self.0.concurrency()
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.0.generate(request)
    }

    fn stream(&self, request: GenerateRequest, sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.0.stream(request, sink)
    }

    fn score(&self, request: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        self.0.score(request)
    }
}

impl ServedModel for Served {
    fn encode(&self, text: &str) -> Vec<u32> {
        self.0.model().tokenizer.encode(text)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        let tokenizer = &self.0.model().tokenizer;
        let known: Vec<u32> =
            tokens.iter().copied().filter(|token| (*token as usize) < tokenizer.vocabulary_size()).collect();
        tokenizer.decode(&known)
    }

    fn context_tokens(&self) -> usize {
        self.0.model().decoder.config().max_position_embeddings
    }

    fn complete(
        &self,
        prompt: &str,
        sampling: Sampling,
        log_probs: Option<usize>,
        sink: Option<TextSink>,
    ) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        let prompt = prompt.to_owned();
        Box::pin(async move { self.0.continue_text(&prompt, sampling, log_probs, sink).await })
    }
}

/// Has the model that answers first write characters, and loads adapters beside it.
struct EngineWorkshop {
    base: Engine,
    first: Engine,
    seed: u64,
}

impl Workshop for EngineWorkshop {
    fn invent(&self, persona: String, listener: Listener) -> BoxFuture<'_, Result<Card, String>> {
        let (engine, seed, runtime) =
            (Overheard { engine: self.first.clone(), listener }, self.seed, Handle::current());
        // Dropped with the future that is returned: work on another thread hears so that nobody waits for it any more.
        let (waiting, left) = oneshot::channel::<()>();
        // On a thread of its own: making a character waits for calls of its own, and its futures stay on one thread.
        let work = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                tokio::select! {
                    made = new_card(&engine, &persona, seed) => made,
                    _ = left => bail!("nobody waits for the character any more"),
                }
            })
        });
        Box::pin(async move {
            let _waiting = waiting;
            match work.await {
                Ok(made) => made.map_err(|error| format!("{error:#}")),
                Err(error) => Err(format!("the character cannot be made: {error}")),
            }
        })
    }

    fn adapted(&self, config: &[u8], weights: &[u8]) -> Result<Arc<dyn ServedModel>, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
        let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content);
        write("adapter_config.json", config)
            .and_then(|()| write("adapter_model.safetensors", weights))
            .map_err(|error| format!("cannot write in the folder of temporary files: {error}"))?;
        let engine = models::adapted(&self.base, folder.path()).map_err(|error| format!("{error:#}"))?;
        Ok(Arc::new(Served(engine)))
    }
}

async fn new_card(model: &Overheard, persona: &str, seed: u64) -> Result<Card> {
    let notebook = Notebook::new()?;
    let persona = Persona::new(persona, "", "");
    (model.listener)(Heard::Part("profile"));
    let character: Character = invent(&persona, notebook.model(model), seed)
        .await?
        .context("no acceptable profile came out; say a little more about the character")?;
    (model.listener)(Heard::Part("greetings and example dialogue"));
    card_with_words(&character, notebook.model(model), seed).await
}

/// The engine, with somebody who hears what it writes.
struct Overheard {
    engine: Engine,
    listener: Listener,
}

impl Generate for Overheard {
    fn fingerprint(&self) -> &str {
        self.engine.fingerprint()
    }

    fn concurrency(&self) -> usize {
        self.engine.concurrency()
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        (self.listener)(Heard::Asked);
        let listener = Arc::clone(&self.listener);
        self.engine.stream(request, Box::new(move |piece| listener(Heard::Piece(piece.to_owned()))))
    }

    fn stream(&self, request: GenerateRequest, sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.engine.stream(request, sink)
    }

    fn score(&self, request: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        self.engine.score(request)
    }
}
