use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::storage::{from_floats, slice};
use crate::linear::FrozenLinear;
use crate::simd;

/// Rows whose logits exist at once: 64 rows of 49,152 logits are 12 MiB.
const CHUNK: usize = 64;

/// The output head's loss over rows, and what it says about each.
#[derive(Debug)]
pub struct HeadLoss {
    /// Sum of the rows' negative log-likelihoods, in nats; a scalar tensor through which a gradient flows.
    pub sum: Tensor,
    /// Each row's negative log-likelihood.
    pub per_row: Vec<f32>,
}

/// Cross-entropy of `hidden W^T` against `targets`, without ever holding all logits.
///
/// `hidden` is `[rows, features]` and holds only rows that are trained; `targets` has one token per row. Logits,
/// loss and gradient of a chunk of rows are computed at once and the logits dropped.
pub fn head_cross_entropy(hidden: &Tensor, head: &FrozenLinear, targets: &[u32]) -> Result<HeadLoss> {
    let (rows, _) = hidden.dims2()?;
    if rows != targets.len() || rows == 0 {
        bail!("cross-entropy needs one target per row and at least one row, got {rows} rows, {}", targets.len());
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= head.forward().outputs()) {
        bail!("target {target} is outside the vocabulary of {}", head.forward().outputs());
    }
    let per_row = std::sync::Arc::new(Mutex::new(Vec::new()));
    let operation = HeadCrossEntropy {
        head: head.clone(),
        targets: targets.to_vec(),
        tracked: hidden.track_op(),
        per_row: std::sync::Arc::clone(&per_row),
        gradient: Mutex::new(Vec::new()),
    };
    let sum = hidden.apply_op1(operation)?;
    let per_row = std::mem::take(&mut *lock(&per_row));
    Ok(HeadLoss { sum, per_row })
}

/// A poisoned lock means that another thread panicked while it only moved a vector; the value is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct HeadCrossEntropy {
    head: FrozenLinear,
    targets: Vec<u32>,
    tracked: bool,
    per_row: std::sync::Arc<Mutex<Vec<f32>>>,
    /// `[rows, features]`: the gradient of the sum, computed on the way forward while the logits are at hand.
    gradient: Mutex<Vec<f32>>,
}

simd::vectorised! {
    /// Turns logits into `softmax - one_hot(target)`.
    fn softmax_minus_target(logits: &mut [f32], normaliser: f32, target: usize) {
        for logit in logits.iter_mut() {
            *logit = simd::exp(*logit - normaliser);
        }
        logits[target] -= 1.0;
    }
}

impl CustomOp1 for HeadCrossEntropy {
    fn name(&self) -> &'static str {
        "head-cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, features) = layout.shape().dims2()?;
        let hidden = slice(storage, layout)?;
        let vocabulary = self.head.forward().outputs();
        let mut losses = Vec::with_capacity(self.targets.len());
        let mut gradient = Vec::with_capacity(if self.tracked { hidden.len() } else { 0 });
        for (hidden, targets) in hidden.chunks(CHUNK * features).zip(self.targets.chunks(CHUNK)) {
            let mut logits = self.head.forward().multiply(hidden, targets.len());
            let rows = logits.par_chunks_mut(vocabulary).zip(targets);
            let chunk_losses: Vec<f32> = rows
                .map(|(logits, &target)| {
                    let normaliser = simd::log_sum_exp(logits);
                    let loss = normaliser - logits[target as usize];
                    if self.tracked {
                        softmax_minus_target(logits, normaliser, target as usize);
                    }
                    loss
                })
                .collect();
            losses.extend(chunk_losses);
            if self.tracked {
                gradient.extend(self.head.backward().multiply(&logits, targets.len()));
            }
        }
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        *lock(&self.per_row) = losses;
        *lock(&self.gradient) = gradient;
        Ok((CpuStorage::F32(vec![sum as f32]), Shape::from(())))
    }

    fn bwd(&self, hidden: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let upstream = gradient.to_scalar::<f32>()?;
        let mut values = lock(&self.gradient).clone();
        simd::scale(&mut values, upstream);
        Ok(Some(from_floats(values, hidden.dims())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;
    use crate::PackedMatrix;

    fn head(vocabulary: usize, features: usize) -> FrozenLinear {
        let values = normal(5, &[vocabulary, features]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        FrozenLinear::new(PackedMatrix::new(&values, vocabulary, features))
    }

    #[test]
    fn backward_matches_finite_differences() {
        let head = head(23, 6);
        check(&[normal(1, &[5, 6])], |arguments| Ok(head_cross_entropy(&arguments[0], &head, &[0, 22, 7, 7, 1])?.sum));
    }

    #[test]
    fn chunked_equals_whole() {
        let head = head(40, 6);
        let hidden = normal(1, &[CHUNK * 2 + 3, 6]);
        let targets: Vec<u32> = (0..CHUNK as u32 * 2 + 3).map(|row| row % 40).collect();
        let chunked = head_cross_entropy(&hidden, &head, &targets).unwrap();
        for (row, target) in targets.iter().enumerate() {
            let alone = head_cross_entropy(&hidden.narrow(0, row, 1).unwrap(), &head, &[*target]).unwrap();
            assert_eq!(alone.per_row[0], chunked.per_row[row], "row {row}");
        }
    }
}
