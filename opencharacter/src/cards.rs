//! `card`: character cards, as `SillyTavern` and other front ends read and write them.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use opencharacter_card::{Card, CardFile, CardFormat, DrawKey, Prompt, PromptRequest, Spec, build_prompt};
use opencharacter_core::{Character, Message, Persona};
use opencharacter_engine::EngineOptions;
use opencharacter_synth::OnError;

use crate::{
    cli::{
        CardCommand, CardConvertArguments, CardCreateArguments, CardExportArguments, CardPromptArguments, SpecArgument,
    },
    failure::Usage,
    inputs::Input,
    inventing::{Notebook, card_with_words, invent},
    models, output,
};

/// `opencharacter card`
pub async fn command(command: &CardCommand) -> Result<()> {
    match command {
        CardCommand::Create(arguments) => create(arguments).await,
        CardCommand::Show { card, json } => show(card, *json),
        CardCommand::Convert(arguments) => convert(arguments),
        CardCommand::Prompt(arguments) => prompt(arguments),
        CardCommand::Export(arguments) => export(arguments).await,
    }
}

async fn create(arguments: &CardCreateArguments) -> Result<()> {
    if arguments.persona.trim().is_empty() {
        bail!(Usage("give a persona, for example \"a lighthouse keeper who hates the sea\"".into()));
    }
    let format = format_of(&arguments.out, SpecArgument::V3)?;
    let engine = models::chosen(&arguments.model, EngineOptions::default())?;
    let notebook = Notebook::new()?;
    let model = notebook.model(&engine);
    let persona = Persona::new(&arguments.persona, "", "");
    let Some(character) = invent(&persona, model, arguments.seed).await? else {
        bail!("no acceptable profile came out; try another `--seed`, or say a little more about the character");
    };
    output::line(&format!("{}\n", character.profile.to_text()))?;
    let card = card_with_words(&character, model, arguments.seed).await?;
    output::line(&card.first_mes)?;
    write_as(&CardFile::new(card), &arguments.out, format)?;
    eprintln!("the card is in `{}`", arguments.out.display());
    Ok(())
}

/// Reads a card and says what is odd about it.
fn read(path: &Path) -> Result<CardFile> {
    let file = CardFile::open(path)?;
    file.warnings.iter().for_each(|warning| eprintln!("`{}`: {warning}", path.display()));
    Ok(file)
}

fn show(path: &Path, json: bool) -> Result<()> {
    let file = read(path)?;
    let character = file.card.to_character();
    if json {
        return output::json(&character);
    }
    output::line(&format!("{}\n\n{}", character.persona, character.profile.to_text()))?;
    let card = &file.card;
    let book = card.character_book.as_ref().map_or(0, |book| book.entries.len());
    output::line(&format!(
        "\n{} greetings, {book} lorebook entries, {} assets",
        card.greetings().filter(|greeting| !greeting.is_empty()).count(),
        card.assets.as_ref().map_or(0, Vec::len)
    ))
}

fn convert(arguments: &CardConvertArguments) -> Result<()> {
    let format = format_of(&arguments.out, arguments.spec)?;
    let mut file = read(&arguments.card)?;
    if let Some(folder) = &arguments.adapter {
        if format != CardFormat::Charx {
            bail!(Usage(format!("`{}`: only a `.charx` can carry an adapter", arguments.out.display())));
        }
        add_adapter(&mut file, folder)?;
    }
    write_as(&file, &arguments.out, format)
}

/// The adapter's files, as assets of a type of their own.
fn add_adapter(file: &mut CardFile, folder: &Path) -> Result<()> {
    for (name, ending) in [("adapter_config", "json"), ("adapter_model", "safetensors")] {
        let path = folder.join(name).with_extension(ending);
        let content = std::fs::read(&path)
            .with_context(|| format!("cannot read `{}`: is this the folder of an adapter?", path.display()))?;
        file.add_asset("x_adapter", name, ending, content)?;
    }
    Ok(())
}

/// Writes a card in the format that the file's ending names.
fn write(file: &CardFile, out: &Path, spec: SpecArgument) -> Result<()> {
    write_as(file, out, format_of(out, spec)?)
}

fn format_of(out: &Path, spec: SpecArgument) -> Result<CardFormat> {
    let ending = out.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    Ok(match ending.as_str() {
        "png" => CardFormat::Png(spec.into()),
        "json" => CardFormat::Json(spec.into()),
        "charx" => CardFormat::Charx,
        _ => bail!(Usage(format!("`{}`: a card ends in `.png`, `.json` or `.charx`", out.display()))),
    })
}

fn write_as(file: &CardFile, out: &Path, format: CardFormat) -> Result<()> {
    let written = file.write(format)?;
    written.warnings.iter().for_each(|warning| eprintln!("`{}`: {warning}", out.display()));
    output::file(out, &written.bytes)
}

fn prompt(arguments: &CardPromptArguments) -> Result<()> {
    let file = read(&arguments.card)?;
    let greeting = file.card.greetings().next().filter(|greeting| !greeting.is_empty());
    let mut history: Vec<Message> = greeting.map(Message::assistant).into_iter().collect();
    let greeting = greeting.map(|_| 0);
    history.push(Message::user(arguments.message.clone()));
    let prompt = build_prompt(&PromptRequest {
        card: &file.card,
        user: &arguments.user,
        user_icon: None,
        history: &history,
        greeting,
        books: &[],
        system_prompt: "",
        post_history_instructions: "",
        context_tokens: arguments.context_tokens,
        draw: DrawKey { chat: "prompt", seed: arguments.seed, ..DrawKey::default() },
        // A model's tokenizer is not at hand; four letters a token is what English takes.
        count_tokens: &|text| text.chars().count().div_ceil(4),
    });
    if arguments.json {
        return output::json(&prompt);
    }
    if arguments.trace {
        trace(&prompt)?;
    }
    prompt.parts.iter().try_for_each(|part| {
        output::line(&format!(
            "[{:?} from {}, about {} tokens]\n{}\n",
            part.role, part.section, part.tokens, part.content
        ))
    })
}

/// What became of every lorebook entry, and what had no room.
fn trace(prompt: &Prompt) -> Result<()> {
    prompt.lore.iter().try_for_each(|entry| output::line(&entry.to_string()))?;
    prompt
        .left_out
        .iter()
        .try_for_each(|part| output::line(&format!("no room: {}, about {} tokens", part.section, part.tokens)))?;
    output::line("")
}

async fn export(arguments: &CardExportArguments) -> Result<()> {
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make `{}`", arguments.out.display()))?;
    let input = Input::new(arguments.characters.clone(), OnError::Fail);
    let characters = input.scan::<Character>().await?;
    let mut stream = std::pin::pin!(characters.stream::<Character>().await?);
    let mut count = 0;
    while let Some(character) = stream.try_next().await? {
        let file = CardFile::new(Card::from_character(&character));
        // The id, because names need not be fit for files.
        write(&file, &arguments.out.join(format!("{}.png", character.character_id)), SpecArgument::V3)?;
        count += 1;
    }
    eprintln!("{count} cards in `{}`", arguments.out.display());
    Ok(())
}

impl From<SpecArgument> for Spec {
    fn from(argument: SpecArgument) -> Self {
        match argument {
            SpecArgument::V1 => Self::V1,
            SpecArgument::V2 => Self::V2,
            SpecArgument::V3 => Self::V3,
        }
    }
}
