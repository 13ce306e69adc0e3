//! Reading input files, with what was skipped said aloud.

use std::path::Path;

use anyhow::Result;
use opencharacter_core::{Character, Dialogue, Instruction, Persona, PreferencePair, hold_out};
use opencharacter_synth::{OnError, SkippedRow};

fn report_skipped(path: &Path, skipped: &[SkippedRow]) {
    const SHOWN: usize = 5;
    for row in skipped.iter().take(SHOWN) {
        eprintln!("`{}` line {}: skipped: {}", path.display(), row.line, row.reason);
    }
    if skipped.len() > SHOWN {
        eprintln!("`{}`: {} more rows skipped", path.display(), skipped.len() - SHOWN);
    }
}

/// Keeps `limit` rows, drawn by seed and id, in their order.
fn limit<T>(rows: Vec<T>, id: impl Fn(&T) -> &str, limit: Option<usize>, seed: u64, purpose: &str) -> Vec<T> {
    let Some(limit) = limit else { return rows };
    let chosen = hold_out(rows.iter().map(&id), limit, seed, purpose);
    rows.into_iter().filter(|row| chosen.contains(id(row))).collect()
}

/// Personas of a file.
pub fn personas(path: &Path, on_error: OnError, count: Option<usize>, seed: u64) -> Result<Vec<Persona>> {
    let read = opencharacter_synth::read_personas(path, on_error)?;
    report_skipped(path, &read.skipped);
    Ok(limit(read.rows, |row| &row.character_id, count, seed, "limit personas"))
}

/// Instructions of a file.
pub fn instructions(path: &Path, on_error: OnError, count: Option<usize>, seed: u64) -> Result<Vec<Instruction>> {
    let read = opencharacter_synth::read_instructions(path, on_error)?;
    report_skipped(path, &read.skipped);
    Ok(limit(read.rows, |row| &row.instruction_id, count, seed, "limit instructions"))
}

/// Characters of a file.
pub fn characters(path: &Path, on_error: OnError) -> Result<Vec<Character>> {
    let read = opencharacter_synth::read_characters(path, on_error)?;
    report_skipped(path, &read.skipped);
    Ok(read.rows)
}

/// Preference pairs of a file.
pub fn pairs(path: &Path, on_error: OnError, count: Option<usize>, seed: u64) -> Result<Vec<PreferencePair>> {
    let read = opencharacter_synth::read_pairs(path, on_error)?;
    report_skipped(path, &read.skipped);
    Ok(limit(read.rows, |row| &row.pair_id, count, seed, "limit pairs"))
}

/// Dialogues of a file with their characters: those of `characters`, and those that an import makes of names.
pub fn dialogues(
    path: &Path,
    characters_path: Option<&Path>,
    on_error: OnError,
    count: Option<usize>,
    seed: u64,
) -> Result<(Vec<Dialogue>, Vec<Character>)> {
    let read = opencharacter_synth::read_dialogues(path, on_error)?;
    report_skipped(path, &read.skipped);
    let mut known = read.characters;
    if let Some(path) = characters_path {
        known.extend(characters(path, on_error)?);
    }
    Ok((limit(read.dialogues, |row| &row.dialogue_id, count, seed, "limit dialogues"), known))
}
