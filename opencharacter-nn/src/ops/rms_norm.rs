use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{floats, from_floats, slice};
use crate::simd;

/// `x / sqrt(mean(x^2) + epsilon) * weight` over the last dimension; `x` is `[tokens, features]`.
///
/// Differentiable in `x`, and in `weight` where that is tracked.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    x.apply_op2(weight, RmsNorm { epsilon })
}

struct RmsNorm {
    epsilon: f32,
}

/// `1 / sqrt(mean(x^2) + epsilon)` of one row.
#[expect(clippy::inline_always, reason = "must become part of the copy that is compiled for newer processors")]
#[inline(always)]
fn inverse_root_mean_square(row: &[f32], epsilon: f32) -> f32 {
    1.0 / (simd::dot(row, row) / row.len() as f32 + epsilon).sqrt()
}

simd::vectorised! {
    fn normalise_row(row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        let inverse = inverse_root_mean_square(row, epsilon);
        for ((out, &x), &weight) in out.iter_mut().zip(row).zip(weight) {
            *out = x * inverse * weight;
        }
    }
}

simd::vectorised! {
    /// With n features and r the inverse root: dx = r g w - x r^3 / n * sum(g w x).
    fn backward_row(row: &[f32], weight: &[f32], gradient: &[f32], epsilon: f32, out: &mut [f32]) {
        let inverse = inverse_root_mean_square(row, epsilon);
        for ((out, &g), &w) in out.iter_mut().zip(gradient).zip(weight) {
            *out = g * w;
        }
        let shared = simd::dot(out, row) * inverse * inverse * inverse / row.len() as f32;
        for (out, &x) in out.iter_mut().zip(row) {
            *out = out.mul_add(inverse, -x * shared);
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut out = vec![0.0; x.len()];
        let features = weight.len();
        out.par_chunks_mut(features)
            .zip(x.par_chunks(features))
            .with_min_len(16)
            .for_each(|(out, row)| normalise_row(row, weight, self.epsilon, out));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let features = weight.elem_count();
        let x_gradient = floats(x, |x| {
            floats(weight, |weight| {
                floats(&gradient, |gradient| {
                    let mut out = vec![0.0; x.len()];
                    out.par_chunks_mut(features)
                        .zip(x.par_chunks(features).zip(gradient.par_chunks(features)))
                        .with_min_len(16)
                        .for_each(|(out, (row, gradient))| backward_row(row, weight, gradient, self.epsilon, out));
                    out
                })
            })
        })???;
        let weight_gradient = if weight.track_op() {
            let mut sums = vec![0.0; features];
            floats(x, |x| {
                floats(&gradient, |gradient| {
                    for (row, gradient) in x.chunks_exact(features).zip(gradient.chunks_exact(features)) {
                        let inverse = inverse_root_mean_square(row, self.epsilon);
                        for ((sum, &x), &g) in sums.iter_mut().zip(row).zip(gradient) {
                            *sum += x * inverse * g;
                        }
                    }
                })
            })??;
            Some(from_floats(sums, weight.dims())?)
        } else {
            None
        };
        Ok((Some(from_floats(x_gradient, x.dims())?), weight_gradient))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;

    #[test]
    fn backward_matches_finite_differences() {
        check(&[normal(1, &[3, 20]), normal(2, &[20])], |arguments| rms_norm(&arguments[0], &arguments[1], 1e-5));
    }
}
