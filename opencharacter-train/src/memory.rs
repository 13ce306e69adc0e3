//! How much memory a run will need, told before it starts instead of by the system's killer in the middle.

use opencharacter_nn::{Decoder, DecoderConfig, LinearName, LoraConfig, PART_TOKENS, Parameter, WeightRef};

use crate::{Method, TrainConfig};

/// Bytes that training holds at its peak, by what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The base model.
    pub weights: usize,
    /// What is trained, its gradients and both moments.
    pub trained: usize,
    /// What the largest batch's forward pass keeps for its backward pass, and one block's work.
    pub activations: usize,
    /// Logits of a chunk of trained tokens, with their softmax.
    pub head: usize,
}

const FLOAT: usize = size_of::<f32>();
/// Rows whose logits exist at once, as in -nn's cross-entropy.
const HEAD_ROWS: usize = 256;

impl MemoryEstimate {
    /// Of training `decoder` as `config` says, with batches of up to `tokens` tokens whose longest part that cannot be cut
    /// (a sequence, or a batch of pairs) has `longest`. `lora` is the adapter's size.
    pub fn new(decoder: &Decoder, config: &TrainConfig, lora: &LoraConfig, tokens: usize, longest: usize) -> Self {
        let model = decoder.config();
        let weights = decoder.weights();
        let elements: usize = weights.iter().map(|(_, weight)| weight.shape().iter().product::<usize>()).sum();
        let bytes = weights.iter().map(|(_, weight)| match weight {
            WeightRef::Vector(values) => values.len() * FLOAT,
            WeightRef::Matrix(matrix) => matrix.bytes(),
        });
        let trained = match config.method {
            // The factors also exist laid out for multiplication.
            Method::Lora => 5 * factors(model, lora) * FLOAT,
            Method::Full => 4 * elements * FLOAT,
        };
        let head_norms = weights.iter().any(|(parameter, _)| matches!(parameter, Parameter::QueryNorm(_)));
        let tape = tape_floats(model, head_norms);
        // Where every weight is trained, a batch passes in parts.
        let tokens = match config.method {
            Method::Lora => tokens,
            Method::Full => tokens.min(PART_TOKENS.max(longest)),
        };
        let kept = match (config.recompute, config.method) {
            (true, _) => model.hidden_size,
            // `middle` and `up` are computed again.
            (false, Method::Full) if tokens > PART_TOKENS => tape - model.hidden_size - model.intermediate_size,
            (false, _) => tape,
        };
        let passing = tape + 3 * model.intermediate_size + 3 * model.hidden_size;
        let activations = tokens * (model.num_hidden_layers * kept + passing) * FLOAT;
        let head = 2 * tokens.min(HEAD_ROWS) * model.vocab_size * FLOAT;
        Self { weights: bytes.sum(), trained, activations, head }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.trained + self.activations + self.head
    }
}

/// Elements of an adapter's factors.
fn factors(model: &DecoderConfig, lora: &LoraConfig) -> usize {
    let of = |name: &LinearName| {
        let (outputs, inputs) = name.shape(model);
        lora.rank * (outputs + inputs)
    };
    model.num_hidden_layers * lora.targets.iter().map(of).sum::<usize>()
}

/// What a block's tape holds per token: its input and middle, queries and keys (twice where they have norms of their
/// own), values, what attention gave, and the two halves of the feed-forward part.
fn tape_floats(model: &DecoderConfig, head_norms: bool) -> usize {
    let (queries, keys) = (model.query_size(), model.key_value_size());
    let raw = if head_norms { queries + keys } else { 0 };
    2 * model.hidden_size + 2 * queries + 2 * keys + raw + 2 * model.intermediate_size
}
