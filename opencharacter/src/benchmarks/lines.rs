//! What the benchmarks read from and write to files.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use opencharacter_eval::EvalItem;
use serde::{Serialize, de::DeserializeOwned};

pub fn lines(path: &Path) -> Result<impl Iterator<Item = (usize, String)> + use<>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let lines: Vec<(usize, String)> = text.lines().map(str::to_owned).enumerate().collect();
    Ok(lines.into_iter().map(|(index, line)| (index + 1, line)).filter(|(_, line)| !line.trim().is_empty()))
}

pub fn place(path: &Path, number: usize) -> String {
    format!("`{}` line {number}", path.display())
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`: is this the folder of an `eval`?", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not what `eval` writes", path.display()))
}

pub fn read_items(folder: &Path) -> Result<Vec<EvalItem>> {
    let path = folder.join("items.jsonl");
    let read = |(number, line): (usize, String)| serde_json::from_str(&line).with_context(|| place(&path, number));
    lines(&path)?.map(read).collect()
}

pub fn json_lines<T: Serialize>(rows: &[T]) -> Result<String> {
    let mut lines = String::new();
    for row in rows {
        lines.push_str(&serde_json::to_string(row)?);
        lines.push('\n');
    }
    Ok(lines)
}
