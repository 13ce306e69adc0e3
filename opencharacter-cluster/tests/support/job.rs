//! A job as synthesis has them: items with several attempts each, through a ledger, rows in the order of items.

use std::path::Path;

use futures_util::{StreamExt as _, stream};
use opencharacter_core::{Completion, Generate};
use opencharacter_ledger::{CallError, Ledger, LedgeredModel};

use super::mock::request;

const ATTEMPTS: u64 = 4;

/// Works on `items` items; the rows, or the error that ended it.
pub async fn work(model: &dyn Generate, ledger: &Path, items: usize) -> Result<Vec<String>, CallError> {
    let ledger = Ledger::open(ledger)?;
    let ledgered = LedgeredModel::new(model, &ledger);
    let mut rows: Vec<(usize, String)> = Vec::new();
    let mut finished = stream::iter(0..items)
        .map(|item| async move { row(ledgered, item).await.map(|row| (item, row)) })
        .buffer_unordered(model.concurrency());
    while let Some(row) = finished.next().await {
        rows.push(row?);
    }
    rows.sort();
    Ok(rows.into_iter().map(|(item, row)| format!("{item} {row}")).collect())
}

/// The first answer that passes; one in four does not.
async fn row(model: LedgeredModel<'_>, item: usize) -> Result<String, CallError> {
    let check = |completion: &Completion| {
        if completion.text.starts_with(['0', '1', '2', '3']) {
            Err("unfit".into())
        } else {
            Ok(completion.text.clone())
        }
    };
    for seed in 0..ATTEMPTS {
        match model.complete("job", &item.to_string(), request(&format!("item {item}"), seed), check).await {
            Ok((row, _)) => return Ok(row),
            Err(CallError::Rejected { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok("none".into())
}
