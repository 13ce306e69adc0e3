//! A file of rows that a command makes, with what belongs to it: what was rejected, and how it came to be.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use opencharacter_core::{Character, Dialogue, Instruction, SourceNote};
use opencharacter_storage::Location;
use opencharacter_synth::{RejectedItem, Sink, Summary, SynthError};
use opencharacter_tables::{Column, RowWriter, Table, WriteOptions};
use serde::{Deserialize, Serialize};

use crate::{
    data_set_card::{card, warning},
    failure::Usage,
};

/// A file of rows at its place.
#[derive(Debug, Clone)]
pub struct DataSet {
    location: Location,
}

/// How a data set came to be; lies beside it as `NAME.manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataManifest {
    /// Which program wrote it.
    pub program: String,
    /// Hash of `recipe`.
    pub recipe_hash: String,
    /// Everything that decides what the rows are, but for how many were asked for.
    pub recipe: serde_json::Value,
    /// How many rows were asked for, where it was said.
    pub count: Option<usize>,
    /// Attempts per item.
    pub attempts: usize,
    /// Whether all that was asked for is there; else the same command goes on.
    pub complete: bool,
    /// Rows in the file.
    pub rows: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// What became of the items.
    pub summary: Summary,
    /// Source and licence of what the rows were made of, with the number of rows.
    pub sources: Vec<SourceShare>,
}

/// Rows that were made of one source, others beside it perhaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceShare {
    /// The source.
    #[serde(flatten)]
    pub note: SourceNote,
    /// Rows made of it.
    pub rows: usize,
}

/// What decides the rows of a data set, and its hash.
pub struct DataRecipe {
    /// The recipe.
    pub value: serde_json::Value,
    /// Of its JSON.
    pub hash: String,
}

impl DataRecipe {
    pub fn new(value: serde_json::Value) -> Self {
        let hash = opencharacter_core::hex(&opencharacter_core::content_hash(&[value.to_string()])[..16]);
        Self { value, hash }
    }
}

/// What a run of the command is to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub count: Option<usize>,
    pub attempts: usize,
}

impl DataSet {
    pub fn new(location: &Location) -> Self {
        Self { location: location.clone() }
    }

    fn manifest(&self) -> Location {
        self.location.with_ending(".manifest.json")
    }

    /// The manifest, where everything that is asked for is there already.
    ///
    /// A file of another recipe is refused: it would be overwritten.
    pub async fn finished(&self, recipe: &DataRecipe, asked: Asked) -> Result<Option<DataManifest>> {
        let Some(bytes) = self.location.length().await? else { return Ok(None) };
        let location = &self.location;
        let Some(text) = self.manifest().read().await? else {
            bail!(Usage(format!(
                "`{location}` exists, and no `{}` says how it was made; remove it or name another `--out`",
                self.manifest()
            )));
        };
        let manifest: DataManifest = match serde_json::from_slice(&text) {
            Ok(manifest) => manifest,
            Err(error) => bail!("`{}` is damaged: {error}; remove it and `{location}`", self.manifest()),
        };
        if manifest.recipe_hash != recipe.hash {
            bail!(Usage(format!(
                "`{location}` was made by another recipe: its hash is {}, that of this command {}{}; name another \
                 `--out`, or remove it",
                manifest.recipe_hash,
                recipe.hash,
                difference(&manifest.recipe, &recipe.value),
            )));
        }
        let same = manifest.complete
            && manifest.bytes == bytes
            && manifest.count == asked.count
            && (manifest.attempts == asked.attempts || manifest.summary.rejected == 0);
        Ok(same.then_some(manifest))
    }

    /// Begins to write it.
    pub async fn writer(&self, columns: Vec<Column>) -> Result<DataWriter> {
        let options = WriteOptions { columns: Some(columns) };
        let rejected = Table::at(&self.location.with_ending(".rejected.jsonl"))?;
        Ok(DataWriter {
            rows: Table::at(&self.location)?.writer(options).await?,
            rejected: rejected.writer(WriteOptions::default()).await?,
            sources: BTreeMap::new(),
        })
    }

    /// Makes it appear, and its manifest beside it.
    pub async fn finish(
        &self,
        writer: DataWriter,
        summary: &Summary,
        recipe: DataRecipe,
        asked: Asked,
    ) -> Result<DataManifest> {
        let sources = writer.sources.into_iter().map(|(note, rows)| SourceShare { note, rows }).collect();
        writer.rejected.finish().await?;
        let rows = writer.rows.finish().await?;
        let manifest = DataManifest {
            program: concat!("opencharacter ", env!("CARGO_PKG_VERSION")).to_owned(),
            recipe_hash: recipe.hash,
            recipe: recipe.value,
            count: asked.count,
            attempts: asked.attempts,
            complete: summary.failed == 0
                && summary.stopped_by.is_none()
                && asked.count.is_none_or(|count| rows >= count),
            rows,
            bytes: self.location.length().await?.unwrap_or(0),
            summary: summary.clone(),
            sources,
        };
        let mut text = serde_json::to_vec_pretty(&manifest)?;
        text.push(b'\n');
        self.manifest().write(text).await?;
        let name = self.location.to_string();
        let name = name.rsplit('/').next().unwrap_or(&name);
        self.location.with_ending(".card.md").write(card(name, &manifest).into_bytes()).await?;
        if let Some(warning) = warning(&manifest) {
            eprintln!("warning: {warning}");
        }
        Ok(manifest)
    }
}

/// The first key in which two recipes differ, in words.
fn difference(before: &serde_json::Value, now: &serde_json::Value) -> String {
    let (Some(before), Some(now)) = (before.as_object(), now.as_object()) else { return String::new() };
    let differs = now.iter().find(|(key, value)| before.get(*key) != Some(value));
    differs
        .map(|(key, value)| {
            format!(" (`{key}` was {}, is {value})", before.get(key).unwrap_or(&serde_json::Value::Null))
        })
        .unwrap_or_default()
}

/// Writes a data set and what was rejected.
pub struct DataWriter {
    rows: RowWriter,
    rejected: RowWriter,
    sources: BTreeMap<SourceNote, usize>,
}

/// A row that says what it was made of.
pub trait Sourced {
    /// Sources and their licences.
    fn sources(&self) -> Vec<SourceNote>;
}

impl Sourced for Instruction {
    fn sources(&self) -> Vec<SourceNote> {
        vec![SourceNote { source: self.source.clone(), license: self.license.clone() }]
    }
}

impl Sourced for Character {
    fn sources(&self) -> Vec<SourceNote> {
        vec![SourceNote { source: self.source.clone(), license: self.license.clone() }]
    }
}

impl Sourced for Dialogue {
    fn sources(&self) -> Vec<SourceNote> {
        self.provenance.as_ref().map(|provenance| provenance.sources.clone()).unwrap_or_default()
    }
}

impl<T: Serialize + Sourced> Sink<T> for DataWriter {
    async fn row(&mut self, row: T) -> Result<(), SynthError> {
        for note in row.sources() {
            *self.sources.entry(note).or_default() += 1;
        }
        Ok(self.rows.write(&row).await?)
    }

    async fn rejected(&mut self, item: RejectedItem) -> Result<(), SynthError> {
        Ok(self.rejected.write(&item).await?)
    }
}
