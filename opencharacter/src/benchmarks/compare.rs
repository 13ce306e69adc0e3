//! `eval compare`.

use std::path::Path;

use anyhow::{Result, bail};
use opencharacter_eval::{BenchmarkScores, EvalItem, compare as compare_items, statistics::Resampling};

use super::{
    lines::{read_items, read_json},
    tables::comparison_table,
};
use crate::{failure::Usage, output};

/// `opencharacter eval compare`
pub fn command(first: &Path, second: &Path, json: bool) -> Result<()> {
    let scores: [BenchmarkScores; 2] =
        [read_json(&first.join("scores.json"))?, read_json(&second.join("scores.json"))?];
    if scores[0].benchmark != scores[1].benchmark {
        bail!(Usage("the folders hold different benchmarks".into()));
    }
    let items: [Vec<EvalItem>; 2] = [read_items(first)?, read_items(second)?];
    let names = [first.display().to_string(), second.display().to_string()];
    let comparison =
        compare_items(scores[0].benchmark, (&names[0], &items[0]), (&names[1], &items[1]), &Resampling::default())?;
    if json { output::json(&comparison) } else { output::line(&comparison_table(&comparison)) }
}
