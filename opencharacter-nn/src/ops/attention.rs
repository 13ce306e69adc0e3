use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{floats, from_floats, slice};
use crate::packed::SharedPointer;
use crate::simd;

/// Queries that share one score matrix: 64 x 1,024 scores are 256 KiB, which stays in a core's L2 cache.
const QUERY_CHUNK: usize = 64;

/// Causal attention over packed sequences that never see each other (block-diagonal).
///
/// `q` is `[tokens, query_heads * head_dim]`, `k` and `v` are `[tokens, key_value_heads * head_dim]`; segment `i`
/// spans tokens `cumulative_lengths[i]..cumulative_lengths[i + 1]`. Scores are scaled by `1 / sqrt(head_dim)`.
/// Only the logarithm of each row's normaliser is kept for the backward pass; scores are computed again there, so that
/// memory stays linear in the tokens.
pub fn packed_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    head_dim: usize,
    cumulative_lengths: &Arc<Vec<usize>>,
) -> Result<Tensor> {
    let operation =
        PackedAttention { head_dim, segments: Arc::clone(cumulative_lengths), normalisers: OnceLock::new() };
    q.apply_op3(k, v, operation)
}

struct PackedAttention {
    head_dim: usize,
    segments: Arc<Vec<usize>>,
    /// `[query_heads, tokens]`: log of the sum of exponentials, left by the forward pass.
    normalisers: OnceLock<Vec<f32>>,
}

