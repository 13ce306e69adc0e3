//! `eval role-bench`.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use opencharacter_core::SystemPrompt;
use opencharacter_eval::{
    Benchmark, EvalItem, RoleBenchRow, Texts, role_bench_items, role_bench_sampling, score_role_bench,
};

use super::{
    Bench, Outcome,
    lines::{lines, place},
};
use crate::{cli::RoleBenchArguments, interrupt::Interrupt};

/// `opencharacter eval role-bench`
pub async fn command(arguments: &RoleBenchArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.common;
    let bench = Bench::open(common)?;
    let mut rows: Vec<RoleBenchRow> = Vec::new();
    for path in &arguments.rows {
        for (number, line) in lines(path)? {
            rows.push(RoleBenchRow::from_line(&place(path, number), &line)?);
        }
    }
    let characters = common.characters().await?;
    let mut items = role_bench_items(&rows, arguments.split.into(), &characters, &SystemPrompt::default())?;
    if let Some(limit) = common.limit {
        items = of_every_role(items, limit);
    }
    let asked = Texts {
        characters: items.iter().map(|item| item.character_name.clone()).collect::<HashSet<_>>().into_iter().collect(),
        questions: items.iter().map(|item| item.question().to_owned()).collect(),
    };
    let overlap = bench.overlap(&asked).await?;
    bench.answer(&mut items, &role_bench_sampling(), interrupt).await?;
    score_role_bench(&mut items);
    bench.finish(Outcome { overlap, ..Outcome::of(Benchmark::RoleBench) }, &items)
}

/// The first `limit` items when each role gives one in turn: files are sorted by role, and a role alone has no interval.
fn of_every_role(items: Vec<EvalItem>, limit: usize) -> Vec<EvalItem> {
    let mut taken: HashMap<String, usize> = HashMap::new();
    let mut in_turn: Vec<(usize, EvalItem)> = items
        .into_iter()
        .map(|item| {
            let round = taken.entry(item.character_name.clone()).or_default();
            *round += 1;
            (*round, item)
        })
        .collect();
    in_turn.sort_by_key(|(round, _)| *round);
    in_turn.into_iter().map(|(_, item)| item).take(limit).collect()
}
