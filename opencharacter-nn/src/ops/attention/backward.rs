//! The gradients of some queries and some keys.

use std::ops::Range;

use super::{
    AttentionShape, Extent, Task,
    panels::{Straight, Turned},
    scores::{Scores, tiles},
};
use crate::{simd, team::Pointer};

/// What all tasks of a backward pass share.
pub(super) struct Backward<'a> {
    pub(super) shape: AttentionShape<'a>,
    pub(super) extent: Extent,
    pub(super) queries: Straight,
    pub(super) upstream: Straight,
    pub(super) keys: Straight,
    pub(super) turned_keys: Turned,
    pub(super) turned_values: Turned,
    pub(super) q: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) normalisers: &'a [f32],
    pub(super) gradient: &'a [f32],
}

impl Backward<'_> {
    /// The share of some queries and some keys of a task.
    ///
    /// # Safety
    /// `pointers` are `[tokens, query_size]` each, and nobody else touches the task's head in its segment. Chunks of
    /// queries come in their order, and for each its chunks of keys in theirs: what comes first to a row finds it
    /// uninitialised.
    pub(super) unsafe fn chunk(
        &self,
        task: Task,
        queries: &Range<usize>,
        keys: &Range<usize>,
        [scores, score_gradients]: &mut [Scores; 2],
        [dq, dk, dv]: [Pointer<f32>; 3],
    ) {
        let Extent { tokens, query_size: width, group, .. } = self.extent;
        let dim = self.shape.head_dim;
        let (head, key_head) = (task.head, task.head / group);
        for (buffer, rows, panels) in
            [(&mut *scores, self.q, &self.turned_keys), (&mut *score_gradients, self.gradient, &self.turned_values)]
        {
            buffer.reset(queries, keys);
            buffer.multiply(rows, width, head, keys, (panels, key_head));
        }
        for query in queries.clone() {
            // Clipped to this chunk of keys; it may be empty.
            let from = self.shape.first_seen(query, task.start).clamp(keys.start, keys.end);
            let seen = from..(query + 1).clamp(from, keys.end);
            let place = query * width + head * dim;
            let (g, o) = (&self.gradient[place..place + dim], &self.out[place..place + dim]);
            let normaliser = self.normalisers[head * tokens + query];
            let both = (scores.row(query, &seen), score_gradients.row(query, &seen));
            softmax_backward_row(both.0, both.1, g, o, self.shape.scale(), normaliser);
            for unseen in [keys.start..seen.start, seen.end..keys.end] {
                scores.row(query, &unseen).fill(0.0);
                score_gradients.row(query, &unseen).fill(0.0);
            }
        }
        // SAFETY: the caller's promise.
        let place = |of: Pointer<f32>, token: usize| unsafe { of.get().add(token * width + head * dim) };
        let first_chunk = self.shape.key_chunks(task, queries).next().is_some_and(|first| first == *keys);
        for queries in tiles(queries) {
            let keys = keys.start..keys.end.min(queries.end);
            if !keys.is_empty() {
                let tile = score_gradients.rows_of(&queries, &keys);
                let (rows, out) = (queries.len(), place(dq, queries.start));
                // SAFETY: as above; the first chunk of keys writes to every query.
                unsafe { self.keys.multiply(tile, rows, key_head, keys, out, width, !first_chunk) };
            }
        }
        for keys in tiles(keys) {
            // A key is first seen by its own token.
            let accumulate = keys.start < queries.start;
            let queries = queries.start.max(keys.start)..queries.end;
            let factors = [(&*score_gradients, &self.queries, dk), (&*scores, &self.upstream, dv)];
            for (weights, panels, target) in factors {
                let tile = weights.columns_of(&keys, &queries);
                let (rows, out) = (keys.len(), place(target, keys.start));
                // SAFETY: as above; queries and keys are cut into the same tiles.
                unsafe { panels.multiply(tile, rows, head, queries.clone(), out, width, accumulate) };
            }
        }
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