/// A strided `[rows, columns]` matrix inside a larger buffer.
#[derive(Clone, Copy)]
struct View<'a> {
    values: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    fn rows(values: &'a [f32], row_stride: usize) -> Self {
        Self { values, row_stride, column_stride: 1 }
    }

    fn transposed(self) -> Self {
        Self { values: self.values, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    fn covers(self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.values.len()
    }
}

/// `out = left right` (or `out += ...`), single-threaded: the caller runs many of these side by side.
///
/// # Safety
/// `out` must be writable for `rows` rows of `columns` elements, `out_stride` apart, by nobody else.
unsafe fn multiply(
    out: *mut f32,
    out_stride: usize,
    accumulate: bool,
    left: View<'_>,
    right: View<'_>,
    (rows, inner, columns): (usize, usize, usize),
) {
    assert!(left.covers(rows, inner) && right.covers(inner, columns));
    // SAFETY: the reads were just checked, the writes are the caller's promise.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out,
            1,
            out_stride as isize,
            accumulate,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Sizes that follow from the arguments.
struct Extent {
    tokens: usize,
    query_size: usize,
    key_value_size: usize,
    group: usize,
}

impl PackedAttention {
    fn shape(&self, query_elements: usize, key_elements: usize) -> Extent {
        let tokens = *self.segments.last().unwrap_or(&0);
        let query_size = query_elements / tokens.max(1);
        let key_value_size = key_elements / tokens.max(1);
        Extent { tokens, query_size, key_value_size, group: query_size / key_value_size.max(1) }
    }

    fn tasks(&self, key_value_heads: usize) -> Vec<(usize, usize, usize)> {
        let mut tasks = Vec::new();
        for bounds in self.segments.windows(2) {
            for head in 0..key_value_heads {
                tasks.push((bounds[0], bounds[1], head));
            }
        }
        tasks
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let shape = self.shape(q.len(), k.len());
        let mut out = vec![0.0_f32; q.len()];
        let mut normalisers = vec![0.0_f32; shape.tokens * shape.query_size / self.head_dim.max(1)];
        let (out_pointer, normaliser_pointer) =
            (SharedPointer(out.as_mut_ptr()), SharedPointer(normalisers.as_mut_ptr()));
        let dim = self.head_dim;
        self.tasks(shape.key_value_size / dim.max(1)).into_par_iter().for_each(|(start, end, kv_head)| {
            let mut scores = vec![0.0_f32; QUERY_CHUNK * (end - start)];
            let keys = View::rows(&k[start * shape.key_value_size + kv_head * dim..], shape.key_value_size);
            let values = View::rows(&v[start * shape.key_value_size + kv_head * dim..], shape.key_value_size);
            for head in kv_head * shape.group..(kv_head + 1) * shape.group {
                for first in (start..end).step_by(QUERY_CHUNK) {
                    let rows = QUERY_CHUNK.min(end - first);
                    let columns = first + rows - start;
                    let queries = View::rows(&q[first * shape.query_size + head * dim..], shape.query_size);
                    // SAFETY: `scores` belongs to this task.
                    unsafe {
                        let target = scores.as_mut_ptr();
                        multiply(target, columns, false, queries, keys.transposed(), (rows, dim, columns));
                    }
                    for (row, scores) in scores[..rows * columns].chunks_exact_mut(columns).enumerate() {
                        let seen = first - start + row + 1;
                        let (maximum, total) = simd::exponentiate(&mut scores[..seen], self.scale());
                        simd::scale(&mut scores[..seen], 1.0 / total);
                        scores[seen..].fill(0.0);
                        // SAFETY: one writer per head and token.
                        unsafe {
                            *normaliser_pointer.get().add(head * shape.tokens + first + row) = maximum + total.ln();
                        }
                    }
                    // SAFETY: rows `first..first + rows` of this head's columns are this task's alone.
                    unsafe {
                        let target = out_pointer.get().add(first * shape.query_size + head * dim);
                        let probabilities = View::rows(&scores, columns);
                        multiply(target, shape.query_size, false, probabilities, values, (rows, columns, dim));
                    }
                }
            }
        });
        (out, normalisers)
    }

    /// Gradients of q, k and v. With P the probabilities, O the result and g its gradient:
    /// dV = P' g; dP = g V'; dS = P (dP - rowsum(g O)); dQ = s dS K; dK = s dS' Q.
    fn backward(&self, q: &[f32], k: &[f32], v: &[f32], out: &[f32], gradient: &[f32]) -> [Vec<f32>; 3] {
        let shape = self.shape(q.len(), k.len());
        let recomputed;
        let normalisers = if let Some(normalisers) = self.normalisers.get() {
            normalisers
        } else {
            recomputed = self.forward(q, k, v).1;
            &recomputed
        };
        let mut gradients = [vec![0.0_f32; q.len()], vec![0.0_f32; k.len()], vec![0.0_f32; v.len()]];
        let [dq, dk, dv] = gradients.each_mut().map(|values| SharedPointer(values.as_mut_ptr()));
        let dim = self.head_dim;
        let scale = self.scale();
        self.tasks(shape.key_value_size / dim.max(1)).into_par_iter().for_each(|(start, end, kv_head)| {
            let mut scores = vec![0.0_f32; QUERY_CHUNK * (end - start)];
            let mut score_gradients = scores.clone();
            let corner = start * shape.key_value_size + kv_head * dim;
            let keys = View::rows(&k[corner..], shape.key_value_size);
            let values = View::rows(&v[corner..], shape.key_value_size);
            for head in kv_head * shape.group..(kv_head + 1) * shape.group {
                for first in (start..end).step_by(QUERY_CHUNK) {
                    let rows = QUERY_CHUNK.min(end - first);
                    let columns = first + rows - start;
                    let offset = first * shape.query_size + head * dim;
                    let queries = View::rows(&q[offset..], shape.query_size);
                    let upstream = View::rows(&gradient[offset..], shape.query_size);
                    // SAFETY: both score buffers belong to this task.
                    unsafe {
                        let target = scores.as_mut_ptr();
                        multiply(target, columns, false, queries, keys.transposed(), (rows, dim, columns));
                        let target = score_gradients.as_mut_ptr();
                        multiply(target, columns, false, upstream, values.transposed(), (rows, dim, columns));
                    }
                    let both = scores[..rows * columns]
                        .chunks_exact_mut(columns)
                        .zip(score_gradients[..rows * columns].chunks_exact_mut(columns));
                    for (row, (scores, score_gradients)) in both.enumerate() {
                        let seen = first - start + row + 1;
                        let place = offset + row * shape.query_size;
                        let normaliser = normalisers[head * shape.tokens + first + row];
                        let (g, o) = (&gradient[place..place + dim], &out[place..place + dim]);
                        softmax_backward_row(
                            &mut scores[..seen],
                            &mut score_gradients[..seen],
                            g,
                            o,
                            scale,
                            normaliser,
                        );
                        scores[seen..].fill(0.0);
                        score_gradients[seen..].fill(0.0);
                    }
                    let probabilities = View::rows(&scores, columns);
                    let score_gradients = View::rows(&score_gradients, columns);
                    // SAFETY: this head's query columns, and this segment's key and value columns of `kv_head`, are
                    // written by this task alone.
                    unsafe {
                        let target = dq.get().add(offset);
                        multiply(target, shape.query_size, false, score_gradients, keys, (rows, columns, dim));
                        let target = dk.get().add(corner);
                        let transposed = score_gradients.transposed();
                        multiply(target, shape.key_value_size, true, transposed, queries, (columns, rows, dim));
                        let target = dv.get().add(corner);
                        let transposed = probabilities.transposed();
                        multiply(target, shape.key_value_size, true, transposed, upstream, (columns, rows, dim));
                    }
                }
            }
        });
        gradients
    }
}

simd::vectorised! {
    /// Turns raw scores into probabilities and the gradients of those into gradients of raw scores (scale included).
    fn softmax_backward_row(
        scores: &mut [f32],
        gradients: &mut [f32],
        upstream: &[f32],
        out: &[f32],
        scale: f32,
        normaliser: f32,
    ) {
        let shared = simd::dot(upstream, out);
        for (score, gradient) in scores.iter_mut().zip(gradients) {
            *score = simd::exp(score.mul_add(scale, -normaliser));
            *gradient = *score * (*gradient - shared) * scale;
        }
    }
}

impl CustomOp3 for PackedAttention {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (out, normalisers) = self.forward(slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        // The operation is made for one call; were it run twice, the first call's values would be the same.
        let _ = self.normalisers.set(normalisers);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let [dq, dk, dv] = floats(q, |q| {
            floats(k, |k| {
                floats(v, |v| floats(out, |out| floats(&gradient, |gradient| self.backward(q, k, v, out, gradient))))
            })
        })?????;
        Ok((Some(from_floats(dq, q.dims())?), Some(from_floats(dk, k.dims())?), Some(from_floats(dv, v.dims())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;

    #[test]
    fn backward_matches_finite_differences() {
        let segments = Arc::new(vec![0, 3, 8]);
        check(&[normal(1, &[8, 16]), normal(2, &[8, 8]), normal(3, &[8, 8])], |arguments| {
            packed_attention(&arguments[0], &arguments[1], &arguments[2], 4, &segments)
        });
    }

    #[test]
    fn chunks_of_queries_change_nothing_beyond_rounding() {
        // 150 tokens cross two chunk borders; a naive softmax in f64 is the oracle.
        let (tokens, dim) = (150, 8);
        let [q, k, v] = [1, 2, 3].map(|seed| normal(seed, &[tokens, dim]));
        let out = packed_attention(&q, &k, &v, dim, &Arc::new(vec![0, tokens])).unwrap().to_vec2::<f32>().unwrap();
        let [q, k, v] = [q, k, v].map(|tensor| tensor.to_vec2::<f32>().unwrap());
        for row in 0..tokens {
            let weights: Vec<f64> = (0..=row)
                .map(|column| {
                    let dot: f64 = (0..dim).map(|d| f64::from(q[row][d]) * f64::from(k[column][d])).sum();
                    (dot / (dim as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let expected: f64 = (0..=row).map(|column| weights[column] / total * f64::from(v[column][d])).sum();
                assert!((f64::from(out[row][d]) - expected).abs() < 1e-5, "row {row}, column {d}");
            }
        }
    }
}
