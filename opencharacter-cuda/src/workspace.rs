//! Memory of a pass, allocated for the longest batch that was foreseen or met so far, and kept.

use std::rc::Rc;

use opencharacter_nn::DecoderConfig;

use crate::{
    DeviceError,
    device::{Buffer, Device, Kind, Matrix},
    operations::Operations,
    weights::{Group, Weights},
};

/// Logits that exist at once: 512 MiB of f32, and half of that of gradients.
const MOST_LOGITS: usize = 1 << 27;
/// Most rows whose logits exist at once.
const MOST_LOGIT_ROWS: usize = 2_048;
/// Tokens to whose multiples a workspace grows.
const GRANULE: usize = 64;

/// What a block's backward pass needs of its forward pass; norms and the activation are computed again.
#[derive(Debug)]
pub(crate) struct Tape {
    /// `[tokens, queries + keys + values]`: before the heads' norms, where the model has them.
    pub(crate) raw: Option<Buffer>,
    /// `[tokens, queries + keys + values]`: queries and keys are rotated; values are in `raw` where there is one.
    pub(crate) qkv: Buffer,
    /// `[tokens, input_width]` of the output projection.
    pub(crate) attended: Buffer,
    /// `[heads][tokens]`.
    pub(crate) normalisers: Buffer,
    /// `[tokens, hidden]`: the residual stream between the block's halves.
    pub(crate) middle: Buffer,
    /// `[tokens, 2 * intermediate]`.
    pub(crate) gate_up: Buffer,
}

/// Memory of a pass over up to `capacity` tokens.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) capacity: usize,
    /// Whether every block keeps its tape.
    pub(crate) keeps_tapes: bool,
    /// One per block, or one for all.
    pub(crate) tapes: Vec<Tape>,
    /// The residual stream before each block, `[tokens, hidden]`.
    pub(crate) inputs: Vec<Buffer>,
    /// Inputs of the groups, `[tokens, input_width]`; that of the output projection is in the tape.
    pub(crate) qkv_input: Buffer,
    pub(crate) gate_up_input: Buffer,
    pub(crate) down_input: Buffer,
    /// What a half of a block adds to the residual stream, `[tokens, hidden]`.
    pub(crate) update: Buffer,
    /// Gradients of the groups' results, `[tokens, gradient_width]`. Those of the output and the down projection are
    /// the gradient of the residual stream.
    pub(crate) gradients: [Buffer; 4],
    pub(crate) activated_gradient: Buffer,
    pub(crate) normed_gradient: Buffer,
    pub(crate) attended_gradient: Buffer,
    /// Queries' and keys' gradients before their norms' backward, where the model has them.
    pub(crate) turned: Option<Buffer>,
    pub(crate) deltas: Buffer,
    pub(crate) inverses: Buffer,
    pub(crate) slices: Buffer,
    /// An adapter's input with dropout, or the gradient of one; where there is dropout.
    pub(crate) dropped: Option<Buffer>,
    pub(crate) rotation: Buffer,
    pub(crate) positions: Buffer,
    pub(crate) tokens: Buffer,
    pub(crate) noise: Buffer,
    pub(crate) rows: Buffer,
    pub(crate) targets: Buffer,
    pub(crate) losses: Buffer,
    pub(crate) loss_weights: Buffer,
    /// The rows that are trained: the last hidden states, and normalised.
    pub(crate) selected: Buffer,
    pub(crate) normed: Buffer,
    pub(crate) logit_rows: usize,
    pub(crate) logits: Buffer,
    pub(crate) logit_gradient: Buffer,
}

