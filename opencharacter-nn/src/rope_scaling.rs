use std::f64::consts::TAU;

use serde_json::{Value, json};

/// How far two computations of the same factors are apart: llama.cpp's converter takes them in 32 bits.
const FACTOR_ROUNDING: f32 = 1e-5;

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

    /// The scaling behind `factors`, as far as it is one that `config.json` has a name for.
    ///
    /// Llama 3's has four numbers behind it, which the factors do not fix: stretching them all alike changes nothing.
    /// Those of Meta's models decide, which differ in the factor and, at most, in the original context.
    pub(crate) fn of_factors(factors: &[f32], head_dim: usize, theta: f64) -> Option<Self> {
        let Some(&first) = factors.first() else { return Some(Self::None) };
        if factors.iter().all(|&factor| factor == first) {
            return Some(Self::Linear { factor: shortest(first) });
        }
        let factor = shortest(factors.iter().copied().fold(first, f32::max));
        let llama_3 = |exponent| Self::Llama3 {
            factor,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 2_f64.powi(exponent),
        };
        (5..=20).map(llama_3).find(|scaling| same_factors(&scaling.factors(head_dim, theta), factors))
    }

    /// As `rope_scaling` of a `config.json`; null where there is none.
    pub(crate) fn to_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            Self::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_frequency_factor,
                "high_freq_factor": high_frequency_factor,
                "original_max_position_embeddings": original_context as u64,
            }),
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

/// Whether two lists are the same factors, up to how they were computed.
pub(crate) fn same_factors(left: &[f32], right: &[f32]) -> bool {
    let same = |(left, right): (&f32, &f32)| (left - right).abs() <= FACTOR_ROUNDING * right.abs();
    left.len() == right.len() && left.iter().zip(right).all(same)
}

/// The decimal that a person would write for `value`, which reads back as the same f32.
pub(crate) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_lead_back_to_what_made_them() {
        let llama_3 = |factor, high_frequency_factor, original_context| RopeScaling::Llama3 {
            factor,
            low_frequency_factor: 1.0,
            high_frequency_factor,
            original_context,
        };
        for (scaling, theta) in [
            (RopeScaling::None, 10_000.0),
            (RopeScaling::Linear { factor: 2.5 }, 10_000.0),
            (llama_3(8.0, 4.0, 8192.0), 500_000.0),
            (llama_3(32.0, 4.0, 8192.0), 500_000.0),
            (llama_3(8.0, 4.0, 128.0), 10_000.0),
        ] {
            let factors = scaling.factors(64, theta);
            assert_eq!(RopeScaling::of_factors(&factors, 64, theta), Some(scaling));
            assert_eq!(RopeScaling::from_json(&scaling.to_json()), Ok(scaling));
            // As they look after a computation in 32 bits.
            let rounded: Vec<f32> = factors.iter().map(|factor| factor * (1.0 + 1e-6)).collect();
            let found = RopeScaling::of_factors(&rounded, 64, theta).unwrap().factors(64, theta);
            assert!(same_factors(&found, &factors), "{scaling:?}: {found:?}");
        }
        let unusual = llama_3(8.0, 7.0, 8192.0).factors(64, 500_000.0);
        assert_eq!(RopeScaling::of_factors(&unusual, 64, 500_000.0), None);
    }
}
