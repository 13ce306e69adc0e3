//! `deduplicate`, `decontaminate`, `split` and `quality`: rows compared with each other, and with others.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use opencharacter_core::{Character, Dialogue, Role, SystemPrompt};
use opencharacter_similarity::{Reference, Similarity};
use opencharacter_storage::Location;
use opencharacter_synth::{
    OnError,
    quality::{
        AnswerRules, Decontamination, Diversity, JudgedAnswer, OverlappingRow, ReferenceFile, duplicate_rows,
        hold_out_clusters, language_of,
    },
};
use opencharacter_tables::{ReadOptions, Row, Table, WriteOptions};
use serde::Serialize;
use serde_json::Value;

use crate::{
    cli::{Compared, DecontaminateArguments, DeduplicateArguments, QualityArguments, SplitArguments},
    failure::Usage,
    inputs::{self, Input},
    output,
};

/// `opencharacter deduplicate`
pub async fn deduplicate(arguments: &DeduplicateArguments) -> Result<()> {
    let similarity = similarity(arguments.threshold)?;
    let texts = each(&arguments.data, |row| (id_of(row), arguments.by.texts(&row.value).join("\n"))).await?;
    if texts.iter().all(|(_, text)| text.is_empty()) {
        bail!(Usage(format!("`{}` holds nothing to compare by `{:?}`", arguments.data, arguments.by)));
    }
    let duplicates = duplicate_rows(&texts, similarity);
    for duplicate in &duplicates {
        if arguments.json { output::json(duplicate)? } else { output::line(&format!("{}: {duplicate}", duplicate.id))? }
    }
    let dropped: HashSet<usize> = duplicates.iter().map(|duplicate| duplicate.row - 1).collect();
    if let Some(out) = &arguments.out {
        distribute(&arguments.data, texts.len(), &[out], |index| (!dropped.contains(&index)).then_some(0)).await?;
    }
    eprintln!("{} of {} rows repeat an earlier one", duplicates.len(), texts.len());
    Ok(())
}

/// `opencharacter decontaminate`
pub async fn decontaminate(arguments: &DecontaminateArguments) -> Result<()> {
    let mut files = Vec::new();
    for location in &arguments.against {
        let texts = each(location, |row| reference_text(&row.value)).await?;
        files.push(ReferenceFile { file: location.to_string(), texts });
    }
    let decontamination = Decontamination::new(&files, similarity(arguments.threshold)?, Reference::DEFAULT_RUN)?;
    let named = each(&arguments.data, |row| (id_of(row), all_texts(&row.value))).await?;
    let borrowed: Vec<(&str, Vec<&str>)> =
        named.iter().map(|(id, texts)| (id.as_str(), texts.iter().map(String::as_str).collect())).collect();
    let overlaps = decontamination.overlaps(&borrowed);
    for overlap in &overlaps {
        if arguments.json { output::json(overlap)? } else { output::line(&overlap.to_string())? }
    }
    let dropped: HashSet<usize> = overlaps.iter().map(|overlap: &OverlappingRow| overlap.row - 1).collect();
    if let Some(out) = &arguments.out {
        distribute(&arguments.data, named.len(), &[out], |index| (!dropped.contains(&index)).then_some(0)).await?;
    }
    eprintln!("{} of {} rows overlap with the references", dropped.len(), named.len());
    Ok(())
}

/// `opencharacter split`
pub async fn split(arguments: &SplitArguments) -> Result<()> {
    if arguments.train_out == arguments.held_out_out {
        bail!(Usage("`--train-out` and `--held-out-out` are the same file".into()));
    }
    let texts = each(&arguments.data, |row| Compared::Persona.texts(&row.value).join("\n")).await?;
    if texts.iter().all(String::is_empty) {
        bail!(Usage(format!("`{}` has no column `persona` to go by", arguments.data)));
    }
    // By text, so that neither the order of the rows nor their ids decide who is set apart.
    let personas: Vec<(&str, &str)> = texts.iter().map(|text| (text.as_str(), text.as_str())).collect();
    let set_apart = hold_out_clusters(&personas, arguments.held_out, arguments.seed, similar_personas()?);
    let count = texts.iter().filter(|text| set_apart.ids.contains(text)).count();
    if count == texts.len() {
        bail!(
            "all {count} rows would be set apart: the largest cluster of similar personas has {} of them; ask for \
             fewer, or remove near duplicates first (`opencharacter deduplicate`)",
            set_apart.largest
        );
    }
    let file_of = |index: usize| texts.get(index).map(|text| usize::from(set_apart.ids.contains(text)));
    let outs = [&arguments.train_out, &arguments.held_out_out];
    distribute(&arguments.data, texts.len(), &outs, file_of).await?;
    eprintln!(
        "{count} rows set apart in {} clusters, {} left; {} clusters in all, the largest of {}",
        set_apart.clusters,
        texts.len() - count,
        set_apart.all_clusters,
        set_apart.largest
    );
    Ok(())
}