impl Workspace {
    /// Memory for `tokens` tokens.
    pub(crate) fn new(
        operations: &Operations,
        config: &DecoderConfig,
        weights: &Weights,
        tokens: usize,
        keeps_tapes: bool,
    ) -> Result<Self, DeviceError> {
        let device: &Rc<dyn Device> = &operations.0;
        let capacity = tokens.next_multiple_of(GRANULE);
        let what = "activations";
        let elements = |width: usize| Buffer::zeros(device, Kind::Element, capacity * width, what);
        let floats = |length: usize| Buffer::zeros(device, Kind::Float, length, what);
        let integers = |length: usize| Buffer::zeros(device, Kind::Integer, length, what);
        let layout = |group: Group| weights.layout(group);
        let hidden = config.hidden_size;
        let heads = config.query_size() + config.key_value_size();
        let qkv = layout(Group::QueryKeyValue).outputs;
        let has_head_norms = weights.blocks.first().is_some_and(|block| block.head_norms.is_some());
        let layers = config.num_hidden_layers;
        let tape = || {
            Ok::<_, DeviceError>(Tape {
                raw: has_head_norms.then(|| elements(qkv)).transpose()?,
                qkv: elements(qkv)?,
                attended: elements(layout(Group::Output).input_width())?,
                normalisers: floats(capacity * config.num_attention_heads)?,
                middle: elements(hidden)?,
                gate_up: elements(layout(Group::GateUp).outputs)?,
            })
        };
        let logit_rows = (MOST_LOGITS / config.vocab_size).clamp(1, MOST_LOGIT_ROWS).min(capacity);
        let gradient = |group: Group| elements(layout(group).gradient_width());
        let workspace = Self {
            capacity,
            keeps_tapes,
            tapes: (0..if keeps_tapes { layers } else { 1 }).map(|_| tape()).collect::<Result<_, _>>()?,
            inputs: (0..layers).map(|_| elements(hidden)).collect::<Result<_, _>>()?,
            qkv_input: elements(layout(Group::QueryKeyValue).input_width())?,
            gate_up_input: elements(layout(Group::GateUp).input_width())?,
            down_input: elements(layout(Group::Down).input_width())?,
            update: elements(hidden)?,
            gradients: [
                gradient(Group::QueryKeyValue)?,
                gradient(Group::Output)?,
                gradient(Group::GateUp)?,
                gradient(Group::Down)?,
            ],
            activated_gradient: elements(config.intermediate_size)?,
            normed_gradient: elements(hidden)?,
            attended_gradient: elements(config.query_size())?,
            turned: has_head_norms.then(|| elements(heads)).transpose()?,
            deltas: floats(capacity * config.num_attention_heads)?,
            inverses: floats(capacity * config.num_attention_heads)?,
            slices: floats(Operations::slice_floats(hidden.max(config.head_dim)))?,
            dropped: None,
            rotation: floats(capacity * config.head_dim)?,
            positions: integers(capacity)?,
            tokens: integers(capacity)?,
            noise: floats(capacity)?,
            rows: integers(capacity)?,
            targets: integers(capacity)?,
            losses: floats(capacity)?,
            loss_weights: floats(capacity)?,
            selected: elements(hidden)?,
            normed: elements(hidden)?,
            logit_rows,
            logits: floats(logit_rows * config.vocab_size)?,
            logit_gradient: Buffer::zeros(device, Kind::Element, logit_rows * config.vocab_size, what)?,
        };
        for group in Group::ALL {
            let layout = layout(group);
            if layout.bias_columns == 0 {
                continue;
            }
            let mut inputs: Vec<&Buffer> = match group {
                Group::QueryKeyValue => vec![&workspace.qkv_input],
                Group::GateUp => vec![&workspace.gate_up_input],
                Group::Down => vec![&workspace.down_input],
                Group::Output => Vec::new(),
            };
            if group == Group::Output {
                inputs.extend(workspace.tapes.iter().map(|tape| &tape.attended));
            }
            for input in inputs {
                let rows = input.rows(capacity, layout.input_width());
                operations.bias_columns(rows.columns(layout.inputs, layout.bias_columns))?;
            }
        }
        Ok(workspace)
    }

    /// Whether a pass over `tokens` tokens fits.
    pub(crate) fn fits(&self, tokens: usize, keeps_tapes: bool) -> bool {
        tokens <= self.capacity && keeps_tapes == self.keeps_tapes
    }

    /// The tape of block `layer`.
    pub(crate) fn tape(&self, layer: usize) -> &Tape {
        &self.tapes[if self.keeps_tapes { layer } else { 0 }]
    }

    /// Gradients of a group's results, `[tokens, gradient_width]`.
    pub(crate) fn gradient<'a>(&'a self, group: Group, weights: &Weights, tokens: usize) -> Matrix<'a> {
        self.gradients[group as usize].rows(tokens, weights.layout(group).gradient_width())
    }
}
