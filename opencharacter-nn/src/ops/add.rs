use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::slice;
use crate::simd;

/// The sum of two tensors of one shape: the residual connection.
///
/// candle's own sum runs on a second pool of threads, which fights with rayon's for the cores.
pub fn add(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    left.apply_op2(right, Add)
}

struct Add;

/// Elements per parallel task.
const CHUNK: usize = 32_768;

simd::vectorised! {
    fn sum(left: &[f32], right: &[f32]) -> Vec<f32> {
        left.iter().zip(right).map(|(left, right)| left + right).collect()
    }
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (left, right) = (slice(s1, l1)?, slice(s2, l2)?);
        let out = if left.len() <= CHUNK {
            sum(left, right)
        } else {
            let mut out = vec![0.0; left.len()];
            out.par_chunks_mut(CHUNK)
                .zip(left.par_chunks(CHUNK).zip(right.par_chunks(CHUNK)))
                .for_each(|(out, (left, right))| out.copy_from_slice(&sum(left, right)));
            out
        };
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(gradient.clone()), Some(gradient.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;

    #[test]
    fn backward_matches_finite_differences() {
        check(&[normal(1, &[3, 7]), normal(2, &[3, 7])], |arguments| add(&arguments[0], &arguments[1]));
    }
}
