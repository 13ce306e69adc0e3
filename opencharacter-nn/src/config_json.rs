//! A Hugging Face model's `config.json`, as the decoder understands it.

use std::path::Path;

use serde_json::Value;

use crate::{
    DecoderConfig, NnError,
    architecture::{Architecture, Biases, Presence},
    rope_scaling::RopeScaling,
};

/// A parsed `config.json`.
#[derive(Debug, Clone)]
pub(crate) struct ConfigJson {
    pub(crate) architecture: Architecture,
    pub(crate) biases: Biases,
    pub(crate) decoder: DecoderConfig,
}

impl ConfigJson {
    /// Reads the configuration; `path` is for messages.
    pub(crate) fn parse(json: &Value, path: &Path) -> Result<Self, NnError> {
        let name = json["model_type"].as_str().unwrap_or("(none)");
        let architecture = Architecture::from_model_type(name).ok_or_else(|| NnError::UnknownArchitecture {
            path: path.into(),
            architecture: name.to_owned(),
            known: Architecture::KNOWN,
        })?;
        let malformed = |reason| NnError::Malformed { path: path.into(), reason };
        refuse_unsupported(json).map_err(malformed)?;
        let decoder = decoder_config(json, architecture).map_err(malformed)?;
        decoder.validate().map_err(malformed)?;
        let announced = |key: &str| Presence::announced(json[key] == true);
        let biases = Biases { attention: announced("attention_bias"), feed_forward: announced("mlp_bias") };
        Ok(Self { architecture, biases, decoder })
    }
}

/// Settings that would change the model without changing the names or shapes of its tensors.
fn refuse_unsupported(json: &Value) -> Result<(), String> {
    if let Some(activation) = json["hidden_act"].as_str().filter(|name| *name != "silu") {
        return Err(format!("`hidden_act` is `{activation}`; only `silu` is implemented"));
    }
    if json["partial_rotary_factor"].as_f64().is_some_and(|share| share != 1.0) {
        return Err("`partial_rotary_factor` is not 1; rotating a part of each head is not implemented".into());
    }
    if let Some(kind) = json["quantization_config"]["quant_method"].as_str() {
        return Err(format!(
            "its weights are quantised by `{kind}`, which is not implemented; use the unquantised model or a GGUF file"
        ));
    }
    Ok(())
}

