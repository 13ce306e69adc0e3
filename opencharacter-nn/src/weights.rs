use std::path::Path;

use crate::{BlockFormat, DecoderConfig, LinearName, NnError, PackedMatrix, Parameter};

/// A weight as a file holds it, row-major `[outputs, inputs]` in the layout of Hugging Face models.
#[derive(Debug, Clone)]
pub enum WeightData {
    /// In f32, widened where the file held fewer bits.
    Floats(Vec<f32>),
    /// Quantised blocks, row after row.
    Blocks(BlockFormat, Vec<u8>),
}

impl WeightData {
    /// Lays the weight out for multiplication; nothing when it has not `outputs` x `inputs` elements in whole blocks.
    pub fn pack(&self, outputs: usize, inputs: usize) -> Option<PackedMatrix> {
        match self {
            Self::Floats(values) => {
                (values.len() == outputs * inputs).then(|| PackedMatrix::new(values, outputs, inputs))
            }
            Self::Blocks(format, bytes) => PackedMatrix::from_blocks(*format, bytes, outputs, inputs),
        }
    }
}

/// One of a block's vectors of norm weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormName {
    /// Before attention.
    Input,
    /// Of each query head (Qwen3).
    Query,
    /// Of each key head (Qwen3).
    Key,
    /// Before the feed-forward part.
    PostAttention,
}

impl NormName {
    /// The parameter that it is in block `layer`, with its length.
    pub(crate) fn parameter(self, layer: usize, config: &DecoderConfig) -> (Parameter, usize) {
        match self {
            Self::Input => (Parameter::InputNorm(layer), config.hidden_size),
            Self::Query => (Parameter::QueryNorm(layer), config.head_dim),
            Self::Key => (Parameter::KeyNorm(layer), config.head_dim),
            Self::PostAttention => (Parameter::PostAttentionNorm(layer), config.hidden_size),
        }
    }
}

/// A file, or a folder of files, that holds a decoder's weights.
pub trait WeightSource {
    /// Where the weights come from, for messages.
    fn path(&self) -> &Path;
    /// Refuses files that lack a tensor of the model, or hold one that it has no use for.
    fn check(&self, config: &DecoderConfig) -> Result<(), NnError>;
    /// `[vocab, hidden]`.
    fn embedding(&mut self, config: &DecoderConfig) -> Result<WeightData, NnError>;
    /// `[vocab, hidden]`; asked for only when the head is not tied.
    fn head(&mut self, config: &DecoderConfig) -> Result<WeightData, NnError>;
    /// `[hidden]`.
    fn final_norm(&mut self, config: &DecoderConfig) -> Result<Vec<f32>, NnError>;
    /// `[hidden]`, or `[head_dim]` for those of queries and keys, which most models lack.
    fn norm(&mut self, layer: usize, name: NormName, config: &DecoderConfig) -> Result<Option<Vec<f32>>, NnError>;
    /// A linear layer's weight, of [`LinearName::shape`].
    fn linear(&mut self, layer: usize, name: LinearName, config: &DecoderConfig) -> Result<WeightData, NnError>;
    /// Its bias, one value per output, where it has one.
    fn bias(&mut self, layer: usize, name: LinearName, config: &DecoderConfig) -> Result<Option<Vec<f32>>, NnError>;
}
