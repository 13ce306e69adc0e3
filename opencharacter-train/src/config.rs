use opencharacter_nn::LoraConfig;
use serde::{Deserialize, Serialize};

use crate::{ProfileDropout, Schedule, TrainError};

/// What is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A low-rank adapter on frozen weights.
    #[default]
    Lora,
    /// Every weight.
    Full,
}

/// Settings of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the examples.
    pub epochs: usize,
    /// Tokens in one packed batch.
    pub pack_tokens: usize,
    /// Packed batches in one step (gradient accumulation).
    pub packs_per_step: usize,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// How it falls.
    pub schedule: Schedule,
    /// Share of all steps in which it rises.
    pub warmup: f64,
    /// Decay of the two moments.
    pub betas: (f64, f64),
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient's norm is cut to this.
    pub max_gradient_norm: f64,
    /// What is trained.
    pub method: Method,
    /// The adapter, where one is trained.
    pub lora: LoraConfig,
    /// Noise on the embeddings while training (`NEFTune`, Jain et al., 2023): uniform up to
    /// `neftune_alpha / sqrt(tokens * hidden)` of each sequence; 0 adds none.
    pub neftune_alpha: f32,
    /// How often a dialogue sees only a part of its character.
    pub profile_dropout: ProfileDropout,
    /// How far preference training may move from the model it starts from: DPO's beta; small is far.
    pub preference_beta: f64,
    /// Decides initial weights and order.
    pub seed: u64,
    /// Longer dialogues are left out and named.
    pub max_example_tokens: usize,
    /// Steps between two measurements of the held-out loss; 0 measures only before and after.
    pub held_out_every: usize,
    /// Steps between two checkpoints.
    pub checkpoint_every: usize,
    /// Compute blocks again on the way back instead of keeping their activations.
    pub recompute: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 2,
            pack_tokens: 1024,
            packs_per_step: 1,
            learning_rate: 5e-4,
            schedule: Schedule::Cosine,
            warmup: 0.1,
            // The paper's (section 2 of its appendix, secondary).
            betas: (0.9, 0.95),
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
            method: Method::Lora,
            lora: LoraConfig::default(),
            neftune_alpha: 0.0,
            profile_dropout: ProfileDropout::default(),
            preference_beta: 0.1,
            seed: 0,
            max_example_tokens: 1024,
            held_out_every: 20,
            checkpoint_every: 10,
            recompute: false,
        }
    }
}

impl TrainConfig {
    /// Checks that the settings make sense; the error names the first that does not.
    pub fn validate(&self) -> Result<(), TrainError> {
        let at_least_one = [
            ("epochs", self.epochs),
            ("pack_tokens", self.pack_tokens),
            ("packs_per_step", self.packs_per_step),
            ("checkpoint_every", self.checkpoint_every),
        ];
        if let Some((name, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(TrainError::Setting { name, reason: "must be at least 1".into() });
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(TrainError::Setting { name: "learning_rate", reason: "must be above 0".into() });
        }
        if !(0.0..1.0).contains(&self.warmup) {
            return Err(TrainError::Setting { name: "warmup", reason: "must be from 0 to below 1".into() });
        }
        if !(0.0..f32::INFINITY).contains(&self.neftune_alpha) {
            return Err(TrainError::Setting { name: "neftune_alpha", reason: "must be 0 or above".into() });
        }
        if !(self.preference_beta > 0.0 && self.preference_beta.is_finite()) {
            return Err(TrainError::Setting { name: "preference_beta", reason: "must be above 0".into() });
        }
        self.profile_dropout.validate().map_err(|(name, reason)| TrainError::Setting { name, reason })?;
        match self.method {
            Method::Lora => self.lora.validate().map_err(|(name, reason)| TrainError::Setting { name, reason }),
            Method::Full => Ok(()),
        }
    }
}
