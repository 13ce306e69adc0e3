//! The decoder's operations, each with its own backward.
//!
//! candle's fused operations (`rms_norm`, `rope`, `softmax_last_dim`) drop the gradient without an error, and its
//! matrix product computes weight gradients for frozen weights. So every operation that a gradient passes is a custom
//! operation here, proven by finite differences in its own test and against PyTorch in `tests/golden.rs`.

mod add;
mod attention;
mod cross_entropy;
mod linear;
mod rms_norm;
mod rotary;
mod seed_gradient;
mod storage;
mod swiglu;

pub use add::add;
pub use attention::packed_attention;
pub use cross_entropy::head_cross_entropy;
pub use linear::{LoraFactors, frozen_linear, lora_linear};
pub(crate) use linear::{PackedLora, packed_lora_linear};
pub use rms_norm::rms_norm;
pub use rotary::{RotaryTable, rotary};
pub use swiglu::swiglu;

pub(crate) use seed_gradient::seed_gradient;
pub(crate) use storage::{floats, from_floats};

#[cfg(test)]
pub(crate) mod finite_difference;
