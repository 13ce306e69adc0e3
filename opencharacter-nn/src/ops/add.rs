use candle_core::{Result, Tensor};

use super::storage::{floats, from_floats};
use crate::{
    simd,
    team::{self, RUN},
};

simd::vectorised! {
    fn add_slice(target: &mut [f32], other: &[f32]) {
        for (target, other) in target.iter_mut().zip(other) {
            *target += other;
        }
    }
}

/// `target += other`, element by element.
pub(crate) fn add_into(target: &mut [f32], other: &[f32]) {
    assert_eq!(target.len(), other.len(), "both have one shape");
    team::for_each_chunk(target, RUN, |run, target| {
        add_slice(target, &other[run * RUN..run * RUN + target.len()]);
    });
}

/// The sum of two tensors of one shape: the residual connection, whose gradient is its own in both directions.
pub(crate) fn add(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    let (values, other) = (floats(left)?, floats(right)?);
    assert_eq!(values.len(), other.len(), "both have one shape");
    let sum = team::copy(&values, RUN, |run, sum| add_slice(sum, &other[run * RUN..run * RUN + sum.len()]));
    from_floats(sum, left.dims())
}
