//! The report: one HTML page that needs nothing but itself.

mod chart;
pub(crate) mod html;
mod page;
mod scores_table;
pub(crate) mod text;

use opencharacter_core::Character;
use serde::{Deserialize, Serialize};

use crate::Scores;

pub use page::render_report;

/// Everything the report shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportInput {
    /// The page's title, such as the recipe's name.
    pub title: String,
    /// The scores.
    pub scores: Scores,
    /// The training's loss, in order of steps; may be empty.
    pub loss: Vec<LossPoint>,
    /// Cost by stage, in order.
    pub costs: Vec<StageCost>,
    /// The characters, held-out ones or all.
    pub characters: Vec<ReportCharacter>,
    /// How often synthesis rejected an answer, and why.
    pub rejections: Vec<RejectionCount>,
    /// The recipe as run.
    pub recipe: String,
    /// Fingerprints, hashes, seeds, sizes of splits, versions.
    pub provenance: Vec<ProvenanceEntry>,
}

/// The loss at one step of training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// Optimiser step, from 1; 0 is before training.
    pub step: u64,
    /// Trained tokens so far.
    pub tokens: u64,
    /// Mean loss of the step's batch, nats per trained token; `None` at step 0.
    pub train_loss: Option<f64>,
    /// Loss on held-out dialogues where it was measured at this step, nats per token.
    pub held_out_loss: Option<f64>,
}

/// What one stage cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageCost {
    /// The stage's name.
    pub stage: String,
    /// Calls made to a model.
    pub calls_made: u64,
    /// Calls that the ledger answered.
    pub calls_reused: u64,
    /// Tokens read by the calls made.
    pub prompt_tokens: u64,
    /// Tokens written by the calls made; for training, tokens trained on.
    pub completion_tokens: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// A character as the report shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportCharacter {
    /// The character.
    #[serde(flatten)]
    pub character: Character,
    /// Whether it was set apart before training.
    pub held_out: bool,
}

/// How often a stage rejected an answer for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionCount {
    /// The stage.
    pub stage: String,
    /// The reason.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// One line of provenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenanceEntry {
    /// What it is, such as `Seed`.
    pub label: String,
    /// Its value.
    pub value: String,
}
