//! Tables through every format, filter and query.
#![expect(clippy::unwrap_used, reason = "a test that fails here should stop here")]

mod bad_input;
mod filters;
mod formats;
mod queries;
mod stores;

use std::path::Path;

use futures_util::{StreamExt, TryStreamExt};
use opencharacter_storage::Location;
use opencharacter_tables::{ReadOptions, Row, Table, TableError, WriteOptions};
use serde::Serialize;
use serde_json::Value;

fn table(path: impl AsRef<Path>) -> Table {
    Table::at(&Location::from(path.as_ref())).unwrap()
}

async fn write<T: Serialize>(table: &Table, rows: &[T], options: WriteOptions) -> Result<usize, TableError> {
    let mut writer = table.writer(options).await?;
    for row in rows {
        writer.write(row).await?;
    }
    writer.finish().await
}

async fn read(table: &Table, filter: Option<&str>) -> Result<Vec<Row>, TableError> {
    table.rows(ReadOptions { filter: filter.map(str::to_owned) }).await?.try_collect().await
}

async fn values(table: &Table) -> Vec<Value> {
    read(table, None).await.unwrap().into_iter().map(|row| row.value).collect()
}

/// Every row and every error, as lines.
async fn everything(table: &Table) -> String {
    let items = match table.rows(ReadOptions::default()).await {
        Ok(rows) => rows.collect::<Vec<_>>().await,
        Err(error) => vec![Err(error)],
    };
    let lines = items.into_iter().map(|item| match item {
        Ok(row) => format!("{}: {}\n", row.number, row.value),
        Err(error) => format!("{error}\n"),
    });
    lines.collect()
}
