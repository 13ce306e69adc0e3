mod backward;
mod panels;
mod scores;

use std::ops::Range;

use candle_core::{Result, Tensor};

use self::{
    backward::Backward,
    panels::{Straight, Turned},
    scores::{Scores, tiles},
};
use super::storage::{floats, from_floats};
use crate::{
    matrix::tile_rows,
    simd,
    team::{self, Pointer},
};

/// Queries that share one score matrix: whole tiles of every instruction set.
const QUERY_CHUNK: usize = 60;
/// Keys that are multiplied at once, in whole panels and whole tiles: those of a head of 64 features are 120 KiB, and two
/// score matrices of 60 x 480 are 225 KiB. Together they stay in a core's second-level cache.
const KEY_CHUNK: usize = 480;

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

impl Task {
    /// The queries in chunks.
    fn chunks(self) -> impl Iterator<Item = Range<usize>> {
        (self.first..self.last).step_by(QUERY_CHUNK).map(move |first| first..(first + QUERY_CHUNK).min(self.last))
    }
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

    /// The keys that a task's `queries` see, from a whole tile on, in chunks.
    fn key_chunks(&self, task: Task, queries: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let step = tile_rows();
        let first = task.start + (self.first_seen(queries.start, task.start) - task.start) / step * step;
        let end = queries.end;
        (first..end).step_by(KEY_CHUNK).map(move |first| first..(first + KEY_CHUNK).min(end))
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let extent = self.extent(q.len(), k.len());
        let dim = self.head_dim;
        let heads = extent.query_size / dim;
        let (keys, values) = (Turned::new(k, extent.tokens, dim), Straight::new(v, extent.tokens, dim));
        let mut out = Vec::<f32>::with_capacity(q.len());
        let mut normalisers = vec![0.0_f32; extent.tokens * heads];
        let (out_pointer, normaliser_pointer) = (Pointer(out.as_mut_ptr()), Pointer(normalisers.as_mut_ptr()));
        let tasks = self.tasks(heads, 4 * QUERY_CHUNK);
        team::for_each(tasks.len(), |index| {
            let task = tasks[index];
            let key_head = task.head / extent.group;
            let mut scores = Scores::new();
            for queries in task.chunks() {
                let seen = self.first_seen(queries.start, task.start)..queries.end;
                scores.reset(&queries, &seen);
                for chunk in self.key_chunks(task, &queries) {
                    let chunk = chunk.start.max(seen.start)..chunk.end;
                    scores.multiply(q, extent.query_size, task.head, &chunk, (&keys, key_head));
                }
                for query in queries.clone() {
                    let first = self.first_seen(query, task.start);
                    let (maximum, total) = simd::exponentiate(scores.row(query, &(first..query + 1)), self.scale());
                    simd::scale(scores.row(query, &(first..query + 1)), 1.0 / total);
                    // Other queries of the tile see more on either side.
                    scores.row(query, &(seen.start..first)).fill(0.0);
                    scores.row(query, &(query + 1..seen.end)).fill(0.0);
                    // SAFETY: one writer per head and token.
                    unsafe {
                        *normaliser_pointer.get().add(task.head * extent.tokens + query) = maximum + total.ln();
                    }
                }
                for chunk in self.key_chunks(task, &queries) {
                    for queries in tiles(&queries) {
                        let first = self.first_seen(queries.start, task.start);
                        let chunk = chunk.start.max(first)..chunk.end.min(queries.end);
                        if chunk.is_empty() {
                            continue;
                        }
                        let tile = scores.rows_of(&queries, &chunk);
                        let (rows, accumulate) = (queries.len(), chunk.start > first);
                        // SAFETY: this head's columns of the queries' rows are this task's alone; each is written by
                        // the first chunk that it sees.
                        unsafe {
                            let out = out_pointer.get().add(queries.start * extent.query_size + task.head * dim);
                            values.multiply(tile, rows, key_head, chunk, out, extent.query_size, accumulate);
                        }
                    }
                }
            }
        });
        // SAFETY: every token sees itself, so every row was written.
        unsafe { out.set_len(q.len()) };
        (out, normalisers)
    }

