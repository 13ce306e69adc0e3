use std::collections::HashSet;

use crate::{DecoderConfig, LinearName, Parameter};

/// A model family. All share one decoder; what differs is which weights exist and how files speak of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Llama 2 and 3, `SmolLM2`, `TinyLlama`.
    Llama,
    /// Mistral 7B and its kin: Llama with a sliding window. GGUF files call it `llama`.
    Mistral,
    /// Qwen2 and Qwen2.5: queries, keys and values have biases.
    Qwen2,
    /// Qwen3: queries and keys are normalised, heads have a width of their own.
    Qwen3,
}

/// Whether a file must, may or must not hold a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    Optional,
    Absent,
}

impl Presence {
    /// What a yes or no in a configuration asks for.
    pub(crate) fn announced(yes: bool) -> Self {
        if yes { Self::Required } else { Self::Absent }
    }
}

/// Which linear layers have biases, in families that leave it to the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Biases {
    pub(crate) attention: Presence,
    pub(crate) feed_forward: Presence,
}

impl Architecture {
    /// All of them by their names in `config.json`.
    const NAMES: [(&'static str, Self); 4] =
        [("llama", Self::Llama), ("mistral", Self::Mistral), ("qwen2", Self::Qwen2), ("qwen3", Self::Qwen3)];

    /// The known names, for messages.
    pub(crate) const KNOWN: &'static str =
        "llama (SmolLM2 included), mistral (`llama` in GGUF files), qwen2 (Qwen2.5 included), qwen3";

    /// The family of a `model_type` in `config.json`.
    pub(crate) fn from_model_type(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, architecture)| *architecture)
    }

    /// The family of a `general.architecture` in GGUF, where Mistral models are `llama`.
    pub(crate) fn from_gguf(name: &str) -> Option<Self> {
        Self::from_model_type(name).filter(|architecture| *architecture != Self::Mistral)
    }

    /// The family's name, its `model_type` in `config.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// What GGUF calls the family, and begins its metadata keys with.
    pub(crate) fn gguf_name(self) -> &'static str {
        match self {
            Self::Mistral => Self::Llama.name(),
            family => family.name(),
        }
    }

    /// The class with which transformers loads the family.
    pub(crate) fn transformers_class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// Whether a model of this family has `parameter`.
    fn presence(self, parameter: Parameter, config: &DecoderConfig, biases: Biases) -> Presence {
        match parameter {
            Parameter::QueryNorm(_) | Parameter::KeyNorm(_) => Presence::announced(self == Self::Qwen3),
            Parameter::Bias(_, name) => self.bias(name, biases),
            // Some files repeat the embedding as the head.
            Parameter::Head if config.tie_word_embeddings => Presence::Optional,
            Parameter::LoraA(..) | Parameter::LoraB(..) => Presence::Absent,
            _ => Presence::Required,
        }
    }

    fn bias(self, name: LinearName, biases: Biases) -> Presence {
        let reads_the_input = matches!(name, LinearName::QProj | LinearName::KProj | LinearName::VProj);
        match self {
            Self::Qwen2 => Presence::announced(reads_the_input),
            Self::Mistral => Presence::Absent,
            Self::Llama | Self::Qwen3 => match name {
                LinearName::GateProj | LinearName::UpProj | LinearName::DownProj => biases.feed_forward,
                _ => biases.attention,
            },
        }
    }

    /// Compares the tensors in a file with those that a model of `config` has: what is missing would fail later, what
    /// is left over would change the model in silence. `name` is what the file calls a parameter.
    pub(crate) fn check_tensors<'a>(
        self,
        config: &DecoderConfig,
        biases: Biases,
        found: impl Iterator<Item = &'a str>,
        name: impl Fn(Parameter) -> String,
    ) -> Result<(), String> {
        let mut left: HashSet<&str> = found.collect();
        // Lazily: a damaged number of blocks ends at the first one that is missing.
        for parameter in parameters(config.num_hidden_layers) {
            let (name, presence) = (name(parameter), self.presence(parameter, config, biases));
            if presence != Presence::Absent && !left.remove(name.as_str()) && presence == Presence::Required {
                return Err(format!("tensor `{name}` is missing; fetch the model again"));
            }
        }
        match left.iter().min() {
            None => Ok(()),
            Some(name) => {
                let (family, others) = (self.name(), left.len() - 1);
                Err(format!(
                    "tensor `{name}` (and {others} more) has no place in a `{family}` model of this configuration; \
                     use an unmodified checkpoint of that family"
                ))
            }
        }
    }
}

/// Everything that a decoder of `layers` blocks can have.
fn parameters(layers: usize) -> impl Iterator<Item = Parameter> {
    let block = |layer: usize| {
        let norms = [Parameter::InputNorm, Parameter::QueryNorm, Parameter::KeyNorm, Parameter::PostAttentionNorm];
        let linears = LinearName::ALL.map(|name| [Parameter::Weight(layer, name), Parameter::Bias(layer, name)]);
        norms.into_iter().map(move |norm| norm(layer)).chain(linears.into_iter().flatten())
    };
    [Parameter::Embedding, Parameter::FinalNorm, Parameter::Head].into_iter().chain((0..layers).flat_map(block))
}
