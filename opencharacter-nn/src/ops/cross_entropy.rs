use std::cell::RefCell;

use candle_core::{Result, Tensor, bail};

use super::storage::{floats, from_floats};
use crate::matrix::{Activations, OuterProduct, PackedMatrix, Target, add_outer_products};
use crate::{
    simd,
    team::{self, Pointer},
};

/// Rows whose logits exist at once: 256 rows of 49,152 logits are 48 MiB. Fewer rows would turn the head's panels more
/// often on the way back.
const CHUNK: usize = 256;

thread_local! {
    /// Logits of a chunk. They are the largest piece of memory of a pass, large enough that the C library has the kernel
    /// map and clear it anew whenever one is asked for.
    static LOGITS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The output head's loss over rows.
#[derive(Debug)]
pub(crate) struct HeadLoss {
    /// Each row's negative log-likelihood, in nats.
    pub(crate) per_row: Vec<f32>,
    /// `[rows, features]`: the gradient of the weighted sum, if it was asked for.
    pub(crate) gradient: Option<Tensor>,
}

simd::vectorised! {
    /// Turns logits into `weight * (softmax - one_hot(target))` and returns the loss: as many exponentials as the loss
    /// alone takes, and its bits.
    fn loss_and_gradient(logits: &mut [f32], target: usize, weight: f32) -> f32 {
        let of_target = logits[target];
        let (maximum, total) = simd::exponentiate(logits, 1.0);
        simd::scale(logits, weight / total);
        logits[target] -= weight;
        maximum + total.ln() - of_target
    }
}

/// Each row's negative log-likelihood of its target under `softmax(hidden W^T)`, without ever holding all logits.
///
/// `hidden` is `[rows, features]` and holds only rows that count; `targets` has one token per row.
pub(crate) fn head_cross_entropy(
    hidden: &Tensor,
    head: &PackedMatrix,
    targets: &[u32],
    activations: Activations,
) -> Result<HeadLoss> {
    run(hidden, head, targets, activations, None, None)
}

/// As [`head_cross_entropy`], with the gradient of `sum(weights[row] * loss[row])`; with `head_gradient`, the head's
/// gradient is added to those panels. Logits, loss and gradient of a chunk of rows are computed at once and the
/// logits dropped.
pub(crate) fn head_gradient(
    hidden: &Tensor,
    head: &PackedMatrix,
    targets: &[u32],
    weights: &[f32],
    head_gradient: Option<&mut [f32]>,
) -> Result<HeadLoss> {
    run(hidden, head, targets, Activations::Floats, Some(weights), head_gradient)
}

fn run(
    hidden: &Tensor,
    head: &PackedMatrix,
    targets: &[u32],
    activations: Activations,
    weights: Option<&[f32]>,
    mut head_gradient: Option<&mut [f32]>,
) -> Result<HeadLoss> {
    let (rows, features) = hidden.dims2()?;
    if rows != targets.len() || weights.is_some_and(|weights| weights.len() != rows) {
        bail!("cross-entropy needs one target and one weight per row, got {rows} rows, {} targets", targets.len());
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= head.outputs()) {
        bail!("target {target} is outside the vocabulary of {}", head.outputs());
    }
    let mut per_row = Vec::with_capacity(rows);
    let mut gradient = Vec::new();
    // Training comes again with the next part or batch; others do not keep so much memory.
    let mut logits = if weights.is_some() { LOGITS.take() } else { Vec::new() };
    for (chunk, hidden) in floats(hidden)?.chunks(CHUNK * features).enumerate() {
        let place = chunk * CHUNK..(chunk * CHUNK + CHUNK).min(rows);
        let weights = weights.map(|weights| &weights[place.clone()]);
        head.multiply_into(activations, hidden, place.len(), &mut logits);
        let targets = &targets[place.clone()];
        let mut losses = vec![0.0; place.len()];
        let losses_start = Pointer(losses.as_mut_ptr());
        team::for_each_chunk(&mut logits, head.outputs(), |row, logits| {
            let target = targets[row] as usize;
            let loss = match weights {
                Some(weights) => loss_and_gradient(logits, target, weights[row]),
                None => simd::log_sum_exp(logits) - logits[target],
            };
            // SAFETY: one writer per row.
            unsafe { *losses_start.get().add(row) = loss };
        });
        per_row.extend(losses);
        if weights.is_some() {
            gradient.extend(head.multiply_transposed(&logits, place.len()));
        }
        if let Some(target) = head_gradient.as_deref_mut() {
            add_outer_products(hidden, place.len(), [OuterProduct { right: &logits, target: Target::Panels(target) }]);
        }
    }
    if weights.is_some() {
        LOGITS.set(logits);
    }
    let gradient = weights.is_some().then(|| from_floats(gradient, &[rows, features])).transpose()?;
    Ok(HeadLoss { per_row, gradient })
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, flat, normal};
    use super::*;

    fn head(vocabulary: usize, features: usize) -> PackedMatrix {
        PackedMatrix::new(&flat(&normal(5, &[vocabulary, features])), vocabulary, features)
    }

    #[test]
    fn backward_matches_finite_differences() {
        let targets = [0, 22, 7, 7, 1];
        check(
            &[normal(1, &[5, 6]), normal(5, &[23, 6])],
            |arguments| {
                let head = PackedMatrix::new(&flat(&arguments[1]), 23, 6);
                from_floats(head_cross_entropy(&arguments[0], &head, &targets, Activations::Floats)?.per_row, &[5])
            },
            |arguments, gradient| {
                let head = PackedMatrix::new(&flat(&arguments[1]), 23, 6);
                let mut sums = PackedMatrix::new(&[0.0; 23 * 6], 23, 6);
                let panels = sums.floats_mut().unwrap();
                let loss = head_gradient(&arguments[0], &head, &targets, &flat(gradient), Some(panels))?;
                Ok(vec![loss.gradient.unwrap(), from_floats(sums.to_rows(), &[23, 6])?])
            },
        );
    }

    #[test]
    fn chunked_equals_whole() {
        let head = head(40, 6);
        let rows = CHUNK * 2 + 3;
        let hidden = normal(1, &[rows, 6]);
        let targets: Vec<u32> = (0..rows as u32).map(|row| row % 40).collect();
        let chunked = head_gradient(&hidden, &head, &targets, &vec![1.0; rows], None).unwrap();
        let gradients = chunked.gradient.unwrap().to_vec2::<f32>().unwrap();
        for (row, target) in targets.iter().enumerate() {
            let hidden = hidden.narrow(0, row, 1).unwrap();
            let alone = head_gradient(&hidden, &head, &[*target], &[1.0], None).unwrap();
            assert_eq!(alone.per_row[0], chunked.per_row[row], "row {row}");
            assert_eq!(alone.gradient.unwrap().to_vec2::<f32>().unwrap()[0], gradients[row], "row {row}");
        }
    }

    #[test]
    fn a_target_outside_the_vocabulary_is_refused() {
        let error = head_cross_entropy(&normal(1, &[1, 6]), &head(5, 6), &[5], Activations::Floats).unwrap_err();
        assert!(error.to_string().contains("outside the vocabulary of 5"), "{error}");
    }
}