    /// With P the probabilities, O the result and g its gradient:
    /// dV = P' g; dP = g V'; dS = P (dP - rowsum(g O)); dQ = s dS K; dK = s dS' Q.
    ///
    /// Keys are taken in chunks, which the known normalisers allow: a chunk's scores stay in the cache however long the
    /// segment is. Query heads that share keys write gradients of their own, which are summed in a fixed order.
    fn backward(&self, qkv: [&[f32]; 3], out: &[f32], normalisers: &[f32], gradient: &[f32]) -> [Vec<f32>; 3] {
        let [q, k, v] = qkv;
        let extent = self.extent(q.len(), k.len());
        let (tokens, dim) = (extent.tokens, self.head_dim);
        let pass = Backward {
            shape: *self,
            extent,
            queries: Straight::new(q, tokens, dim),
            upstream: Straight::new(gradient, tokens, dim),
            keys: Straight::new(k, tokens, dim),
            turned_keys: Turned::new(k, tokens, dim),
            turned_values: Turned::new(v, tokens, dim),
            q,
            out,
            normalisers,
            gradient,
        };
        let mut gradients = [(); 3].map(|()| Vec::<f32>::with_capacity(q.len()));
        let pointers = gradients.each_mut().map(|values| Pointer(values.as_mut_ptr()));
        let tasks = self.tasks(extent.query_size / dim, usize::MAX / 2);
        team::for_each(tasks.len(), |index| {
            let task = tasks[index];
            let mut buffers = [Scores::new(), Scores::new()];
            for queries in task.chunks() {
                for keys in self.key_chunks(task, &queries) {
                    // SAFETY: this head's columns of this segment's rows are this task's alone.
                    unsafe { pass.chunk(task, &queries, &keys, &mut buffers, pointers) };
                }
            }
        });
        // SAFETY: every token is a query and a key of its own, so every row was written.
        gradients.iter_mut().for_each(|values| unsafe { values.set_len(q.len()) });
        let [dq, dk, dv] = gradients;
        [dq, self.sum_group(&dk, extent), self.sum_group(&dv, extent)]
    }

    /// Sums `[tokens, query_heads * head_dim]` over the query heads of each key and value head.
    fn sum_group(&self, wide: &[f32], extent: Extent) -> Vec<f32> {
        let length = QUERY_CHUNK * extent.key_value_size;
        team::fill(extent.tokens * extent.key_value_size, length, |chunk, rows| {
            let wide = wide[chunk * QUERY_CHUNK * extent.query_size..].chunks_exact(extent.query_size);
            for (out, wide) in rows.chunks_exact_mut(extent.key_value_size).zip(wide) {
                for (head, part) in wide.chunks_exact(self.head_dim).enumerate() {
                    let start = head / extent.group * self.head_dim;
                    for (sum, value) in out[start..start + self.head_dim].iter_mut().zip(part) {
                        *sum += value;
                    }
                }
            }
        })
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

    #[test]
    fn a_packed_sequence_has_the_bits_that_it_has_alone() {
        // Neither begins where a panel of 16 tokens does; one crosses borders of chunks. A head is no whole panel.
        let (borders, heads, key_heads, head_dim) = ([0, 5, 135, 168], 4, 2, 20);
        let tokens = borders[borders.len() - 1];
        let sizes = [heads, key_heads, key_heads, heads].map(|heads| heads * head_dim);
        let arguments: Vec<Tensor> = (1..).zip(sizes).map(|(seed, size)| normal(seed, &[tokens, size])).collect();
        let all = |arguments: &[Tensor], cumulative_lengths: &[usize], window| {
            let shape = AttentionShape { head_dim, cumulative_lengths, window };
            let mut results = vec![packed_attention(&arguments[0], &arguments[1], &arguments[2], shape).unwrap().0];
            results.extend(backward(arguments, &arguments[3], shape).unwrap());
            results
        };
        for window in [None, Some(9)] {
            let packed = all(&arguments, &borders, window);
            for bounds in borders.windows(2) {
                let length = bounds[1] - bounds[0];
                let part = |tensor: &Tensor| tensor.narrow(0, bounds[0], length).unwrap().contiguous().unwrap();
                let alone = all(&arguments.iter().map(part).collect::<Vec<_>>(), &[0, length], window);
                for (packed, alone) in packed.iter().zip(&alone) {
                    let [packed, alone] = [&part(packed), alone].map(|tensor| tensor.to_vec2::<f32>().unwrap());
                    assert_eq!(packed, alone, "tokens {bounds:?}, window {window:?}");
                }
            }
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
