//! What every [`Generate`] must do, as checks that any of them can be put through.
//!
//! The tests of each implementation call [`examine`] and expect [`Report::passed`]. The checks ask a few dozen short
//! questions and judge what came; none knows which model answers, so none expects a certain text.

mod checks;

use std::{fmt, time::Duration};

use crate::{BoxFuture, Generate};

/// Waits for so long: the checks have no clock of their own.
pub type Sleep<'a> = &'a (dyn Fn(Duration) -> BoxFuture<'static, ()> + Sync);

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What must be so.
    pub checked: &'static str,
    /// What came; what was wrong with it, if anything.
    pub came: Result<String, String>,
}

/// What all checks found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// One per check.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether every check found what it should.
    pub fn passed(&self) -> bool {
        self.findings.iter().all(|finding| finding.came.is_ok())
    }

    /// The checks that did not find what they should.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.came.is_err())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.came {
            Ok(came) => write!(formatter, "passed: {}: {came}", self.checked),
            Err(came) => write!(formatter, "FAILED: {}: {came}", self.checked),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(formatter, "{finding}"))
    }
}

/// Puts a model through all checks, one after the other.
///
/// It must answer in 24 tokens with two different words or more, take longer than 50 ms for as many answers of 400
/// tokens as it has places, or for 100, and be free for the time of the checks.
pub async fn examine(model: &dyn Generate, sleep: Sleep<'_>) -> Report {
    let fingerprint = model.fingerprint().to_owned();
    let mut findings = vec![
        checks::temperature_zero(model).await,
        checks::seeds(model).await,
        checks::company(model).await,
        checks::most_tokens(model).await,
        checks::stop_strings(model).await,
        checks::streaming(model).await,
        checks::schema(model).await,
        checks::usage(model).await,
        checks::empty_conversation(model).await,
        checks::impossible_schema(model).await,
        checks::dropped_calls(model, sleep).await,
    ];
    findings.push(checks::fingerprint(model, &fingerprint));
    Report { findings }
}
