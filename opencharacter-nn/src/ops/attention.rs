use std::ops::Range;

use candle_core::{Result, Tensor};

use super::storage::{floats, from_floats};
use crate::{
    simd,
    team::{self, Pointer},
};

/// Queries that share one score matrix: 64 x 1,024 scores are 256 KiB, which stays in a core's L2 cache.
const QUERY_CHUNK: usize = 64;
/// Keys whose scores exist at once on the way back: two matrices of 64 x 512 are 256 KiB.
const KEY_CHUNK: usize = 512;

/// Which tokens see each other, and how heads are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionShape<'a> {
    /// Width of one head.
    pub(crate) head_dim: usize,
    /// Segment `i` spans tokens `cumulative_lengths[i]..cumulative_lengths[i + 1]`; segments never see each other.
    pub(crate) cumulative_lengths: &'a [usize],
    /// A token sees itself and at most so many minus one before it; all of them where there is none.
    pub(crate) window: Option<usize>,
}

/// Causal attention over packed sequences (block-diagonal), and each row's log of the sum of exponentials.
///
/// `q` is `[tokens, query_heads * head_dim]`, `k` and `v` are `[tokens, key_value_heads * head_dim]`; the result has
/// the shape of `q`, the normalisers are `[query_heads][tokens]`. Scores are scaled by `1 / sqrt(head_dim)`. Only the
/// normalisers are kept for the backward pass; scores are computed again there, so that memory stays linear in the
/// tokens.
pub(crate) fn packed_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: AttentionShape<'_>,
) -> Result<(Tensor, Vec<f32>)> {
    let (out, normalisers) = shape.forward(&floats(q)?, &floats(k)?, &floats(v)?);
    Ok((from_floats(out, q.dims())?, normalisers))
}

