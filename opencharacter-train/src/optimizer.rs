use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use opencharacter_nn::{Gradients, Parameter};
use rayon::prelude::*;

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
        for (parameter, values) in parameters {
            let (Some(gradient), Some(moments)) = (gradients.get(parameter), self.moments.get_mut(&parameter)) else {
                continue;
            };
            let update = if parameter.decays() { decayed } else { update };
            values
                .par_chunks_mut(CHUNK)
                .zip(gradient.par_chunks(CHUNK))
                .zip(moments.first.par_chunks_mut(CHUNK).zip(moments.second.par_chunks_mut(CHUNK)))
                .for_each(|((values, gradient), (first, second))| update.apply(values, gradient, first, second));
        }
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

impl Update {
    fn apply(self, values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        let state = first.iter_mut().zip(second);
        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(state) {
            let gradient = gradient * self.scale;
            *first = self.first_decay * *first + (1.0 - self.first_decay) * gradient;
            *second = self.second_decay * *second + (1.0 - self.second_decay) * gradient * gradient;
            *value = self.keep * *value - self.rate * *first / (second.sqrt() * self.root + EPSILON);
        }
    }
}
