use candle_core::{Result, Tensor};

use super::storage::{floats, from_floats};
use crate::{simd::vectorised, team};

/// The angular steps of the rotary embedding (Su et al., 2021): radians per position, one for each pair of features.
#[derive(Debug, Clone)]
pub(crate) struct RotaryFrequencies(Vec<f32>);

/// Cosines and sines of a batch's positions, shared by all its blocks.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// `[tokens][cosines, sines][head_dim / 2]`.
    angles: Vec<f32>,
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
        let mut angles = vec![0.0; positions.len() * 2 * half];
        team::for_each_chunk(&mut angles, TOKENS * 2 * half, |chunk, rows| {
            for (row, &position) in rows.chunks_exact_mut(2 * half).zip(&positions[chunk * TOKENS..]) {
                let (cosines, sines) = row.split_at_mut(half);
                for ((cosine, sine), frequency) in cosines.iter_mut().zip(sines).zip(&self.0) {
                    (*sine, *cosine) = (position as f32 * frequency).sin_cos();
                }
            }
        });
        Rotation { angles, half }
    }
}

vectorised! {
    /// Rotates a row's heads by angles whose cosines are given, then their sines.
    fn rotate_row(row: &[f32], angles: &[f32], sign: f32, out: &mut [f32]) {
        let half = angles.len() / 2;
        let (cosines, sines) = angles.split_at(half);
        for (head, out) in row.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)) {
            let (low, high) = head.split_at(half);
            let (low_out, high_out) = out.split_at_mut(half);
            let outs = low_out.iter_mut().zip(high_out);
            for (((low_out, high_out), (low, high)), (cosine, sine)) in
                outs.zip(low.iter().zip(high)).zip(cosines.iter().zip(sines))
            {
                let sine = sine * sign;
                (*low_out, *high_out) = (low * cosine - high * sine, high * cosine + low * sine);
            }
        }
    }
}

/// Rotates each head's pairs (a pair lies half a head apart) by its token's position; `x` is
/// `[tokens, heads * head_dim]`.
pub(crate) fn rotate(x: &Tensor, rotation: &Rotation, direction: Direction) -> Result<Tensor> {
    let features = x.dim(1)?;
    let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
    let half = rotation.half;
    let values = floats(x)?;
    let out = team::fill(values.len(), TOKENS * features, |chunk, out| {
        let angles = rotation.angles[chunk * TOKENS * 2 * half..].chunks_exact(2 * half);
        let rows = values[chunk * TOKENS * features..].chunks_exact(features).zip(out.chunks_exact_mut(features));
        for ((row, out), angles) in rows.zip(angles) {
            rotate_row(row, angles, sign, out);
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
