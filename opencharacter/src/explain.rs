//! `explain`: from a row back to everything that made it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use futures_util::TryStreamExt as _;
use opencharacter_ledger::{RecordFilter, show};
use opencharacter_storage::Location;
use opencharacter_tables::{ReadOptions, Table};
use serde_json::{Value, json};

use crate::{cli::ExplainArguments, ledgers, output};

/// The fields that rows are known by.
const IDS: [&str; 4] = ["dialogue_id", "character_id", "instruction_id", "pair_id"];

/// `opencharacter explain`
pub async fn command(arguments: &ExplainArguments) -> Result<()> {
    let Some(row) = find(&arguments.data, &arguments.row).await? else {
        bail!("`{}` holds no row `{}`", arguments.data, arguments.row);
    };
    let manifest = match arguments.data.with_ending(".manifest.json").read().await? {
        Some(text) => serde_json::from_slice(&text)?,
        None => Value::Null,
    };
    let ledger = arguments.ledger.clone().or_else(|| beside(&arguments.data).map(Location::Local));
    let calls = match &ledger {
        Some(location) => calls(&ledgers::folder(location)?, &row)?,
        None => Vec::new(),
    };
    let chain = json!({
        "row": row,
        "calls": calls,
        "ledger": ledger.as_ref().map(ToString::to_string),
        "recipe_hash": manifest["recipe_hash"],
        "recipe": manifest["recipe"],
    });
    if arguments.json { output::json(&chain) } else { output::line(&serde_json::to_string_pretty(&chain)?) }
}

async fn find(data: &Location, id: &str) -> Result<Option<Value>> {
    let mut rows = Table::at(data)?.rows(ReadOptions::default()).await?;
    while let Some(row) = rows.try_next().await? {
        // The first id that a row has is its own; a dialogue names its character too.
        let own = IDS.iter().find_map(|name| row.value.get(name)?.as_str());
        if own == Some(id) {
            return Ok(Some(row.value));
        }
    }
    Ok(None)
}

/// The ledger of the command that wrote the file, or of the run whose folder it lies in.
fn beside(data: &Location) -> Option<PathBuf> {
    let own = data.with_ending(".ledger").local().map(Path::to_owned)?;
    let of_run = data.local()?.parent()?.join("ledger");
    [own, of_run].into_iter().find(|folder| folder.is_dir())
}

/// The records behind a row, in the order in which it names them.
fn calls(ledger: &Path, row: &Value) -> Result<Vec<Value>> {
    let keys = row["provenance"]["ledger_keys"].as_array().cloned().unwrap_or_default();
    let mut calls = Vec::new();
    for key in keys.iter().filter_map(Value::as_str) {
        let records = show(ledger, RecordFilter::Key(key.to_owned()))?;
        calls.extend(records.map(|record| Ok(json!(record?))).collect::<Result<Vec<Value>>>()?);
    }
    Ok(calls)
}
