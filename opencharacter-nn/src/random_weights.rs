use std::path::Path;

use opencharacter_core::KeyedRandom;

use crate::{DecoderConfig, LinearName, NnError, NormName, Parameter, WeightData, WeightSource, team};

/// Random weights of any shape, for benchmarks and tests: speed and agreement do not ask what a model says.
#[derive(Debug, Clone)]
pub struct RandomWeights {
    seed: u64,
    /// The linear layers that have biases.
    biases: Vec<LinearName>,
    has_head_norms: bool,
}

/// Values per parallel task, each with a stream of its own.
const CHUNK: usize = 1 << 16;

impl RandomWeights {
    /// Weights that follow from `seed`, with biases on `biases` and norms of single heads where `has_head_norms`.
    pub fn new(seed: u64, biases: &[LinearName], has_head_norms: bool) -> Self {
        Self { seed, biases: biases.to_vec(), has_head_norms }
    }

    /// `length` values, uniform around `mean`.
    fn values(&self, parameter: Parameter, length: usize, mean: f32, deviation: f32) -> Vec<f32> {
        let name = parameter.name();
        let mut values = vec![0.0; length];
        // The width of a uniform distribution of this deviation.
        let width = deviation * 12_f32.sqrt();
        team::for_each_chunk(&mut values, CHUNK, |chunk, values| {
            let mut random = KeyedRandom::new(self.seed, &[&name, &chunk.to_string()]);
            for value in values {
                *value = mean + (random.uniform() as f32 - 0.5) * width;
            }
        });
        values
    }

    /// A matrix that keeps the size of what it multiplies.
    fn matrix(&self, parameter: Parameter, outputs: usize, inputs: usize) -> WeightData {
        WeightData::Floats(self.values(parameter, outputs * inputs, 0.0, 1.0 / (inputs as f32).sqrt()))
    }
}

impl WeightSource for RandomWeights {
    fn path(&self) -> &Path {
        Path::new("random weights")
    }

    fn check(&self, config: &DecoderConfig) -> Result<(), NnError> {
        config.validate().map_err(|reason| NnError::Malformed { path: self.path().into(), reason })
    }

    fn embedding(&mut self, config: &DecoderConfig) -> Result<WeightData, NnError> {
        Ok(self.matrix(Parameter::Embedding, config.vocab_size, config.hidden_size))
    }

    fn head(&mut self, config: &DecoderConfig) -> Result<WeightData, NnError> {
        Ok(self.matrix(Parameter::Head, config.vocab_size, config.hidden_size))
    }

    fn final_norm(&mut self, config: &DecoderConfig) -> Result<Vec<f32>, NnError> {
        Ok(self.values(Parameter::FinalNorm, config.hidden_size, 1.0, 0.1))
    }

    fn norm(&mut self, layer: usize, name: NormName, config: &DecoderConfig) -> Result<Option<Vec<f32>>, NnError> {
        if matches!(name, NormName::Query | NormName::Key) && !self.has_head_norms {
            return Ok(None);
        }
        let (parameter, length) = name.parameter(layer, config);
        Ok(Some(self.values(parameter, length, 1.0, 0.1)))
    }

    fn linear(&mut self, layer: usize, name: LinearName, config: &DecoderConfig) -> Result<WeightData, NnError> {
        let (outputs, inputs) = name.shape(config);
        Ok(self.matrix(Parameter::Weight(layer, name), outputs, inputs))
    }

    fn bias(&mut self, layer: usize, name: LinearName, config: &DecoderConfig) -> Result<Option<Vec<f32>>, NnError> {
        let has_one = self.biases.contains(&name);
        Ok(has_one.then(|| self.values(Parameter::Bias(layer, name), name.shape(config).0, 0.0, 0.1)))
    }
}