/// Two personas are of one cluster if they share so much: one template with other words in it. At 0.4 of the word pairs
/// the templates of PersonaGym's personas are found and the largest cluster has 7 of 100; at 0.3 one swallows half.
pub fn similar_personas() -> Result<Similarity> {
    Ok(Similarity::new(2, 0.4)?)
}

/// What `quality --json` prints.
#[derive(Serialize)]
struct QualityReport {
    /// Of the characters, where there are any.
    diversity: Option<Diversity>,
    /// Answers judged.
    answers: usize,
    /// Those with a fault, by rule.
    faults: BTreeMap<&'static str, usize>,
    /// Reliably recognised languages of answers, by code.
    languages: BTreeMap<String, usize>,
    /// Every fault: dialogue and reason.
    found: Vec<(String, String)>,
}

/// `opencharacter quality`
pub async fn quality(arguments: &QualityArguments) -> Result<()> {
    let characters: Vec<Character> = match &arguments.characters {
        Some(location) => Input::new(location.clone(), OnError::Fail).characters().await?,
        None => Vec::new(),
    };
    let (dialogues, known) = match &arguments.dialogues {
        Some(location) => {
            inputs::dialogues(&Input::new(location.clone(), OnError::Fail), arguments.characters.as_ref()).await?
        }
        None => (Vec::new(), Vec::new()),
    };
    let mut report = QualityReport {
        diversity: (!characters.is_empty()).then(|| Diversity::of(&characters)),
        answers: 0,
        faults: BTreeMap::new(),
        languages: BTreeMap::new(),
        found: Vec::new(),
    };
    let by_id: HashMap<&str, &Character> =
        known.iter().map(|character| (character.character_id.as_str(), character)).collect();
    for dialogue in &dialogues {
        judge(dialogue, by_id.get(dialogue.character_id.as_str()).copied(), &mut report)?;
    }
    if arguments.json {
        return output::json(&report);
    }
    if let Some(diversity) = &report.diversity {
        output::line(&diversity.to_text())?;
    }
    if report.answers > 0 {
        output::line(&format!("{} answers, {} faults", report.answers, report.found.len()))?;
        report.faults.iter().try_for_each(|(rule, count)| output::line(&format!("  {count:>6}  {rule}")))?;
        let languages: Vec<String> = report.languages.iter().map(|(code, count)| format!("{code} {count}")).collect();
        output::line(&format!("languages: {}", languages.join(", ")))?;
        report.found.iter().take(20).try_for_each(|(id, reason)| output::line(&format!("  {id}: {reason}")))?;
    }
    Ok(())
}

fn judge(dialogue: &Dialogue, character: Option<&Character>, report: &mut QualityReport) -> Result<()> {
    let nobody = Character::from_name("", "", "");
    let system = character.map(|character| SystemPrompt::default().render(character)).transpose()?.unwrap_or_default();
    let mut question = "";
    for message in &dialogue.messages {
        match message.role {
            Role::User => question = &message.content,
            Role::System => {}
            Role::Assistant => {
                let judged = JudgedAnswer {
                    character: character.unwrap_or(&nobody),
                    system: &system,
                    question,
                    answer: &message.content,
                };
                report.answers += 1;
                for fault in AnswerRules::default().faults(&judged) {
                    *report.faults.entry(fault.rule.reason()).or_default() += 1;
                    report.found.push((dialogue.dialogue_id.clone(), fault.to_string()));
                }
                if let Some(language) = language_of(&message.content).filter(|language| language.reliable) {
                    *report.languages.entry(language.code.to_string()).or_default() += 1;
                }
            }
        }
    }
    Ok(())
}

