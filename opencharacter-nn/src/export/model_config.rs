//! `config.json` from a decoder's shape, for a model that came from a GGUF file.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::{Export, folder::torch_type, turn_end};
use crate::{
    LinearName, NnError, Parameter,
    architecture::Architecture,
    rope_scaling::{RopeScaling, shortest},
};

const ATTENTION: [LinearName; 4] = [LinearName::QProj, LinearName::KProj, LinearName::VProj, LinearName::OProj];
const FEED_FORWARD: [LinearName; 3] = [LinearName::GateProj, LinearName::UpProj, LinearName::DownProj];

/// The place for further architectures: what a family has beyond plain Llama models is a branch of `family_fields`,
/// and what is not written there must be refused there.
pub(super) fn model_config(export: &Export<'_>, out: &Path) -> Result<Json, NnError> {
    let config = export.decoder.config();
    let architecture = match export.architecture()? {
        // GGUF has one name for both.
        Architecture::Llama if config.sliding_window.is_some() => Architecture::Mistral,
        other => other,
    };
    let theta = shortest(config.rope_theta);
    let scaling = RopeScaling::of_factors(&config.rope_factors, config.head_dim, theta).ok_or_else(|| {
        let reason = "its factors of RoPE scaling are neither linear nor those of Llama 3.1 and later, and \
                      `config.json` has no place for others; export from its folder";
        export.refusal(out, reason)
    })?;
    let mut json = json!({
        "architectures": [architecture.transformers_class()],
        "model_type": architecture.name(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": shortest(config.rms_norm_eps),
        // As transformers spelled them before version 5, which still reads this.
        "rope_theta": theta,
        "rope_scaling": scaling.to_json(),
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": export.model.tokenizer.begin_of_text(),
        "eos_token_id": turn_end(export.model),
        "torch_dtype": torch_type(export.weight_type),
        "use_cache": true,
    });
    let own = family_fields(export, architecture).map_err(|reason| export.refusal(out, &reason))?;
    json.as_object_mut().into_iter().for_each(|fields| fields.extend(own.clone()));
    Ok(json)
}

/// What only this family's configuration says.
fn family_fields(export: &Export<'_>, architecture: Architecture) -> Result<Map<String, Json>, String> {
    let window = export.decoder.config().sliding_window;
    let fields = match architecture {
        Architecture::Llama => json!({
            "attention_bias": has_biases(export, &ATTENTION)?,
            "mlp_bias": has_biases(export, &FEED_FORWARD)?,
        }),
        Architecture::Mistral => {
            without_biases(export, &LinearName::ALL)?;
            json!({ "sliding_window": window })
        }
        Architecture::Qwen2 => with_window(json!({}), window),
        Architecture::Qwen3 => {
            without_biases(export, &FEED_FORWARD)?;
            with_window(json!({ "attention_bias": has_biases(export, &ATTENTION)? }), window)
        }
    };
    Ok(fields.as_object().cloned().unwrap_or_default())
}

/// Qwen's way to say that all blocks have the window, or none.
fn with_window(mut fields: Json, window: Option<usize>) -> Json {
    fields["use_sliding_window"] = window.is_some().into();
    fields["sliding_window"] = window.into();
    if window.is_some() {
        fields["max_window_layers"] = 0.into();
    }
    fields
}

/// Whether these layers have biases. `config.json` says it for all of them at once.
fn has_biases(export: &Export<'_>, names: &[LinearName]) -> Result<bool, String> {
    let biased =
        |(parameter, _): &(Parameter, _)| matches!(parameter, Parameter::Bias(_, name) if names.contains(name));
    let found = export.decoder.weights().iter().filter(|weight| biased(weight)).count();
    let all = export.decoder.config().num_hidden_layers * names.len();
    match found {
        0 => Ok(false),
        found if found == all => Ok(true),
        found => Err(format!(
            "{found} of its {all} layers `{}` have biases, and `config.json` can only say all or none; export from its \
             folder",
            names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join("`, `")
        )),
    }
}

fn without_biases(export: &Export<'_>, names: &[LinearName]) -> Result<(), String> {
    if has_biases(export, names)? {
        return Err("it has biases, for which transformers' models of its family have no place".into());
    }
    Ok(())
}
