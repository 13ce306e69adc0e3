//! The decoder's operations, each with its backward beside it.
//!
//! There is no graph of operations: a block is short and always the same, so its backward pass is written out
//! ([`Decoder::block_backward`](crate::Decoder::block_backward)) and calls these functions in turn. candle's own graph
//! cuts gradients of its fused operations without an error, computes gradients of frozen weights, and adds gradients on
//! a second pool of threads.
//!
//! Every backward is proven by finite differences in its own test and against PyTorch in `tests/golden.rs`.

mod add;
mod attention;
mod cross_entropy;
mod dropout;
mod linear;
mod low_rank;
mod rms_norm;
mod rotary;
mod storage;
mod swiglu;

pub(crate) use add::add;
pub(crate) use attention::{AttentionShape, packed_attention, packed_attention_backward};
pub(crate) use cross_entropy::{head_cross_entropy, head_gradient};
pub(crate) use dropout::{Dropout, keyed_uniform};
pub(crate) use linear::{AdaptedRows, Layer, LinearInput, Upstream, bias_gradient, linear_input_gradient, linears};
pub(crate) use low_rank::{LowRankPart, PackedLora, inner_gradients, low_rank_gradients};
pub(crate) use rms_norm::{rms_norm, rms_norm_backward, rms_norm_for, rms_norm_weight_gradient};
pub(crate) use rotary::{Direction, RotaryFrequencies, Rotation, rotate};
pub(crate) use storage::{floats, from_floats, select_rows};
pub(crate) use swiglu::{SwigluBackward, gated, swiglu, swiglu_backward};

#[cfg(test)]
pub(crate) mod finite_difference;