fn similarity(threshold: f64) -> Result<Similarity> {
    Similarity::new(Similarity::default().shingle(), threshold).map_err(|error| Usage(error.to_string()).into())
}

/// Something of each row of a file.
async fn each<T>(location: &Location, take: impl Fn(&Row) -> T) -> Result<Vec<T>> {
    let rows = Table::at(location)?.rows(ReadOptions::default()).await?;
    Ok(rows.map_ok(|row| take(&row)).try_collect().await?)
}

/// Reads a file of `count` rows again and writes each into the file of `outs` that `file_of` its index says, or nowhere.
async fn distribute(
    data: &Location,
    count: usize,
    outs: &[&Location],
    file_of: impl Fn(usize) -> Option<usize>,
) -> Result<()> {
    let mut writers = Vec::new();
    for out in outs {
        writers.push(Table::at(out)?.writer(WriteOptions::default()).await?);
    }
    let mut rows = Table::at(data)?.rows(ReadOptions::default()).await?.enumerate();
    let mut read = 0;
    while let Some((index, row)) = rows.next().await {
        let row = row?;
        read += 1;
        if let Some(writer) = file_of(index).and_then(|file| writers.get_mut(file)) {
            writer.write(&row.value).await?;
        }
    }
    if read != count {
        bail!("`{data}` had {count} rows and now has {read}: it changed meanwhile; run the command again");
    }
    for writer in writers {
        writer.finish().await?;
    }
    Ok(())
}

/// A row's own id, or its number.
fn id_of(row: &Row) -> String {
    const IDS: [&str; 5] = ["dialogue_id", "character_id", "instruction_id", "pair_id", "id"];
    let id = IDS.iter().find_map(|name| row.value.get(name)?.as_str());
    id.map_or_else(|| format!("row {}", row.number), str::to_owned)
}

impl Compared {
    /// What of a row is compared.
    fn texts(self, row: &Value) -> Vec<&str> {
        const PROFILE: [&str; 8] =
            ["name", "age", "gender", "race", "birth_place", "appearance", "general_experience", "personality"];
        let fields = |names: &[&str]| names.iter().filter_map(|name| row.get(*name)?.as_str()).collect();
        match self {
            Self::Persona => fields(&["persona", "input persona", "text"]),
            Self::Profile => fields(&PROFILE),
            Self::Question => [fields(&["question", "instruction", "prompt"]), said(row, "user"), asked(row)].concat(),
            Self::Answer => [fields(&["character_answer", "answer", "output"]), said(row, "assistant")].concat(),
        }
    }
}

/// The texts of a role's messages.
fn said<'r>(row: &'r Value, role: &str) -> Vec<&'r str> {
    let messages = row["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    messages
        .iter()
        .filter(|message| message["role"] == role)
        .filter_map(|message| message["content"].as_str())
        .collect()
}

/// The questions of a native instruction.
fn asked(row: &Value) -> Vec<&str> {
    let turns = row["turns"].as_array().map(Vec::as_slice).unwrap_or_default();
    turns.iter().filter_map(|turn| turn["user"].as_str().or(turn.as_str())).collect()
}

/// All that a row says, text by text: what must not stand in a benchmark.
fn all_texts(row: &Value) -> Vec<String> {
    let profile = Compared::Profile.texts(row).join("\n");
    let single = [Compared::Persona, Compared::Question, Compared::Answer];
    let mut texts: Vec<String> = single.iter().flat_map(|compared| compared.texts(row)).map(str::to_owned).collect();
    texts.extend((!profile.is_empty()).then_some(profile));
    texts
}

/// What a benchmark's row says: every string in it, the longest that there is being its question or persona.
fn reference_text(row: &Value) -> String {
    fn strings<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::String(text) => found.push(text),
            Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
            Value::Object(fields) => fields.values().for_each(|field| strings(field, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut found = Vec::new();
    strings(row, &mut found);
    found.into_iter().max_by_key(|text| text.len()).unwrap_or_default().to_owned()
}
