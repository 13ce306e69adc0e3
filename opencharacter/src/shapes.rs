//! Shapes of well-known models, for benchmarks that need no model file.

use anyhow::Result;
use clap::ValueEnum;
use opencharacter_nn::{Decoder, DecoderConfig, LinearName, RandomWeights};

/// A model's shape, without its weights.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shape {
    /// SmolLM2-135M
    #[value(name = "smollm2-135m")]
    SmolLm2,
    /// Qwen2.5-0.5B
    #[value(name = "qwen2.5-0.5b")]
    QwenHalf,
    /// Qwen2.5-1.5B
    #[value(name = "qwen2.5-1.5b")]
    QwenOneAndAHalf,
}

impl Shape {
    /// A model of this shape with random weights.
    pub fn decoder(self) -> Result<Decoder> {
        let biases: &[LinearName] = match self {
            Self::SmolLm2 => &[],
            Self::QwenHalf | Self::QwenOneAndAHalf => &[LinearName::QProj, LinearName::KProj, LinearName::VProj],
        };
        Ok(Decoder::load(self.config(), &mut RandomWeights::new(0, biases, false))?)
    }

    /// As it is called on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn config(self) -> DecoderConfig {
        let smol_lm2 = DecoderConfig {
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1_536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            rope_theta: 100_000.0,
            rope_factors: Vec::new(),
            sliding_window: None,
            rms_norm_eps: 1e-5,
            max_position_embeddings: 8_192,
            tie_word_embeddings: true,
        };
        let qwen_half = DecoderConfig {
            vocab_size: 151_936,
            hidden_size: 896,
            intermediate_size: 4_864,
            num_hidden_layers: 24,
            num_attention_heads: 14,
            num_key_value_heads: 2,
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            max_position_embeddings: 32_768,
            ..smol_lm2.clone()
        };
        match self {
            Self::SmolLm2 => smol_lm2,
            Self::QwenHalf => qwen_half,
            Self::QwenOneAndAHalf => DecoderConfig {
                hidden_size: 1_536,
                intermediate_size: 8_960,
                num_hidden_layers: 28,
                num_attention_heads: 12,
                head_dim: 128,
                ..qwen_half
            },
        }
    }
}
