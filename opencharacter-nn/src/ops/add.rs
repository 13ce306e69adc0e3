use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::storage::{floats, from_floats};
use crate::simd;

/// Elements per parallel task.
const CHUNK: usize = 32_768;

simd::vectorised! {
    fn add_slice(target: &mut [f32], other: &[f32]) {
        for (target, other) in target.iter_mut().zip(other) {
            *target += other;
        }
    }
}

/// `target += other`, element by element.
pub(crate) fn add_into(target: &mut [f32], other: &[f32]) {
    target.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK)).for_each(|(target, other)| add_slice(target, other));
}

/// The sum of two tensors of one shape: the residual connection, whose gradient is its own in both directions.
pub(crate) fn add(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    let mut sum = floats(left)?.to_vec();
    add_into(&mut sum, &floats(right)?);
    from_floats(sum, left.dims())
}
