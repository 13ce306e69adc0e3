use std::{cmp::Ordering, collections::BinaryHeap};

use futures_util::TryStreamExt;
use opencharacter_core::KeyedRandom;
use serde_json::Value;

use crate::{Row, Rows, TableError};

/// `count` of the rows, in the table's order: those with the smallest keyed draws under `seed` and the id in `field`.
///
/// Which rows they are depends on the ids and the seed alone, not on the order of the table; a larger `count` keeps the
/// rows of a smaller one. Memory holds `count` rows.
///
/// # Errors
/// The first error of `rows`; [`TableError::Row`] for a row whose `field` is neither text nor a number.
pub async fn sample(mut rows: Rows, field: &str, count: usize, seed: u64) -> Result<Vec<Row>, TableError> {
    let mut kept: BinaryHeap<Drawn> = BinaryHeap::new();
    while let Some(row) = rows.try_next().await? {
        let id = match row.value.get(field) {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            _ => {
                return Err(TableError::Row {
                    location: "sample".into(),
                    unit: "row",
                    number: row.number,
                    reason: format!("column `{field}` is missing; expected an id, which is what rows are drawn by"),
                });
            }
        };
        let draw = KeyedRandom::new(seed, &["sample", &id]).next_u64();
        kept.push(Drawn { draw, row });
        if kept.len() > count {
            kept.pop();
        }
    }
    let mut rows: Vec<Row> = kept.into_iter().map(|drawn| drawn.row).collect();
    rows.sort_unstable_by_key(|row| row.number);
    Ok(rows)
}

struct Drawn {
    draw: u64,
    row: Row,
}

impl Drawn {
    fn key(&self) -> (u64, usize) {
        (self.draw, self.row.number)
    }
}

impl Ord for Drawn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Drawn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Drawn {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Drawn {}
