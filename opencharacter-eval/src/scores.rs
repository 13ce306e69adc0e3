use opencharacter_core::Sampling;
use serde::{Deserialize, Serialize};

use crate::{
    MeasureKind, Unit,
    statistics::{Difference, Estimate},
};

/// Everything an evaluation found: `scores.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Version of this layout: 1.
    pub format: u32,
    /// Fingerprint of the base model, which is also the scorer of identification.
    pub base_model: String,
    /// Fingerprint of the tuned model.
    pub tuned_model: String,
    /// The evaluation's seed.
    pub seed: u64,
    /// How both models answered; its seed is replaced item by item.
    pub sampling: Sampling,
    /// Wrong profiles beside the right one in identification.
    pub distractors: usize,
    /// Hash of the system prompt's template.
    pub system_prompt_hash: String,
    /// Bootstrap resamples behind each interval.
    pub resamples: usize,
    /// Held-out characters.
    pub characters: usize,
    /// Held-out instructions.
    pub instructions: usize,
    /// The measures, in the report's order.
    pub measures: Vec<Measure>,
    /// Both models' answers, in the order of characters, then instructions.
    pub answers: Vec<AnswerRow>,
    /// The reference dialogues' likelihoods.
    pub references: Vec<ReferenceRow>,
    /// Every value that could not be had, and why.
    pub missing: Vec<Missing>,
}

impl Scores {
    /// The measure of this kind, if it was made.
    pub fn measure(&self, kind: MeasureKind) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.name == kind)
    }
}

/// One measure for both models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Which one.
    pub name: MeasureKind,
    /// What its values count.
    pub unit: Unit,
    /// `None` where neither direction is better.
    pub higher_is_better: Option<bool>,
    /// What guessing reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// The base model's value; `None` when every item is missing.
    pub base: Option<Estimate>,
    /// The tuned model's value.
    pub tuned: Option<Estimate>,
    /// Tuned minus base, on the items that both have.
    pub difference: Option<Difference>,
    /// Items without a value of the base model.
    pub missing_base: usize,
    /// Items without a value of the tuned model.
    pub missing_tuned: usize,
}

/// One question to one held-out character, and what both models said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Follows from character and instruction.
    pub item_id: String,
    /// Who was asked.
    pub character_id: String,
    /// The character's name, for readers.
    pub character_name: String,
    /// What was asked.
    pub instruction_id: String,
    /// Its words.
    pub question: String,
    /// The base model's answer; `None` where it has none (see [`Scores::missing`]).
    pub base: Option<ModelAnswer>,
    /// The tuned model's answer.
    pub tuned: Option<ModelAnswer>,
}

/// One model's answer with what was measured on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelAnswer {
    /// The answer.
    pub text: String,
    /// Whether the token limit ended it.
    pub cut_off: bool,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// Words of the answer.
    pub words: usize,
    /// Phrases that break character.
    pub broken_character: Vec<String>,
    /// Who the scorer thinks wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identification: Option<Identification>,
    /// The same with all characters' names masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identification_without_names: Option<Identification>,
}

/// An answer under several profiles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identification {
    /// The right profile first, then the distractors.
    pub candidates: Vec<Candidate>,
    /// Tokens of the answer as the scorer counts them.
    pub tokens: usize,
    /// 1 where the right profile is the likeliest, 0 where another is, 1/k where k are equally so.
    pub credit: f64,
    /// Nats per token by which the right profile leads the best distractor; negative where it trails.
    pub margin: f64,
}

impl Identification {
    /// The verdict over `candidates`, the right one first. Ties share the credit, so that a scorer which sees no
    /// difference is at chance.
    pub fn new(candidates: Vec<Candidate>, tokens: usize) -> Self {
        let right = candidates.first().map_or(0.0, |candidate| candidate.log_prob);
        let others = || candidates.iter().skip(1).map(|candidate| candidate.log_prob);
        let best_other = others().max_by(f64::total_cmp).unwrap_or(right);
        let ties = others().filter(|other| other.total_cmp(&right).is_eq()).count();
        let credit = if right >= best_other { 1.0 / (ties + 1) as f64 } else { 0.0 };
        let margin = (right - best_other) / tokens.max(1) as f64;
        Self { candidates, tokens, credit, margin }
    }
}

/// An answer's log-probability under one profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Whose profile.
    pub character_id: String,
    /// Sum over the answer's tokens, in nats.
    pub log_prob: f64,
}

/// A reference dialogue's likelihood under both models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceRow {
    /// The dialogue.
    pub dialogue_id: String,
    /// Its character; empty where it has none.
    pub character_id: String,
    /// Assistant tokens scored by the base model.
    pub tokens: Option<usize>,
    /// Mean negative log-likelihood per assistant token, base model, nats.
    pub base_nll: Option<f64>,
    /// The same, tuned model.
    pub tuned_nll: Option<f64>,
}

/// A value that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What was being done.
    pub stage: String,
    /// For which item or dialogue.
    pub item_id: String,
    /// Why it failed.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identify(log_probs: &[f64]) -> Identification {
        let candidate = |&log_prob: &f64| Candidate { character_id: String::new(), log_prob };
        Identification::new(log_probs.iter().map(candidate).collect(), 10)
    }

    #[test]
    fn ties_share_the_credit() {
        assert!((identify(&[-1.0, -2.0, -3.0, -4.0]).credit - 1.0).abs() < 1e-12);
        assert!(identify(&[-2.0, -1.0, -3.0, -4.0]).credit.abs() < 1e-12);
        assert!((identify(&[-1.0; 4]).credit - 0.25).abs() < 1e-12);
        assert!((identify(&[-2.0, -1.0, -3.0]).margin + 0.1).abs() < 1e-12);
    }
}
