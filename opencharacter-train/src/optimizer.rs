use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;

use crate::TrainError;

/// `AdamW` (Loshchilov and Hutter, 2019) with moments in f32 that can be saved and loaded.
#[derive(Debug)]
pub(crate) struct AdamW {
    pub(crate) first_decay: f64,
    pub(crate) second_decay: f64,
    pub(crate) weight_decay: f64,
    moments: Vec<Moments>,
}

#[derive(Debug, Clone, Default)]
struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

/// Keeps the division finite where a gradient has always been zero.
const EPSILON: f64 = 1e-8;

impl AdamW {
    pub(crate) fn new(variables: &[(String, &Var)], betas: (f64, f64), weight_decay: f64) -> Self {
        let moments = variables
            .iter()
            .map(|(_, variable)| {
                let zeros = vec![0.0; variable.elem_count()];
                Moments { first: zeros.clone(), second: zeros }
            })
            .collect();
        Self { first_decay: betas.0, second_decay: betas.1, weight_decay, moments }
    }

    /// One update. `step` counts from 1; `gradients` are scaled by `gradient_scale` first.
    pub(crate) fn step(
        &mut self,
        variables: &[(String, &Var)],
        gradients: &[Tensor],
        gradient_scale: f64,
        learning_rate: f64,
        step: usize,
    ) -> Result<(), TrainError> {
        let correction = |decay: f64| 1.0 - decay.powi(i32::try_from(step).unwrap_or(i32::MAX));
        let (first_correction, second_correction) = (correction(self.first_decay), correction(self.second_decay));
        let (first_decay, second_decay) = (self.first_decay as f32, self.second_decay as f32);
        let keep = (1.0 - learning_rate * self.weight_decay) as f32;
        let rate = (learning_rate / first_correction) as f32;
        let root = (1.0 / second_correction.sqrt()) as f32;
        let epsilon = EPSILON as f32;
        let scale = gradient_scale as f32;
        let updates: Vec<(&Var, &Tensor, &mut Moments)> = variables
            .iter()
            .zip(gradients)
            .zip(&mut self.moments)
            .map(|(((_, variable), gradient), moments)| (*variable, gradient, moments))
            .collect();
        updates.into_par_iter().try_for_each(|(variable, gradient, moments)| -> Result<(), TrainError> {
            let mut values = variable.flatten_all()?.to_vec1::<f32>()?;
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            let state = moments.first.iter_mut().zip(&mut moments.second);
            for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(state) {
                let gradient = gradient * scale;
                *first = first_decay * *first + (1.0 - first_decay) * gradient;
                *second = second_decay * *second + (1.0 - second_decay) * gradient * gradient;
                *value = keep * *value - rate * *first / (second.sqrt() * root + epsilon);
            }
            variable.set(&Tensor::from_vec(values, variable.dims(), &Device::Cpu)?)?;
            Ok(())
        })
    }

    /// The moments as named tensors, for a checkpoint.
    pub(crate) fn state(&self, variables: &[(String, &Var)]) -> Result<Vec<(String, Tensor)>, TrainError> {
        let mut tensors = Vec::with_capacity(2 * variables.len());
        for ((name, variable), moments) in variables.iter().zip(&self.moments) {
            for (kind, values) in [("first", &moments.first), ("second", &moments.second)] {
                tensors.push((format!("{kind}.{name}"), Tensor::from_slice(values, variable.dims(), &Device::Cpu)?));
            }
        }
        Ok(tensors)
    }

    /// Takes up the moments of a checkpoint; names the first that is missing.
    pub(crate) fn restore(
        &mut self,
        variables: &[(String, &Var)],
        state: &HashMap<String, Tensor>,
    ) -> Result<(), TrainError> {
        for ((name, variable), moments) in variables.iter().zip(&mut self.moments) {
            for (kind, values) in [("first", &mut moments.first), ("second", &mut moments.second)] {
                let key = format!("{kind}.{name}");
                let tensor = state.get(&key).filter(|tensor| tensor.dims() == variable.dims());
                let tensor = tensor.ok_or_else(|| {
                    TrainError::Tensor(candle_core::Error::Msg(format!("checkpoint has no usable `{key}`")))
                })?;
                *values = tensor.flatten_all()?.to_vec1::<f32>()?;
            }
        }
        Ok(())
    }
}
