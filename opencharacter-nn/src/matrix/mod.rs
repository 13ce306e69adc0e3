//! A weight matrix laid out for multiplication, and the products with it.
//!
//! A linear layer's weight `W` of shape `[outputs, inputs]` is stored as panels of 16 outputs: panel `p` holds, for
//! each input, the 16 weights that lead to outputs `16p..16p+16`, in f32 or in quantised blocks. The kernel keeps a
//! tile of rows by 16 outputs in registers and walks the inputs once, so that
//!
//! - weights stream through the cache in the order in which they lie in memory, a quantised panel through a buffer
//!   that stays in the second-level cache;
//! - every output element is one chain of fused multiply-adds in the order of the inputs. Its bits therefore do not
//!   depend on how many rows are multiplied together, on how the work is split over threads, or on the instruction
//!   set. The engine's promise that a request's text does not depend on its company rests on this. A general GEMM
//!   gives no such promise: it changes its summation order with the shape.
//!
//! Training multiplies many rows by each matrix, and has a third way where the processor has integer tiles
//! ([`fixed_point`]): sums without rounding, which need no order to keep the same promise, but have other bits than a chain.
//! Which way a training step goes depends on the machine alone ([`Factor`]).
//!
//! Generation rounds activations where they meet quantised weights, and has two ways for that: sums of bytes
//! ([`block_tile`]), and, for prompts and batches on processors with tiles for it, chains in bfloat16 ([`bfloat16`]).
//!
//! The backward pass multiplies by the transposed matrix ([`Orientation::Transposed`]). Panels are turned in the same
//! small buffer, once for many rows, instead of being kept a second time, which halves the memory of f32 weights.

mod activations;
#[cfg(target_arch = "x86_64")]
mod bfloat16;
mod block_tile;
mod blocks;
mod factor;
mod fixed_point;
#[cfg(target_arch = "x86_64")]
mod input_loop;
mod kernel;
mod outer;
mod packed;
mod product;
mod rounded;
#[cfg(target_arch = "x86_64")]
mod six_rows;
mod turn;
#[cfg(target_arch = "x86_64")]
mod twelve_rows;

pub(crate) use blocks::BLOCK;
pub use blocks::BlockFormat;
pub(crate) use factor::Factor;
pub(crate) use kernel::{
    InstructionSet, Layout, PANEL, PanelElement, Panels, Results, Tile, instruction_set, tile_rows,
};
pub(crate) use outer::{OuterProduct, Target, add_outer_products};
pub use packed::PackedMatrix;
pub use product::Activations;
pub(crate) use product::{Orientation, Term, add_products, run_clipped, several_sums, sum_of_products};
pub(crate) use rounded::RoundedRows;

#[cfg(test)]
mod tests;
