use candle_core::{Result, Tensor};

use super::{
    Layer, LinearInput,
    storage::{floats, from_floats},
};
use crate::{
    Activations, simd,
    team::{self, RUN},
};

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

simd::vectorised! {
    fn add_weight_gradient(row: &[f32], gradient: &[f32], epsilon: f32, sums: &mut [f32]) {
        let inverse = inverse_root_mean_square(row, epsilon);
        for ((sum, &x), &g) in sums.iter_mut().zip(row).zip(gradient) {
            *sum += x * inverse * g;
        }
    }
}

/// Elements per parallel task: whole rows.
fn chunk_length(width: usize) -> usize {
    RUN.next_multiple_of(width.max(1))
}

/// `x / sqrt(mean(x^2) + epsilon) * weight` over each run of `weight.len()` features; `x` is `[tokens, features]`.
///
/// A weight as wide as a row is a block's norm, one as wide as a head is the norm of queries and keys in Qwen3.
pub(crate) fn rms_norm(x: &Tensor, weight: &[f32], epsilon: f32) -> Result<Tensor> {
    let rows = floats(x)?;
    let length = chunk_length(weight.len());
    from_floats(team::fill(rows.len(), length, |run, out| normalise_run(&rows, weight, epsilon, run, out)), x.dims())
}

/// [`rms_norm`] of whole rows, for `layers` to multiply.
pub(crate) fn rms_norm_for(
    layers: &[Layer<'_>],
    activations: Activations,
    x: &Tensor,
    weight: &[f32],
    epsilon: f32,
) -> Result<LinearInput> {
    let rows = floats(x)?;
    let length = chunk_length(weight.len());
    LinearInput::of(x.dims2()?, layers, activations, length, |run, out| {
        normalise_run(&rows, weight, epsilon, run, out);
    })
}

/// The rows of a run of [`chunk_length`] elements.
fn normalise_run(rows: &[f32], weight: &[f32], epsilon: f32, run: usize, out: &mut [f32]) {
    let width = weight.len();
    for (out, row) in out.chunks_mut(width).zip(rows[run * chunk_length(width)..].chunks(width)) {
        normalise_row(row, weight, epsilon, out);
    }
}

/// The gradient of [`rms_norm`]'s `x`, given that of its result.
pub(crate) fn rms_norm_backward(x: &Tensor, weight: &[f32], gradient: &Tensor, epsilon: f32) -> Result<Tensor> {
    let width = weight.len();
    let (rows, gradient) = (floats(x)?, floats(gradient)?);
    let length = chunk_length(width);
    let out = team::fill(rows.len(), length, |chunk, out| {
        let rows = rows[chunk * length..].chunks(width).zip(gradient[chunk * length..].chunks(width));
        for (out, (row, gradient)) in out.chunks_mut(width).zip(rows) {
            backward_row(row, weight, gradient, epsilon, out);
        }
    });
    from_floats(out, x.dims())
}

/// Adds the gradient of [`rms_norm`]'s `weight` to `sums`.
pub(crate) fn rms_norm_weight_gradient(x: &Tensor, gradient: &Tensor, epsilon: f32, sums: &mut [f32]) -> Result<()> {
    let width = sums.len();
    let (x, gradient) = (floats(x)?, floats(gradient)?);
    for (row, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact(width)) {
        add_weight_gradient(row, gradient, epsilon, sums);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, flat, normal};
    use super::*;

    #[test]
    fn backward_matches_finite_differences() {
        // 40 features in rows of 20: the same function normalises single heads.
        for shape in [[3, 20], [2, 40]] {
            check(
                &[normal(1, &shape), normal(2, &[20])],
                |arguments| rms_norm(&arguments[0], &flat(&arguments[1]), 1e-5),
                |arguments, gradient| {
                    let weight = flat(&arguments[1]);
                    let mut sums = vec![0.0; 20];
                    rms_norm_weight_gradient(&arguments[0], gradient, 1e-5, &mut sums)?;
                    Ok(vec![rms_norm_backward(&arguments[0], &weight, gradient, 1e-5)?, from_floats(sums, &[20])?])
                },
            );
        }
    }
}
