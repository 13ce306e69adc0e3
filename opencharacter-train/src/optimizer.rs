use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use opencharacter_nn::{Gradients, Parameter, team};

use crate::TrainError;

/// `AdamW` (Loshchilov and Hutter, 2019) with moments in f32 that can be saved and loaded. Decay spares norms and
/// biases.
#[derive(Debug)]
pub(crate) struct AdamW {
    first_decay: f64,
    second_decay: f64,
    weight_decay: f64,
    moments: BTreeMap<Parameter, Moments>,
}

#[derive(Debug, Clone)]
struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

/// One update's scalars.
#[derive(Clone, Copy)]
struct Update {
    first_decay: f32,
    second_decay: f32,
    keep: f32,
    rate: f32,
    root: f32,
    scale: f32,
}

/// Keeps the division finite where a gradient has always been zero.
const EPSILON: f32 = 1e-8;
/// Elements per parallel task.
const CHUNK: usize = 65_536;

impl AdamW {
    pub(crate) fn new(gradients: &Gradients, betas: (f64, f64), weight_decay: f64) -> Self {
        let moments = gradients
            .iter()
            .map(|(parameter, gradient)| {
                let zeros = vec![0.0; gradient.len()];
                (parameter, Moments { first: zeros.clone(), second: zeros })
            })
            .collect();
        Self { first_decay: betas.0, second_decay: betas.1, weight_decay, moments }
    }

    /// One update. `step` counts from 1; `gradients` are scaled by `gradient_scale` first.
    pub(crate) fn step(
        &mut self,
        parameters: Vec<(Parameter, &mut [f32])>,
        gradients: &Gradients,
        gradient_scale: f64,
        learning_rate: f64,
        step: usize,
    ) {
        let correction = |decay: f64| 1.0 - decay.powi(i32::try_from(step).unwrap_or(i32::MAX));
        let update = Update {
            first_decay: self.first_decay as f32,
            second_decay: self.second_decay as f32,
            keep: 1.0,
            rate: (learning_rate / correction(self.first_decay)) as f32,
            root: (1.0 / correction(self.second_decay).sqrt()) as f32,
            scale: gradient_scale as f32,
        };
        let decayed = Update { keep: (1.0 - learning_rate * self.weight_decay) as f32, ..update };
        let mut values: BTreeMap<Parameter, &mut [f32]> = parameters.into_iter().collect();
        let mut pieces = Vec::new();
        for (&parameter, moments) in &mut self.moments {
            let (Some(gradient), Some(values)) = (gradients.get(parameter), values.remove(&parameter)) else {
                continue;
            };
            let update = if parameter.decays() { decayed } else { update };
            let moments = moments.first.chunks_mut(CHUNK).zip(moments.second.chunks_mut(CHUNK));
            let values = values.chunks_mut(CHUNK).zip(gradient.chunks(CHUNK));
            pieces.extend(values.zip(moments).map(|((values, gradient), (first, second))| Piece {
                update,
                values,
                gradient,
                first,
                second,
            }));
        }
        team::for_each_chunk(&mut pieces, 1, |_, pieces| pieces.iter_mut().for_each(Piece::apply));
    }

    /// Every parameter's two moments.
    pub(crate) fn moments_mut(&mut self) -> impl Iterator<Item = (Parameter, [&mut Vec<f32>; 2])> {
        self.moments.iter_mut().map(|(&parameter, moments)| (parameter, [&mut moments.first, &mut moments.second]))
    }

    /// The moments as named tensors, for a checkpoint.
    pub(crate) fn state(&self) -> Result<Vec<(String, Tensor)>, TrainError> {
        let mut tensors = Vec::with_capacity(2 * self.moments.len());
        for (parameter, moments) in &self.moments {
            for (kind, values) in [("first", &moments.first), ("second", &moments.second)] {
                let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
                tensors.push((format!("{kind}.{}", parameter.name()), tensor));
            }
        }
        Ok(tensors)
    }

    /// Takes up the moments of a checkpoint; names the first that is missing.
    pub(crate) fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        for (parameter, moments) in &mut self.moments {
            for (kind, values) in [("first", &mut moments.first), ("second", &mut moments.second)] {
                let key = format!("{kind}.{}", parameter.name());
                let tensor = state.get(&key).filter(|tensor| tensor.elem_count() == values.len());
                let tensor = tensor.ok_or_else(|| {
                    TrainError::Tensor(candle_core::Error::Msg(format!("checkpoint has no usable `{key}`")))
                })?;
                *values = tensor.flatten_all()?.to_vec1::<f32>()?;
            }
        }
        Ok(())
    }
}

/// Each parameter's sum of squared gradients. Sums of chunks are added in their order, so threads change no bit.
pub(crate) fn squared_norms(gradients: &Gradients) -> Vec<(Parameter, f64)> {
    let mut chunks: Vec<(Parameter, &[f32], f64)> = gradients
        .iter()
        .flat_map(|(parameter, gradient)| gradient.chunks(CHUNK).map(move |chunk| (parameter, chunk, 0.0)))
        .collect();
    team::for_each_chunk(&mut chunks, 1, |_, chunks| {
        for (_, chunk, sum) in chunks {
            *sum = square_sum(chunk);
        }
    });
    let of_one = chunks.chunk_by(|left, right| left.0 == right.0);
    of_one.map(|chunks| (chunks[0].0, chunks.iter().map(|(_, _, sum)| sum).sum())).collect()
}

/// In eight sums side by side, which do not wait for each other.
fn square_sum(values: &[f32]) -> f64 {
    let (eights, rest) = values.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for values in eights {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums.into_iter().chain(rest.iter().map(|&value| f64::from(value) * f64::from(value))).sum()
}

/// Some elements of one parameter, with all that decides their update.
struct Piece<'a> {
    update: Update,
    values: &'a mut [f32],
    gradient: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Piece<'_> {
    fn apply(&mut self) {
        let Update { first_decay, second_decay, keep, rate, root, scale } = self.update;
        let state = self.first.iter_mut().zip(&mut *self.second);
        for ((value, gradient), (first, second)) in self.values.iter_mut().zip(self.gradient).zip(state) {
            let gradient = gradient * scale;
            *first = first_decay * *first + (1.0 - first_decay) * gradient;
            *second = second_decay * *second + (1.0 - second_decay) * gradient * gradient;
            *value = keep * *value - rate * *first / (second.sqrt() * root + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_of_all_elements_are_summed() {
        // 1 + 4 + ... + n^2 = n (n + 1) (2n + 1) / 6, with and without an odd rest.
        for count in [0, 5, 8, CHUNK, CHUNK + 5] {
            let values: Vec<f32> = (1..=count).map(|value| value as f32).collect();
            let exact = count as f64 * (count + 1) as f64 * (2 * count + 1) as f64 / 6.0;
            let found = square_sum(&values);
            assert!((found - exact).abs() <= 1e-12 * exact, "{count}: {found}, expected {exact}");
        }
    }
}
