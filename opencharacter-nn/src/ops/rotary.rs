use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{floats, from_floats, slice};

/// Cosines and sines of the rotary embedding (Su et al., 2021), for every position of the context.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    /// `[positions, head_dim / 2]`, cosine and sine interleaved.
    pairs: Arc<Vec<(f32, f32)>>,
    half: usize,
}

impl RotaryTable {
    /// The table for `positions` positions. Angles are computed in f32, as transformers does.
    pub fn new(head_dim: usize, positions: usize, theta: f32) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|pair| 1.0 / theta.powf((2 * pair) as f32 / head_dim as f32)).collect();
        let mut pairs = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = position as f32 * frequency;
                pairs.push((angle.cos(), angle.sin()));
            }
        }
        Self { pairs: Arc::new(pairs), half }
    }

    fn row(&self, position: u32) -> &[(f32, f32)] {
        &self.pairs[position as usize * self.half..(position as usize + 1) * self.half]
    }

    /// Rotates `[tokens, heads * head_dim]` in place; `direction` is 1 forward and -1 backward.
    fn rotate(&self, values: &mut [f32], features: usize, positions: &[u32], direction: f32) {
        values.par_chunks_mut(features).zip(positions).with_min_len(16).for_each(|(row, &position)| {
            let angles = self.row(position);
            for head in row.chunks_exact_mut(2 * self.half) {
                let (low, high) = head.split_at_mut(self.half);
                for ((low, high), &(cosine, sine)) in low.iter_mut().zip(high).zip(angles) {
                    let sine = sine * direction;
                    (*low, *high) = (*low * cosine - *high * sine, *high * cosine + *low * sine);
                }
            }
        });
    }
}

/// Rotates each head's pairs (a pair lies half a head apart) by its token's position; `x` is
/// `[tokens, heads * head_dim]` and `positions` has one entry per token.
pub fn rotary(x: &Tensor, table: &RotaryTable, positions: &Arc<Vec<u32>>) -> Result<Tensor> {
    x.apply_op1(Rotary { table: table.clone(), positions: Arc::clone(positions) })
}

struct Rotary {
    table: RotaryTable,
    positions: Arc<Vec<u32>>,
}

impl Rotary {
    fn apply(&self, x: &[f32], direction: f32) -> Vec<f32> {
        let mut out = x.to_vec();
        self.table.rotate(&mut out, x.len() / self.positions.len().max(1), &self.positions, direction);
        out
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(slice(storage, layout)?, 1.0)), layout.shape().clone()))
    }

    /// The transposed rotation is the rotation by the negative angle.
    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let values = floats(&gradient.contiguous()?, |gradient| self.apply(gradient, -1.0))?;
        Ok(Some(from_floats(values, x.dims())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;

    #[test]
    fn backward_matches_finite_differences() {
        let table = RotaryTable::new(8, 16, 10_000.0);
        let positions = Arc::new(vec![0, 1, 7]);
        check(&[normal(1, &[3, 16])], |arguments| rotary(&arguments[0], &table, &positions));
    }
}
