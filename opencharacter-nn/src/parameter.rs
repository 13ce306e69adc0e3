use std::collections::BTreeMap;

use crate::{LinearName, team};

/// Elements per parallel task of [`Gradients::clear`].
const CLEARED: usize = 262_144;

/// Something that can be trained, in the order in which it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parameter {
    /// The token embedding, and the head where it is tied.
    Embedding,
    /// The norm before attention.
    InputNorm(usize),
    /// The norm of each query head.
    QueryNorm(usize),
    /// The norm of each key head.
    KeyNorm(usize),
    /// The norm before the feed-forward part.
    PostAttentionNorm(usize),
    /// A linear layer's weight.
    Weight(usize, LinearName),
    /// A linear layer's bias.
    Bias(usize, LinearName),
    /// The norm before the head.
    FinalNorm,
    /// A head of its own.
    Head,
    /// An adapter's first factor, `[rank, inputs]`.
    LoraA(usize, LinearName),
    /// An adapter's second factor, `[outputs, rank]`.
    LoraB(usize, LinearName),
}

impl Parameter {
    /// Its name in Hugging Face models, or in PEFT adapters.
    pub fn name(self) -> String {
        let linear = |layer: usize, name: LinearName| format!("layers.{layer}.{}.{}", name.module(), name.as_str());
        match self {
            Self::Embedding => "model.embed_tokens.weight".into(),
            Self::InputNorm(layer) => format!("model.layers.{layer}.input_layernorm.weight"),
            Self::QueryNorm(layer) => format!("model.layers.{layer}.self_attn.q_norm.weight"),
            Self::KeyNorm(layer) => format!("model.layers.{layer}.self_attn.k_norm.weight"),
            Self::PostAttentionNorm(layer) => format!("model.layers.{layer}.post_attention_layernorm.weight"),
            Self::Weight(layer, name) => format!("model.{}.weight", linear(layer, name)),
            Self::Bias(layer, name) => format!("model.{}.bias", linear(layer, name)),
            Self::FinalNorm => "model.norm.weight".into(),
            Self::Head => "lm_head.weight".into(),
            Self::LoraA(layer, name) => format!("base_model.model.model.{}.lora_A.weight", linear(layer, name)),
            Self::LoraB(layer, name) => format!("base_model.model.model.{}.lora_B.weight", linear(layer, name)),
        }
    }

    /// Whether weight decay applies: to matrices, not to norms and biases.
    pub fn decays(self) -> bool {
        match self {
            Self::Embedding | Self::Weight(..) | Self::Head | Self::LoraA(..) | Self::LoraB(..) => true,
            Self::InputNorm(_)
            | Self::QueryNorm(_)
            | Self::KeyNorm(_)
            | Self::PostAttentionNorm(_)
            | Self::Bias(..)
            | Self::FinalNorm => false,
        }
    }
}

/// Gradients of what is trained; a parameter that is not in here is frozen. Each has its parameter's own layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients(BTreeMap<Parameter, Vec<f32>>);

impl Gradients {
    /// Zeros for parameters of the given lengths.
    pub fn zeros(parameters: impl IntoIterator<Item = (Parameter, usize)>) -> Self {
        Self(parameters.into_iter().map(|(parameter, length)| (parameter, vec![0.0; length])).collect())
    }

    /// Sets all of them to zero.
    pub fn clear(&mut self) {
        for values in self.0.values_mut() {
            team::for_each_chunk(values, CLEARED, |_, values| values.fill(0.0));
        }
    }

    /// Each parameter with its gradient, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Parameter, &[f32])> {
        self.0.iter().map(|(&parameter, values)| (parameter, values.as_slice()))
    }

    /// The gradient of one parameter, if that is trained.
    pub fn get(&self, parameter: Parameter) -> Option<&[f32]> {
        self.0.get(&parameter).map(Vec::as_slice)
    }

    /// The gradient of one parameter, to be added to, if that is trained.
    pub(crate) fn get_mut(&mut self, parameter: Parameter) -> Option<&mut [f32]> {
        self.0.get_mut(&parameter).map(Vec::as_mut_slice)
    }

    /// The gradients of several parameters, each if that is trained.
    pub(crate) fn several_mut(&mut self, wanted: &[Parameter]) -> Vec<Option<&mut [f32]>> {
        let mut found: Vec<Option<&mut [f32]>> = wanted.iter().map(|_| None).collect();
        for (parameter, values) in &mut self.0 {
            if let Some(place) = wanted.iter().position(|wanted| wanted == parameter) {
                found[place] = Some(values.as_mut_slice());
            }
        }
        found
    }
}
