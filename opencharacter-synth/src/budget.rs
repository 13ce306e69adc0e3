//! What a stage may use up.

use opencharacter_ledger::{Ledger, LedgerStats};
use serde::{Deserialize, Serialize};

/// Limits on tokens and money; [`Budget::default`] has none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Budget {
    /// Tokens read and written by all calls in the ledger, those of earlier sessions included.
    pub max_tokens: Option<usize>,
    /// The same in money.
    pub max_cost: Option<f64>,
    /// What tokens cost.
    pub prices: Prices,
}

/// Money per million tokens, in whatever currency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// For tokens of prompts.
    pub input: f64,
    /// For tokens generated.
    pub output: f64,
}

impl Prices {
    /// What so many tokens of prompts and answers cost.
    pub fn cost(self, prompt_tokens: usize, completion_tokens: usize) -> f64 {
        (prompt_tokens as f64 * self.input + completion_tokens as f64 * self.output) / 1e6
    }
}

/// Calls made, tokens used, and what they cost.
#[derive(Debug, Clone, Copy)]
struct Used {
    calls: usize,
    tokens: usize,
    cost: f64,
}

/// Compares what was used with the budget while a stage runs.
pub(crate) struct Meter {
    budget: Budget,
    stage: &'static str,
    /// In all stages and sessions before this stage's part of this session began.
    before: Used,
    /// In this stage's session before that.
    session_before: Used,
}

/// Items under way while nothing is known of what a call costs.
const FIRST: usize = 8;

impl Meter {
    pub(crate) fn new(budget: Budget, ledger: &Ledger, stage: &'static str) -> Self {
        let mut all = LedgerStats::default();
        for stats in ledger.report().total.values() {
            all.calls_made += stats.calls_made;
            all.prompt_tokens += stats.prompt_tokens;
            all.completion_tokens += stats.completion_tokens;
        }
        Self { budget, stage, before: used(budget, &all), session_before: used(budget, &ledger.session(stage)) }
    }

    /// The limit, in words, that another item beside those `running` might exceed, if each of them takes one more call
    /// and a call costs what calls have cost so far.
    pub(crate) fn reached(&self, ledger: &Ledger, running: usize) -> Option<String> {
        let Budget { max_tokens, max_cost, .. } = self.budget;
        if max_tokens.is_none() && max_cost.is_none() {
            return None;
        }
        let session = used(self.budget, &ledger.session(self.stage));
        let calls = self.before.calls + session.calls - self.session_before.calls;
        let tokens = self.before.tokens + session.tokens - self.session_before.tokens;
        let cost = self.before.cost + session.cost - self.session_before.cost;
        if calls == 0 {
            return (running >= FIRST).then(|| "the first calls".to_owned());
        }
        let expected = |used: f64| used * (1.0 + running as f64 / calls as f64);
        if let Some(most) = max_tokens.filter(|&most| expected(tokens as f64) >= most as f64) {
            return Some(format!("the limit of {most} tokens"));
        }
        max_cost.filter(|&most| expected(cost) >= most).map(|most| format!("the limit of {most} in cost"))
    }
}

fn used(budget: Budget, stats: &LedgerStats) -> Used {
    let LedgerStats { calls_made, prompt_tokens, completion_tokens, .. } = *stats;
    let cost = budget.prices.cost(prompt_tokens, completion_tokens);
    Used { calls: calls_made, tokens: prompt_tokens + completion_tokens, cost }
}
