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

simd::vectorised! {
    fn sum_of(left: &[f32], right: &[f32], out: &mut [f32]) {
        for ((out, left), right) in out.iter_mut().zip(left).zip(right) {
            *out = left + right;
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
    let sum = team::fill(values.len(), RUN, |run, sum| {
        let place = run * RUN..run * RUN + sum.len();
        sum_of(&values[place.clone()], &other[place], sum);
    });
    from_floats(sum, left.dims())
}
