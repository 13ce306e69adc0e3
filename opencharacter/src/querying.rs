//! `query`: SQL over files.

use anyhow::Result;
use futures_util::TryStreamExt as _;
use opencharacter_tables::{QueryOptions, Table, WriteOptions, query};

use crate::{cli::QueryArguments, output};

/// `opencharacter query`
pub async fn command(arguments: &QueryArguments) -> Result<()> {
    let tables = arguments
        .tables
        .iter()
        .map(|table| Ok((table.name.as_str(), Table::at(&table.location)?)))
        .collect::<Result<Vec<_>>>()?;
    let borrowed: Vec<(&str, &Table)> = tables.iter().map(|(name, table)| (*name, table)).collect();
    let options = QueryOptions { memory: arguments.memory_mib << 20, ..QueryOptions::default() };
    let mut rows = query(&arguments.sql, &borrowed, options).await?;
    let Some(out) = &arguments.out else {
        while let Some(row) = rows.try_next().await? {
            output::json(&row.value)?;
        }
        return Ok(());
    };
    let mut writer = Table::at(out)?.writer(WriteOptions::default()).await?;
    while let Some(row) = rows.try_next().await? {
        writer.write(&row.value).await?;
    }
    let count = writer.finish().await?;
    eprintln!("{count} rows in `{out}`");
    Ok(())
}
