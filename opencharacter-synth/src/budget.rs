//! What a stage may use up.

use opencharacter_ledger::Ledger;
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

/// Tokens used, and what they cost.
#[derive(Debug, Clone, Copy)]
struct Used {
    tokens: usize,
    cost: f64,
}

/// Compares what was used with the budget while a stage runs.
pub(crate) struct Meter {
    budget: Budget,
    stage: &'static str,
    /// By all stages before this one began.
    before: Used,
    /// By this stage's session before it began.
    session_before: Used,
}

impl Meter {
    pub(crate) fn new(budget: Budget, ledger: &Ledger, stage: &'static str) -> Self {
        let total = ledger.report().total;
        let prompt_tokens = total.values().map(|stats| stats.prompt_tokens).sum();
        let completion_tokens = total.values().map(|stats| stats.completion_tokens).sum();
        let before = used(budget, prompt_tokens, completion_tokens);
        Self { budget, stage, before, session_before: session(budget, ledger, stage) }
    }

    /// The limit, in words, that another item beside those under way would exceed, if they all cost what an item of
    /// this session cost so far.
    pub(crate) fn reached(&self, ledger: &Ledger, done: usize, running: usize) -> Option<String> {
        if self.budget.max_tokens.is_none() && self.budget.max_cost.is_none() {
            return None;
        }
        let session = session(self.budget, ledger, self.stage);
        let tokens = session.tokens - self.session_before.tokens;
        let cost = session.cost - self.session_before.cost;
        let expected = |value: f64| value * (1.0 + running as f64 / done.max(1) as f64);
        let all_tokens = self.before.tokens as f64 + expected(tokens as f64);
        let all_cost = self.before.cost + expected(cost);
        if let Some(most) = self.budget.max_tokens.filter(|&most| all_tokens >= most as f64) {
            return Some(format!("the limit of {most} tokens"));
        }
        self.budget.max_cost.filter(|&most| all_cost >= most).map(|most| format!("the limit of {most} in cost"))
    }
}

fn used(budget: Budget, prompt_tokens: usize, completion_tokens: usize) -> Used {
    Used { tokens: prompt_tokens + completion_tokens, cost: budget.prices.cost(prompt_tokens, completion_tokens) }
}

fn session(budget: Budget, ledger: &Ledger, stage: &str) -> Used {
    let stats = ledger.session(stage);
    used(budget, stats.prompt_tokens, stats.completion_tokens)
}