/// The gradients of q, k and v, given [`packed_attention`]'s results and the gradient of the first.
pub(crate) fn packed_attention_backward(
    [q, k, v]: [&Tensor; 3],
    out: &Tensor,
    normalisers: &[f32],
    gradient: &Tensor,
    shape: AttentionShape<'_>,
) -> Result<[Tensor; 3]> {
    let (queries, keys, values) = (floats(q)?, floats(k)?, floats(v)?);
    let [dq, dk, dv] = shape.backward([&queries, &keys, &values], &floats(out)?, normalisers, &floats(gradient)?);
    Ok([from_floats(dq, q.dims())?, from_floats(dk, k.dims())?, from_floats(dv, v.dims())?])
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
#[derive(Clone, Copy)]
struct Extent {
    tokens: usize,
    query_size: usize,
    key_value_size: usize,
    group: usize,
}

/// Queries `first..last` of one segment and head.
#[derive(Clone, Copy)]
struct Task {
    /// First token of the segment.
    start: usize,
    first: usize,
    last: usize,
    head: usize,
}

impl AttentionShape<'_> {
    fn extent(&self, query_elements: usize, key_elements: usize) -> Extent {
        let tokens = *self.cumulative_lengths.last().unwrap_or(&0);
        let query_size = query_elements / tokens.max(1);
        let key_value_size = key_elements / tokens.max(1);
        Extent { tokens, query_size, key_value_size, group: query_size / key_value_size.max(1) }
    }

    /// One task per segment, head, and `queries` queries.
    fn tasks(&self, heads: usize, queries: usize) -> Vec<Task> {
        let mut tasks = Vec::new();
        for bounds in self.cumulative_lengths.windows(2) {
            for first in (bounds[0]..bounds[1]).step_by(queries) {
                let last = bounds[1].min(first + queries);
                tasks.extend((0..heads).map(|head| Task { start: bounds[0], first, last, head }));
            }
        }
        tasks
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// The first token that `token` sees, in a segment that begins at `start`.
    fn first_seen(&self, token: usize, start: usize) -> usize {
        self.window.map_or(start, |window| start.max((token + 1).saturating_sub(window)))
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let extent = self.extent(q.len(), k.len());
        let dim = self.head_dim;
        let heads = extent.query_size / dim;
        let mut out = vec![0.0_f32; q.len()];
        let mut normalisers = vec![0.0_f32; extent.tokens * heads];
        let (out_pointer, normaliser_pointer) = (Pointer(out.as_mut_ptr()), Pointer(normalisers.as_mut_ptr()));
        let tasks = self.tasks(heads, 4 * QUERY_CHUNK);
        team::for_each(tasks.len(), |index| {
            let task = tasks[index];
            let kv_corner = task.head / extent.group * dim;
            let mut scores = Vec::new();
            for first in (task.first..task.last).step_by(QUERY_CHUNK) {
                let rows = QUERY_CHUNK.min(task.last - first);
                let base = self.first_seen(first, task.start);
                let columns = first + rows - base;
                scores.resize(rows * columns, 0.0);
                let keys = View::rows(&k[base * extent.key_value_size + kv_corner..], extent.key_value_size);
                let values = View::rows(&v[base * extent.key_value_size + kv_corner..], extent.key_value_size);
                let offset = first * extent.query_size + task.head * dim;
                let queries = View::rows(&q[offset..], extent.query_size);
                // SAFETY: `scores` belongs to this task.
                unsafe {
                    let target = scores.as_mut_ptr();
                    multiply(target, columns, false, queries, keys.transposed(), (rows, dim, columns));
                }
                for (row, scores) in scores.chunks_exact_mut(columns).enumerate() {
                    let seen = self.first_seen(first + row, task.start) - base..first + row + 1 - base;
                    let (maximum, total) = simd::exponentiate(&mut scores[seen.clone()], self.scale());
                    simd::scale(&mut scores[seen.clone()], 1.0 / total);
                    scores[..seen.start].fill(0.0);
                    scores[seen.end..].fill(0.0);
                    // SAFETY: one writer per head and token.
                    unsafe {
                        *normaliser_pointer.get().add(task.head * extent.tokens + first + row) = maximum + total.ln();
                    }
                }
                // SAFETY: rows `first..first + rows` of this head's columns are this task's alone.
                unsafe {
                    let target = out_pointer.get().add(offset);
                    let probabilities = View::rows(&scores, columns);
                    multiply(target, extent.query_size, false, probabilities, values, (rows, columns, dim));
                }
            }
        });
        (out, normalisers)
    }

    /// With P the probabilities, O the result and g its gradient:
    /// dV = P' g; dP = g V'; dS = P (dP - rowsum(g O)); dQ = s dS K; dK = s dS' Q.
    ///
    /// Keys are taken in chunks, which the known normalisers allow: a chunk's scores stay in the cache however long the
    /// segment is. Query heads that share keys write gradients of their own, which are summed in a fixed order.
    fn backward(&self, qkv: [&[f32]; 3], out: &[f32], normalisers: &[f32], gradient: &[f32]) -> [Vec<f32>; 3] {
        let [q, k, _] = qkv;
        let extent = self.extent(q.len(), k.len());
        let mut gradients = [vec![0.0_f32; q.len()], vec![0.0_f32; q.len()], vec![0.0_f32; q.len()]];
        let pointers = gradients.each_mut().map(|values| Pointer(values.as_mut_ptr()));
        let tasks = self.tasks(extent.query_size / self.head_dim, usize::MAX / 2);
        team::for_each(tasks.len(), |index| {
            let task = tasks[index];
            let mut buffers = [vec![0.0_f32; QUERY_CHUNK * KEY_CHUNK], vec![0.0_f32; QUERY_CHUNK * KEY_CHUNK]];
            for first in (task.first..task.last).step_by(QUERY_CHUNK) {
                let queries = first..(first + QUERY_CHUNK).min(task.last);
                for base in (self.first_seen(first, task.start)..queries.end).step_by(KEY_CHUNK) {
                    let keys = base..(base + KEY_CHUNK).min(queries.end);
                    let chunk = Chunk { extent, task, queries: queries.clone(), keys };
                    // SAFETY: this head's columns of this segment's rows are this task's alone.
                    unsafe { self.backward_chunk(&chunk, qkv, out, normalisers, gradient, &mut buffers, pointers) };
                }
            }
        });
        let [dq, dk, dv] = gradients;
        [dq, self.sum_group(&dk, extent), self.sum_group(&dv, extent)]
    }

    /// # Safety
    /// `pointers` are `[tokens, query_size]` each, and nobody else touches the task's head in its segment.
    unsafe fn backward_chunk(
        &self,
        chunk: &Chunk,
        [q, k, v]: [&[f32]; 3],
        out: &[f32],
        normalisers: &[f32],
        gradient: &[f32],
        [scores, score_gradients]: &mut [Vec<f32>; 2],
        [dq, dk, dv]: [Pointer<f32>; 3],
    ) {
        let Chunk { extent, task, queries, keys } = chunk;
        let dim = self.head_dim;
        let (rows, columns) = (queries.len(), keys.len());
        let offset = queries.start * extent.query_size + task.head * dim;
        let kv_offset = keys.start * extent.key_value_size + task.head / extent.group * dim;
        let query_view = View::rows(&q[offset..], extent.query_size);
        let upstream = View::rows(&gradient[offset..], extent.query_size);
        let key_view = View::rows(&k[kv_offset..], extent.key_value_size);
        let value_view = View::rows(&v[kv_offset..], extent.key_value_size);
        // SAFETY: both buffers belong to this task and hold a whole chunk.
        unsafe {
            let size = (rows, dim, columns);
            multiply(scores.as_mut_ptr(), columns, false, query_view, key_view.transposed(), size);
            multiply(score_gradients.as_mut_ptr(), columns, false, upstream, value_view.transposed(), size);
        }
        let both = scores[..rows * columns]
            .chunks_exact_mut(columns)
            .zip(score_gradients[..rows * columns].chunks_exact_mut(columns));
        for (row, (scores, score_gradients)) in both.enumerate() {
            let token = queries.start + row;
            // Both ends clipped to this chunk of keys; the range may be empty.
            let from = self.first_seen(token, task.start).max(keys.start).min(keys.end) - keys.start;
            let to = ((token + 1).min(keys.end).max(keys.start) - keys.start).max(from);
            let place = offset + row * extent.query_size;
            let normaliser = normalisers[task.head * extent.tokens + token];
            let (g, o) = (&gradient[place..place + dim], &out[place..place + dim]);
            let (seen, seen_gradients) = (&mut scores[from..to], &mut score_gradients[from..to]);
            softmax_backward_row(seen, seen_gradients, g, o, self.scale(), normaliser);
            for unseen in [0..from, to..columns] {
                scores[unseen.clone()].fill(0.0);
                score_gradients[unseen].fill(0.0);
            }
        }
        let probabilities = View::rows(scores, columns);
        let score_gradients = View::rows(score_gradients, columns);
        let width = extent.query_size;
        let key_place = keys.start * width + task.head * dim;
        // SAFETY: the caller's promise.
        unsafe {
            multiply(dq.get().add(offset), width, true, score_gradients, key_view, (rows, columns, dim));
            let size = (columns, rows, dim);
            multiply(dk.get().add(key_place), width, true, score_gradients.transposed(), query_view, size);
            multiply(dv.get().add(key_place), width, true, probabilities.transposed(), upstream, size);
        }
    }

    /// Sums `[tokens, query_heads * head_dim]` over the query heads of each key and value head.
    fn sum_group(&self, wide: &[f32], extent: Extent) -> Vec<f32> {
        let mut out = vec![0.0; extent.tokens * extent.key_value_size];
        team::for_each_chunk(&mut out, QUERY_CHUNK * extent.key_value_size, |chunk, rows| {
            let wide = wide[chunk * QUERY_CHUNK * extent.query_size..].chunks_exact(extent.query_size);
            for (out, wide) in rows.chunks_exact_mut(extent.key_value_size).zip(wide) {
                for (head, part) in wide.chunks_exact(self.head_dim).enumerate() {
                    let start = head / extent.group * self.head_dim;
                    for (sum, value) in out[start..start + self.head_dim].iter_mut().zip(part) {
                        *sum += value;
                    }
                }
            }
        });
        out
    }
}

/// Some queries and some keys of one task.
struct Chunk {
    extent: Extent,
    task: Task,
    queries: Range<usize>,
    keys: Range<usize>,
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

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;

    fn backward(arguments: &[Tensor], gradient: &Tensor, shape: AttentionShape<'_>) -> Result<Vec<Tensor>> {
        let [q, k, v] = [&arguments[0], &arguments[1], &arguments[2]];
        let (out, normalisers) = packed_attention(q, k, v, shape)?;
        Ok(packed_attention_backward([q, k, v], &out, &normalisers, gradient, shape)?.into())
    }

    #[test]
    fn backward_matches_finite_differences() {
        for window in [None, Some(3)] {
            let shape = AttentionShape { head_dim: 4, cumulative_lengths: &[0, 3, 8], window };
            check(
                &[normal(1, &[8, 16]), normal(2, &[8, 8]), normal(3, &[8, 8])],
                |arguments| Ok(packed_attention(&arguments[0], &arguments[1], &arguments[2], shape)?.0),
                |arguments, gradient| backward(arguments, gradient, shape),
            );
        }
    }

    /// Attention and its gradients by their definitions, in f64, for one head.
    fn naive(q: &[Vec<f32>], k: &[Vec<f32>], v: &[Vec<f32>], g: &[Vec<f32>], window: usize) -> [Vec<Vec<f64>>; 4] {
        let (tokens, dim) = (q.len(), q[0].len());
        let zeros = || vec![vec![0.0_f64; dim]; tokens];
        let [mut out, mut dq, mut dk, mut dv] = [zeros(), zeros(), zeros(), zeros()];
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let scale = 1.0 / (dim as f64).sqrt();
        for row in 0..tokens {
            let seen = (row + 1).saturating_sub(window)..row + 1;
            let weights: Vec<f64> = seen.clone().map(|column| (dot(&q[row], &k[column]) * scale).exp()).collect();
            let total: f64 = weights.iter().sum();
            let p: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
            let dp: Vec<f64> = seen.clone().map(|column| dot(&g[row], &v[column])).collect();
            let shared: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for (index, column) in seen.enumerate() {
                let ds = p[index] * (dp[index] - shared) * scale;
                for d in 0..dim {
                    out[row][d] += p[index] * f64::from(v[column][d]);
                    dv[column][d] += p[index] * f64::from(g[row][d]);
                    dq[row][d] += ds * f64::from(k[column][d]);
                    dk[column][d] += ds * f64::from(q[row][d]);
                }
            }
        }
        [out, dq, dk, dv]
    }

    #[test]
    fn chunks_of_queries_and_keys_change_nothing_beyond_rounding() {
        // 600 tokens cross borders of query chunks, key chunks and tasks.
        let (tokens, dim) = (600, 8);
        let arguments = [1, 2, 3].map(|seed| normal(seed, &[tokens, dim]));
        let gradient = normal(4, &[tokens, dim]);
        for window in [None, Some(70)] {
            let shape = AttentionShape { head_dim: dim, cumulative_lengths: &[0, tokens], window };
            let out = packed_attention(&arguments[0], &arguments[1], &arguments[2], shape).unwrap().0;
            let mut found = vec![out];
            found.extend(backward(&arguments, &gradient, shape).unwrap());
            let [q, k, v, g] =
                [&arguments[0], &arguments[1], &arguments[2], &gradient].map(|t| t.to_vec2::<f32>().unwrap());
            for (part, (found, expected)) in
                found.iter().zip(naive(&q, &k, &v, &g, window.unwrap_or(tokens))).enumerate()
            {
                for (row, (found, expected)) in found.to_vec2::<f32>().unwrap().iter().zip(&expected).enumerate() {
                    for (found, expected) in found.iter().zip(expected) {
                        assert!(
                            (f64::from(*found) - expected).abs() < 2e-5,
                            "part {part}, row {row}: {found}, {expected}"
                        );
                    }
                }
            }
        }
    }
}
