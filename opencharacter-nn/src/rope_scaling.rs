use std::f64::consts::TAU;

use serde_json::Value;

/// How the rotary embedding's frequencies are changed for contexts longer than the model was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RopeScaling {
    None,
    /// All frequencies are divided by one factor.
    Linear {
        factor: f64,
    },
    /// Llama 3.1's: only waves that are long against the original context are stretched, with a smooth passage.
    Llama3 {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        original_context: f64,
    },
}

impl RopeScaling {
    /// The scaling that `rope_scaling` or `rope_parameters` of a `config.json` describes.
    pub(crate) fn from_json(json: &Value) -> Result<Self, String> {
        let number = |key: &str| {
            let value = json[key].as_f64().filter(|value| value.is_finite() && *value > 0.0);
            value.ok_or_else(|| format!("RoPE scaling: `{key}` is missing or no positive number"))
        };
        // Older files say `type`.
        match json["rope_type"].as_str().or_else(|| json["type"].as_str()).unwrap_or("default") {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: number("factor")? }),
            "llama3" => Ok(Self::Llama3 {
                factor: number("factor")?,
                low_frequency_factor: number("low_freq_factor")?,
                high_frequency_factor: number("high_freq_factor")?,
                original_context: number("original_max_position_embeddings")?,
            }),
            other => Err(Self::unknown(other)),
        }
    }

    /// What to say of a kind that is not implemented.
    pub(crate) fn unknown(kind: &str) -> String {
        format!(
            "RoPE scaling `{kind}` is not implemented; known: default, linear, llama3. Where the model was not trained \
             with it, set it to `default` and stay within the original context"
        )
    }

    /// What each of the `head_dim / 2` frequencies is divided by; empty where there is no scaling.
    pub(crate) fn factors(self, head_dim: usize, theta: f64) -> Vec<f32> {
        let pairs = 0..head_dim / 2;
        match self {
            Self::None => Vec::new(),
            Self::Linear { factor } => pairs.map(|_| factor as f32).collect(),
            Self::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => pairs
                .map(|pair| {
                    let wave = TAU * theta.powf((2 * pair) as f64 / head_dim as f64);
                    // How often the wave fits into the original context: often is kept, seldom is stretched.
                    let turns = original_context / wave;
                    let kept = (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
                    let kept = if turns > high_frequency_factor {
                        1.0
                    } else if turns < low_frequency_factor {
                        0.0
                    } else {
                        kept
                    };
                    (1.0 / ((1.0 - kept) / factor + kept)) as f32
                })
                .collect(),
        }
    }
}