fn decoder_config(json: &Value, architecture: Architecture) -> Result<DecoderConfig, String> {
    let hidden_size = integer(json, "hidden_size")?;
    let num_attention_heads = integer(json, "num_attention_heads")?;
    let head_dim = match (optional_integer(json, "head_dim")?, architecture) {
        (Some(width), _) => width,
        // What transformers takes where the file is silent.
        (None, Architecture::Qwen3) => 128,
        (None, _) => hidden_size / num_attention_heads.max(1),
    };
    let num_hidden_layers = integer(json, "num_hidden_layers")?;
    let (rope_theta, scaling) = rope(json)?;
    Ok(DecoderConfig {
        vocab_size: integer(json, "vocab_size")?,
        hidden_size,
        intermediate_size: integer(json, "intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: optional_integer(json, "num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim,
        rope_theta: rope_theta as f32,
        rope_factors: scaling.factors(head_dim, rope_theta),
        sliding_window: sliding_window(json, architecture, num_hidden_layers)?,
        rms_norm_eps: json["rms_norm_eps"].as_f64().ok_or("`rms_norm_eps` is missing or no number")? as f32,
        max_position_embeddings: integer(json, "max_position_embeddings")?,
        tie_word_embeddings: json["tie_word_embeddings"].as_bool().unwrap_or(false),
    })
}

fn integer(json: &Value, key: &str) -> Result<usize, String> {
    optional_integer(json, key)?.ok_or_else(|| format!("`{key}` is missing"))
}

fn optional_integer(json: &Value, key: &str) -> Result<Option<usize>, String> {
    match &json[key] {
        Value::Null => Ok(None),
        value => {
            let number = value.as_u64().and_then(|value| usize::try_from(value).ok());
            number.map(Some).ok_or_else(|| format!("`{key}` is {value}, expected a whole number"))
        }
    }
}

/// Base and scaling of the rotary embedding. Since version 5, transformers writes `rope_parameters`; before,
/// `rope_theta` and, where there was scaling, `rope_scaling`.
fn rope(json: &Value) -> Result<(f64, RopeScaling), String> {
    let settings = if json["rope_parameters"].is_object() { &json["rope_parameters"] } else { &json["rope_scaling"] };
    let theta = settings["rope_theta"].as_f64().or_else(|| json["rope_theta"].as_f64()).unwrap_or(10_000.0);
    Ok((theta, RopeScaling::from_json(settings)?))
}

/// The sliding window of all blocks. Qwen models can announce one that they do not use.
fn sliding_window(json: &Value, architecture: Architecture, layers: usize) -> Result<Option<usize>, String> {
    let window = optional_integer(json, "sliding_window")?;
    let Some(window) = window else { return Ok(None) };
    let windowed = match architecture {
        Architecture::Llama => 0,
        Architecture::Mistral => layers,
        Architecture::Qwen2 | Architecture::Qwen3 if json["use_sliding_window"] != true => 0,
        Architecture::Qwen2 | Architecture::Qwen3 => match json["layer_types"].as_array() {
            Some(types) => types.iter().filter(|kind| *kind == "sliding_attention").count(),
            None => layers.saturating_sub(optional_integer(json, "max_window_layers")?.unwrap_or(layers)),
        },
    };
    match windowed {
        0 => Ok(None),
        all if all == layers => Ok(Some(window)),
        some => Err(format!(
            "{some} of its {layers} blocks have a sliding window; blocks that differ in it are not implemented. For \
             sequences within the window of {window} tokens, `use_sliding_window` can be set to false"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(changes: &Value) -> Result<DecoderConfig, String> {
        let mut config = json!({
            "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 256,
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let parsed = ConfigJson::parse(&config, Path::new("config.json"));
        parsed.map(|parsed| parsed.decoder).map_err(|error| error.to_string())
    }

    #[test]
    fn every_spelling_of_rope_settings_gives_the_frequencies_of_transformers() {
        let fixture: Value = serde_json::from_str(include_str!("../tests/data/rope_scaling.json")).unwrap();
        let cases = fixture.as_array().unwrap();
        assert_eq!(cases.len(), 9);
        for case in cases {
            let config = parse(&case["config"]).unwrap();
            let found = crate::ops::RotaryFrequencies::new(config.head_dim, config.rope_theta, &config.rope_factors);
            let expected: Vec<f64> =
                case["frequencies"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
            assert_eq!(found.as_slice().len(), expected.len());
            for (found, expected) in found.as_slice().iter().zip(expected) {
                let error = (f64::from(*found) - expected).abs() / expected;
                assert!(error < 1e-6, "{}: {found} against {expected}", case["config"]);
            }
        }
    }

    #[test]
    fn windows_count_only_where_they_are_used() {
        let window = |changes: Value| parse(&changes).map(|config| config.sliding_window);
        assert_eq!(window(json!({"model_type": "mistral", "sliding_window": 8})), Ok(Some(8)));
        assert_eq!(window(json!({"model_type": "mistral", "sliding_window": null})), Ok(None));
        let qwen = |used: bool, first: usize| {
            window(json!({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": used,
                          "max_window_layers": first}))
        };
        assert_eq!(qwen(false, 0), Ok(None));
        assert_eq!(qwen(true, 0), Ok(Some(8)));
        assert_eq!(qwen(true, 2), Ok(None));
        assert!(qwen(true, 1).unwrap_err().contains("1 of its 2 blocks"));
        let types = json!(["full_attention", "sliding_attention"]);
        let mixed = json!({"model_type": "qwen3", "head_dim": 8, "sliding_window": 8, "use_sliding_window": true,
                           "layer_types": types});
        assert!(window(mixed).unwrap_err().contains("1 of its 2 blocks"));
    }

    #[test]
    fn what_would_change_the_model_in_silence_is_refused() {
        for (changes, part) in [
            (json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}), "`yarn` is not implemented; known: default"),
            (json!({"rope_parameters": {"rope_type": "dynamic"}}), "`dynamic`"),
            (json!({"rope_scaling": {"rope_type": "longrope", "type": "linear"}}), "`longrope`"),
            (json!({"rope_scaling": {"rope_type": "linear"}}), "`factor` is missing"),
            (json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}), "`low_freq_factor` is missing"),
            (json!({"hidden_act": "gelu"}), "`hidden_act` is `gelu`"),
            (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor`"),
            (json!({"quantization_config": {"quant_method": "awq"}}), "`awq`"),
            (json!({"head_dim": "eight"}), "`head_dim` is \"eight\""),
            (json!({"model_type": "gemma"}), "unknown architecture `gemma`; known: llama"),
        ] {
            let error = parse(&changes).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
