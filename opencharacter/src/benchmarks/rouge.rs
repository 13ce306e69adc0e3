//! `eval rouge`.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use opencharacter_eval::best_rouge_l;
use serde::{Deserialize, Serialize};

use super::lines::{lines, place};
use crate::output;

/// `opencharacter eval rouge`
pub fn command(path: &Path, json: bool) -> Result<()> {
    #[derive(Deserialize)]
    struct Pair {
        prediction: String,
        references: Vec<String>,
    }
    #[derive(Serialize)]
    struct Score {
        rouge_l: f64,
    }
    for (number, line) in lines(path)? {
        let pair: Pair = serde_json::from_str(&line).with_context(|| {
            format!("{}: expected `prediction`, a text, and `references`, a list of texts", place(path, number))
        })?;
        let Some(rouge_l) = best_rouge_l(&pair.prediction, &pair.references) else {
            bail!("{}: `references` is empty", place(path, number));
        };
        if json { output::json(&Score { rouge_l })? } else { output::line(&format!("{rouge_l:.6}"))? }
    }
    Ok(())
}
