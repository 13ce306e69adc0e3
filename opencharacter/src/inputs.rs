//! Reading input files, with what was skipped said aloud.

use std::{collections::HashSet, path::Path};

use anyhow::{Result, bail};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use opencharacter_core::{Character, Dialogue, HeldOut, hold_out};
use opencharacter_storage::Location;
use opencharacter_synth::{FromRow, ImportedDialogue, OnError, Read, SkippedRow, Source, SynthError};

use crate::failure::Usage;

/// A file as a command names it.
#[derive(Debug, Clone)]
pub struct Input {
    /// The file, and which of its rows.
    pub source: Source,
    /// Use so many rows, drawn by seed and id.
    pub limit: Option<usize>,
    /// Decides which.
    pub seed: u64,
}

impl Input {
    /// All rows of a file.
    pub fn new(location: impl Into<Location>, on_error: OnError) -> Self {
        Self { source: Source { on_error, ..Source::new(location) }, limit: None, seed: 0 }
    }

    /// So many of them.
    pub fn limited(self, limit: Option<usize>, seed: u64) -> Self {
        Self { limit, seed, ..self }
    }

    /// Those for which an SQL condition is true.
    pub fn selected(mut self, filter: Option<&String>) -> Self {
        self.source.filter = filter.cloned();
        self
    }

    /// All rows, in memory.
    pub async fn rows<T: FromRow>(&self) -> Result<Vec<T>> {
        let read = self.source.read::<T>().await?;
        let mut skipped = Skipped::default();
        read.skipped.iter().for_each(|row| skipped.add(&self.source.location, row));
        skipped.say(&self.source.location);
        let Some(limit) = self.limit else { return Ok(read.rows) };
        let chosen = self.draw::<T>(read.rows.iter().map(T::id), limit);
        Ok(read.rows.into_iter().filter(|row| chosen.contains(row.id())).collect())
    }

    /// Characters: the rows of a file, or the cards of a folder.
    pub async fn characters(&self) -> Result<Vec<Character>> {
        match self.folder() {
            Some(folder) => self.cards(folder),
            None => self.rows().await,
        }
    }

    fn folder(&self) -> Option<&Path> {
        self.source.location.local().filter(|path| path.is_dir())
    }

    fn cards(&self, folder: &Path) -> Result<Vec<Character>> {
        if self.source.filter.is_some() {
            bail!(Usage(format!("`{}` is a folder of cards, which has no columns for SQL", folder.display())));
        }
        let (characters, errors) = opencharacter_card::read_folder(folder)?.characters();
        for error in errors {
            match self.source.on_error {
                OnError::Fail => bail!("{error}. `--on-error skip` leaves it out"),
                OnError::Skip => eprintln!("skipped: {error}"),
            }
        }
        if characters.is_empty() {
            bail!("`{}` holds no character card: expected `.png`, `.json` or `.charx` files", folder.display());
        }
        let Some(limit) = self.limit else { return Ok(characters) };
        let chosen = self.draw::<Character>(characters.iter().map(Character::id), limit);
        Ok(characters.into_iter().filter(|character| chosen.contains(character.id())).collect())
    }

    /// What says whether the content is the same as before.
    pub async fn fingerprint(&self) -> Result<String> {
        if self.folder().is_none() {
            return Ok(self.source.location.fingerprint().await?);
        }
        let text = serde_json::to_string(&self.characters().await?)?;
        Ok(opencharacter_core::hex(&opencharacter_core::content_hash(&[text])))
    }

    fn draw<'i, T: FromRow>(&self, ids: impl IntoIterator<Item = &'i str>, limit: usize) -> HeldOut {
        hold_out(ids, limit, self.seed, &format!("limit {}", T::NAME))
    }

    /// Reads the whole file once, so that what is wrong with it shows before any work is done.
    pub async fn scan<T: FromRow>(&self) -> Result<Scanned> {
        let mut stream = std::pin::pin!(self.source.stream::<T>().await?);
        let (mut rows, mut ids, mut skipped) = (0, Vec::new(), Skipped::default());
        while let Some(read) = stream.try_next().await? {
            match read {
                Read::Row(row) => {
                    rows += 1;
                    if self.limit.is_some() {
                        ids.push(row.id().to_owned());
                    }
                }
                Read::Skipped(row) => skipped.add(&self.source.location, &row),
            }
        }
        skipped.say(&self.source.location);
        let chosen = self.limit.map(|limit| {
            let chosen = self.draw::<T>(ids.iter().map(String::as_str), limit);
            ids.iter().filter(|id| chosen.contains(id)).cloned().collect::<HashSet<String>>()
        });
        Ok(Scanned { input: self.clone(), rows: chosen.as_ref().map_or(rows, HashSet::len), chosen })
    }
}

/// A file that was read once.
#[derive(Debug)]
pub struct Scanned {
    input: Input,
    /// How many rows will come.
    pub rows: usize,
    chosen: Option<HashSet<String>>,
}

impl Scanned {
    /// Its rows again, one by one.
    pub async fn stream<T: FromRow>(&self) -> Result<impl Stream<Item = Result<T, SynthError>>, SynthError> {
        let stream = self.input.source.stream::<T>().await?;
        Ok(stream.filter_map(async |read| match read {
            Ok(Read::Row(row)) => {
                self.chosen.as_ref().is_none_or(|chosen| chosen.contains(row.id())).then_some(Ok(row))
            }
            Ok(Read::Skipped(_)) => None,
            Err(error) => Some(Err(error)),
        }))
    }
}

/// Rows that were left out, the first few named.
#[derive(Default)]
struct Skipped {
    count: usize,
}

impl Skipped {
    const SHOWN: usize = 5;

    fn add(&mut self, location: &Location, row: &SkippedRow) {
        if self.count < Self::SHOWN {
            eprintln!("`{location}` {} {}: skipped: {}", row.unit, row.line, row.reason);
        }
        self.count += 1;
    }

    fn say(&self, location: &Location) {
        if self.count > Self::SHOWN {
            eprintln!("`{location}`: {} more rows skipped", self.count - Self::SHOWN);
        }
    }
}

/// Dialogues of a file with their characters: those of `characters`, and those that an import makes of names.
pub async fn dialogues(input: &Input, characters: Option<&Location>) -> Result<(Vec<Dialogue>, Vec<Character>)> {
    let read = input.rows::<ImportedDialogue>().await?;
    let (mut dialogues, mut known, mut names) = (Vec::with_capacity(read.len()), Vec::new(), HashSet::new());
    for ImportedDialogue { dialogue, character } in read {
        dialogues.push(dialogue);
        known.extend(character.filter(|character| names.insert(character.character_id.clone())));
    }
    if let Some(location) = characters {
        known.extend(Input::new(location.clone(), input.source.on_error).characters().await?);
    }
    Ok((dialogues, known))
}
