use candle_core::{Result, Tensor};

use super::storage::{floats, from_floats};
use crate::team;

/// The angular steps of the rotary embedding (Su et al., 2021): radians per position, one for each pair of features.
#[derive(Debug, Clone)]
pub(crate) struct RotaryFrequencies(Vec<f32>);

/// Cosines and sines of a batch's positions, shared by all its blocks.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// `[tokens][head_dim / 2]`.
    pairs: Vec<(f32, f32)>,
    half: usize,
}

/// Tokens per parallel task.
const TOKENS: usize = 8;

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    /// The transposed rotation, which is the rotation by the negative angle.
    Backward,
}

impl RotaryFrequencies {
    /// Frequencies of base `theta`, each divided by its factor where there are any. Computed in f32, as transformers
    /// does.
    pub(crate) fn new(head_dim: usize, theta: f32, factors: &[f32]) -> Self {
        let frequency = |pair: usize| 1.0 / theta.powf((2 * pair) as f32 / head_dim as f32);
        Self((0..head_dim / 2).map(|pair| frequency(pair) / factors.get(pair).copied().unwrap_or(1.0)).collect())
    }

    /// Radians per position of each pair.
    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The angles of `positions`, one per token.
    pub(crate) fn rotation(&self, positions: &[u32]) -> Rotation {
        let half = self.0.len();
        let mut pairs = vec![(0.0, 0.0); positions.len() * half];
        team::for_each_chunk(&mut pairs, TOKENS * half, |chunk, rows| {
            for (row, &position) in rows.chunks_exact_mut(half).zip(&positions[chunk * TOKENS..]) {
                for (pair, frequency) in row.iter_mut().zip(&self.0) {
                    let angle = position as f32 * frequency;
                    *pair = (angle.cos(), angle.sin());
                }
            }
        });
        Rotation { pairs, half }
    }
}

/// Rotates each head's pairs (a pair lies half a head apart) by its token's position; `x` is
/// `[tokens, heads * head_dim]`.
pub(crate) fn rotate(x: &Tensor, rotation: &Rotation, direction: Direction) -> Result<Tensor> {
    let features = x.dim(1)?;
    let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
    let half = rotation.half;
    let values = floats(x)?;
    let out = team::copy(&values, TOKENS * features, |chunk, rows| {
        let angles = rotation.pairs[chunk * TOKENS * half..].chunks_exact(half);
        for (row, pairs) in rows.chunks_exact_mut(features).zip(angles) {
            for head in row.chunks_exact_mut(2 * half) {
                let (low, high) = head.split_at_mut(half);
                for ((low, high), &(cosine, sine)) in low.iter_mut().zip(high).zip(pairs) {
                    let sine = sine * sign;
                    (*low, *high) = (*low * cosine - *high * sine, *high * cosine + *low * sine);
                }
            }
        }
    });
    from_floats(out, x.dims())
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;

    #[test]
    fn backward_matches_finite_differences() {
        let rotation = RotaryFrequencies::new(8, 10_000.0, &[1.0, 2.0, 4.0, 8.0]).rotation(&[0, 1, 7]);
        check(
            &[normal(1, &[3, 16])],
            |arguments| rotate(&arguments[0], &rotation, Direction::Forward),
            |_, gradient| Ok(vec![rotate(gradient, &rotation, Direction::Backward)?]),
        );
    }
}
