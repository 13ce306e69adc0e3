use std::path::Path;

use crate::{DecoderConfig, LinearName, NnError};

/// A file, or a folder of files, that holds a decoder's weights. All results are row-major `[outputs, inputs]` in
/// f32, in the layout of Hugging Face models.
pub trait WeightSource {
    /// Where the weights come from, for messages.
    fn path(&self) -> &Path;
    /// `[vocab, hidden]`.
    fn embedding(&mut self, config: &DecoderConfig) -> Result<Vec<f32>, NnError>;
    /// `[vocab, hidden]`; asked for only when the head is not tied.
    fn head(&mut self, config: &DecoderConfig) -> Result<Vec<f32>, NnError>;
    /// `[hidden]`.
    fn final_norm(&mut self, config: &DecoderConfig) -> Result<Vec<f32>, NnError>;
    /// `[hidden]`: the norm before attention.
    fn input_norm(&mut self, layer: usize, config: &DecoderConfig) -> Result<Vec<f32>, NnError>;
    /// `[hidden]`: the norm before the feed-forward part.
    fn post_attention_norm(&mut self, layer: usize, config: &DecoderConfig) -> Result<Vec<f32>, NnError>;
    /// A linear layer's weight, of [`LinearName::shape`].
    fn linear(&mut self, layer: usize, name: LinearName, config: &DecoderConfig) -> Result<Vec<f32>, NnError>;
}
