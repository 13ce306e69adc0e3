//! `--dry-run`: what the whole would take, from a small sample.

use anyhow::Result;
use opencharacter_synth::{Summary, Work};
use serde::Serialize;

use crate::{output, progress::seconds};

/// What the whole of a stage would take. The sample's calls are in the ledger: the run itself does not repeat them.
#[derive(Debug, Serialize)]
pub struct Estimate {
    /// Items of the sample.
    sampled_items: usize,
    /// Rows that came of them.
    sampled_rows: usize,
    /// Rows that are wanted.
    rows: usize,
    calls: usize,
    prompt_tokens: usize,
    completion_tokens: usize,
    /// By the recipe's prices; 0 where it states none.
    cost: f64,
    /// With as many calls in flight as the model takes, each as long as in the sample.
    seconds: f64,
}

impl Estimate {
    /// Items that are tried.
    pub const SAMPLE: usize = 24;

    /// From what a stage made of its sample, for `rows` rows.
    pub fn new(stage: &str, work: Work<'_>, made: &Summary, rows: usize) -> Self {
        let report = work.model.ledger.report();
        let session = report.session.get(stage).copied().unwrap_or_default();
        // Answers that were there already cost nothing now, and would have cost as much as the others.
        let total = report.total.get(stage).copied().unwrap_or_default();
        let per_call = |sum: f64| sum / total.calls_made.max(1) as f64;
        let sampled_items = made.accepted + made.rejected;
        let calls_per_row = (session.calls_made + session.calls_reused) as f64 / made.accepted.max(1) as f64;
        let calls = calls_per_row * rows as f64;
        let (prompt, completion) = (
            (calls * per_call(total.prompt_tokens as f64)) as usize,
            (calls * per_call(total.completion_tokens as f64)) as usize,
        );
        Self {
            sampled_items,
            sampled_rows: made.accepted,
            rows,
            calls: calls as usize,
            prompt_tokens: prompt,
            completion_tokens: completion,
            cost: work.budget.prices.cost(prompt, completion),
            seconds: calls * per_call(total.seconds) / work.model.model.concurrency().max(1) as f64,
        }
    }

    /// For a person, or as one JSON document.
    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            return output::json(self);
        }
        let cost = if self.cost > 0.0 { format!(", {:.2} in money", self.cost) } else { String::new() };
        output::line(&format!(
            "from {} items, of which {} became rows: {} rows take about {} calls, {} tokens of prompts and {} of \
             answers{cost}, {} with the calls in flight that the model takes",
            self.sampled_items,
            self.sampled_rows,
            self.rows,
            self.calls,
            self.prompt_tokens,
            self.completion_tokens,
            seconds(self.seconds),
        ))
    }
}
