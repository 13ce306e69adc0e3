//! Low-rank adapters on linear layers: their inner products, and the gradients of their factors.
//!
//! Layers that share an input (queries, keys and values; gate and up) go together: one loop over all of their products
//! instead of one for each.

use std::{slice, sync::Arc};

use candle_core::{Result, Tensor};

use super::{Dropout, Upstream, storage::floats};
use crate::{
    matrix::{Factor, Orientation, OuterProduct, PackedMatrix, Target, Term, add_outer_products, several_sums},
    simd,
};

/// The two factors of a low-rank adapter (Hu et al., 2021) on one linear layer, packed for multiplication. The scale
/// is folded into the second.
#[derive(Debug, Clone)]
pub(crate) struct PackedLora {
    pub(super) a: Arc<PackedMatrix>,
    pub(super) b: Arc<PackedMatrix>,
    scale: f32,
    /// On the adapter's input, while training.
    pub(super) dropout: Option<Dropout>,
}

impl PackedLora {
    /// `a` is `[rank, inputs]`, `b` is `[outputs, rank]`.
    pub(crate) fn new(a: &[f32], b: &[f32], outputs: usize, inputs: usize, rank: usize, scale: f32) -> Self {
        let scaled: Vec<f32> = b.iter().map(|value| value * scale).collect();
        Self {
            a: Arc::new(PackedMatrix::new(a, rank, inputs)),
            b: Arc::new(PackedMatrix::new(&scaled, outputs, rank)),
            scale,
            dropout: None,
        }
    }

    /// The same with dropout on its input.
    #[must_use]
    pub(crate) fn with_dropout(self, dropout: Dropout) -> Self {
        Self { dropout: Some(dropout), ..self }
    }
}

/// `x A^T` of adapters that share their input: each `[rows, rank]`, with its adapter's dropout on `x`. `factor` is `x` where
/// it takes part in training.
pub(super) fn project(adapters: &[&PackedLora], x: &[f32], factor: Option<&Factor<'_>>, rows: usize) -> Vec<Vec<f32>> {
    let dropped: Vec<Option<Vec<f32>>> =
        adapters.iter().map(|lora| lora.dropout.map(|dropout| dropout.apply(x))).collect();
    let terms = adapters.iter().zip(&dropped);
    let terms = terms.map(|(lora, dropped)| match (dropped, factor) {
        (None, Some(factor)) => factor.term(&lora.a),
        (dropped, _) => Term::Floats { x: dropped.as_deref().unwrap_or(x), matrix: &lora.a },
    });
    side_by_side(Orientation::Forward, &terms.collect::<Vec<_>>(), rows)
}

/// For each layer that has an adapter, the gradient of its `x A^T`, `[tokens, rank]`.
pub(crate) fn inner_gradients(upstream: &[Upstream<'_>]) -> Result<Vec<Option<Vec<f32>>>> {
    let Some(first) = upstream.first() else { return Ok(Vec::new()) };
    let gradients = upstream.iter().map(|part| floats(part.gradient)).collect::<Result<Vec<_>>>()?;
    let factors = upstream.iter().zip(&gradients).map(|(part, x)| Factor::new(x, part.weight.outputs()));
    Ok(inner_gradients_of(upstream, &factors.collect::<Vec<_>>(), first.gradient.dim(0)?))
}

/// The same with the layers' gradients as `factors`.
pub(super) fn inner_gradients_of(
    upstream: &[Upstream<'_>],
    factors: &[Factor<'_>],
    rows: usize,
) -> Vec<Option<Vec<f32>>> {
    let terms = upstream.iter().zip(factors);
    let terms: Vec<Term<'_>> = terms.filter_map(|(part, factor)| Some(factor.term(&part.lora?.b))).collect();
    let mut inner = side_by_side(Orientation::Transposed, &terms, rows).into_iter();
    upstream.iter().map(|part| part.lora.and_then(|_| inner.next())).collect()
}

/// A product of each term, in one loop over all of them.
fn side_by_side(orientation: Orientation, terms: &[Term<'_>], rows: usize) -> Vec<Vec<f32>> {
    several_sums(orientation, &terms.iter().map(slice::from_ref).collect::<Vec<_>>(), rows)
}

/// One layer's part in [`low_rank_gradients`].
pub(crate) struct LowRankPart<'a> {
    pub(crate) lora: &'a PackedLora,
    /// The gradient of the layer's result.
    pub(crate) gradient: &'a Tensor,
    /// The gradient of `x A^T`, as [`inner_gradients`] gives it.
    pub(crate) inner: &'a [f32],
    /// The sum for the first factor, `[rank, inputs]`.
    pub(crate) a: &'a mut [f32],
    /// The sum for the second, `[outputs, rank]`.
    pub(crate) b: &'a mut [f32],
}

/// Adds the gradients of the factors of adapters whose layers share the input `x`.
pub(crate) fn low_rank_gradients(x: &Tensor, parts: &mut [LowRankPart<'_>]) -> Result<()> {
    let (tokens, x) = (x.dim(0)?, floats(x)?);
    if parts.iter().all(|part| part.lora.dropout.is_none()) {
        return add_gradients(&x, tokens, parts);
    }
    // Each reads an `x` of its own.
    for part in parts {
        let dropped = part.lora.dropout.map(|dropout| dropout.apply(&x));
        add_gradients(dropped.as_deref().unwrap_or(&x), tokens, slice::from_mut(part))?;
    }
    Ok(())
}

/// The same where all adapters read this very `x`.
fn add_gradients(x: &[f32], tokens: usize, parts: &mut [LowRankPart<'_>]) -> Result<()> {
    add_first_factors(x, tokens, parts);
    let terms: Vec<Term<'_>> = parts.iter().map(|part| Term::Floats { x, matrix: &part.lora.a }).collect();
    let projected = side_by_side(Orientation::Forward, &terms, tokens);
    for (part, mut projected) in parts.iter_mut().zip(projected) {
        simd::scale(&mut projected, part.lora.scale);
        let mut turned = vec![0.0; part.b.len()];
        let (right, target) = (&*floats(part.gradient)?, Target::Rows(&mut turned));
        add_outer_products(&projected, tokens, [OuterProduct { right, target }]);
        let (rank, outputs) = (part.lora.a.outputs(), part.lora.b.outputs());
        for (output, row) in part.b.chunks_exact_mut(rank).enumerate() {
            for (index, value) in row.iter_mut().enumerate() {
                *value += turned[index * outputs + output];
            }
        }
    }
    Ok(())
}

/// One product with as many rows as the ranks have together: `x` is copied into strips once, and three ranks of 16 are
/// whole tiles.
fn add_first_factors(x: &[f32], tokens: usize, parts: &mut [LowRankPart<'_>]) {
    let mut inner = Vec::with_capacity(parts.iter().map(|part| part.inner.len()).sum());
    for token in 0..tokens {
        for part in &*parts {
            let rank = part.lora.a.outputs();
            inner.extend_from_slice(&part.inner[token * rank..(token + 1) * rank]);
        }
    }
    let mut stacked = parts.iter().map(|part| &*part.a).collect::<Vec<_>>().concat();
    add_outer_products(&inner, tokens, [OuterProduct { right: x, target: Target::Rows(&mut stacked) }]);
    let mut rest = stacked.as_slice();
    for part in parts {
        let (sums, others) = rest.split_at(part.a.len());
        part.a.copy_from_slice(sums);
        rest = others;
    }
}
