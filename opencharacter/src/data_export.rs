//! `export` of dialogues.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use opencharacter_core::{Character, SystemPrompt};
use opencharacter_storage::Location;
use opencharacter_synth::{
    DialogueFormat, ImportedDialogue, OnError, Read, Source, is_research_only, llama_factory_info, paper_character,
};
use opencharacter_tables::{RowWriter, Table, WriteOptions};

use crate::{
    cli::{DataTarget, ExportArguments, ExportTarget},
    failure::Usage,
    inputs::Input,
    output,
};

/// `opencharacter export` of dialogues.
pub async fn export(arguments: &ExportArguments) -> Result<()> {
    let ExportTarget::Data(target) = arguments.to else { bail!("`export` of a model is not made here") };
    let Some(dialogues) = &arguments.dialogues else {
        bail!(Usage("this export needs `--dialogues FILE`, and `--characters FILE` for their system prompts".into()));
    };
    let characters: Vec<Character> = match &arguments.characters {
        Some(location) => Input::new(location.clone(), OnError::Fail).characters().await?,
        None => Vec::new(),
    };
    let out = &arguments.out;
    if out.exists() && fs::read_dir(out).map_or(true, |mut entries| entries.next().is_some()) {
        bail!(Usage(format!("`{}` exists already; name a new or empty folder", out.display())));
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make `{}`", out.display()))?;
    let name = if target == DataTarget::Paper { "synthetic_dialogue.jsonl" } else { "dialogues.jsonl" };
    let format = match target {
        DataTarget::LlamaFactory | DataTarget::OpenAi => DialogueFormat::OpenAi,
        DataTarget::ShareGpt => DialogueFormat::ShareGpt,
        DataTarget::Paper => DialogueFormat::Paper,
    };
    let rows = write_dialogues(dialogues, &characters, format, &out.join(name)).await?;
    match target {
        DataTarget::LlamaFactory => {
            output::json_file(&out.join("dataset_info.json"), &llama_factory_info("opencharacter", name))?;
        }
        DataTarget::Paper => {
            let mut writer = writer(&out.join("synthetic_character.jsonl")).await?;
            for character in &characters {
                writer.write(&paper_character(character)).await?;
            }
            writer.finish().await?;
        }
        DataTarget::OpenAi | DataTarget::ShareGpt => {}
    }
    eprintln!("{rows} rows");
    output::line(&out.display().to_string())
}

async fn writer(path: &Path) -> Result<RowWriter> {
    Ok(Table::at(&Location::from(path))?.writer(WriteOptions::default()).await?)
}

async fn write_dialogues(
    dialogues: &Location,
    characters: &[Character],
    format: DialogueFormat,
    path: &Path,
) -> Result<usize> {
    let by_id: HashMap<&str, &Character> =
        characters.iter().map(|character| (character.character_id.as_str(), character)).collect();
    let system = SystemPrompt::default();
    let mut writer = writer(path).await?;
    let mut research_only = BTreeSet::new();
    let mut stream = std::pin::pin!(Source::new(dialogues.clone()).stream::<ImportedDialogue>().await?);
    while let Some(read) = stream.try_next().await? {
        let Read::Row(ImportedDialogue { dialogue, character: own }) = read else { continue };
        let character = by_id.get(dialogue.character_id.as_str()).copied().or(own.as_ref());
        let sources = dialogue.provenance.iter().flat_map(|provenance| &provenance.sources);
        research_only.extend(sources.filter(|note| is_research_only(&note.license)).map(|note| note.source.clone()));
        for row in format.rows(&dialogue, character, &system)? {
            writer.write(&row).await?;
        }
    }
    if !research_only.is_empty() {
        let names: Vec<String> = research_only.into_iter().collect();
        eprintln!("warning: rows made of {} are for research only by their licence", names.join(", "));
    }
    Ok(writer.finish().await?)
}
