use std::{path::Path, rc::Rc};

use opencharacter_core::KeyedRandom;
use opencharacter_cuda::{Device, DeviceModel, Update};
use opencharacter_nn::{
    Adapter, Decoder, Gradients, LoraAdapter, Model, PackedAdapter, PackedBatch, Parameter, PassOptions, TokenWeights,
    Trainable, loss_and_gradients, token_losses,
};

use crate::{
    Method, Quantity, TrainConfig, TrainError,
    checkpoint::{self, load_moments},
    device::{self, HostCopies},
    optimizer::{AdamW, squared_norms},
    preference::{log_ratios, pair_loss, token_weights},
    reference::References,
    task::TaskData,
};

/// A model in training: its parameters, their gradients and the optimiser's state, without any file.
#[derive(Debug)]
pub struct Trainer {
    decoder: Decoder,
    /// None when every weight is trained.
    adapter: Option<LoraAdapter>,
    /// Of the step in progress; kept from step to step for their memory. Empty where a device computes.
    gradients: Gradients,
    optimizer: AdamW,
    /// Where passes and updates run, if not here. What is trained is then newer there until it is pulled.
    device: Option<DeviceModel>,
    config: TrainConfig,
}

/// A packed batch and what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub enum StepBatch<'a> {
    /// That its trained tokens become likelier.
    Dialogues(&'a PackedBatch),
    /// That the first of every two sequences becomes likelier than the second, against the reference model.
    Preferences {
        /// The sequences.
        batch: &'a PackedBatch,
        /// The reference's log p(chosen) - log p(rejected), one per pair.
        reference: &'a [f64],
    },
}

impl<'a> StepBatch<'a> {
    fn batch(self) -> &'a PackedBatch {
        match self {
            Self::Dialogues(batch) | Self::Preferences { batch, .. } => batch,
        }
    }
}

/// Losses that are to be averaged.
#[derive(Debug, Clone, Copy, Default)]
struct LossSum {
    loss: f64,
    /// Trained tokens, or pairs: what the mean is over.
    units: usize,
    trained_tokens: usize,
    /// Pairs whose log-ratio is above the reference's.
    preferred: usize,
}

impl LossSum {
    fn of_tokens(losses: &[f32]) -> Self {
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum();
        Self { loss, units: losses.len(), trained_tokens: losses.len(), preferred: 0 }
    }

    fn of_pairs(batch: &PackedBatch, losses: &[f32], reference: &[f64], beta: f64) -> Self {
        let ratios = log_ratios(batch, losses);
        let margins = ratios.iter().zip(reference).map(|(ratio, reference)| beta * (ratio - reference));
        Self {
            loss: margins.clone().map(pair_loss).sum(),
            units: reference.len(),
            trained_tokens: losses.len(),
            preferred: margins.filter(|&margin| margin > 0.0).count(),
        }
    }

    fn add(&mut self, other: Self) {
        self.loss += other.loss;
        self.units += other.units;
        self.trained_tokens += other.trained_tokens;
        self.preferred += other.preferred;
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// Mean over trained tokens or over pairs before the update: see [`crate::Task`].
    pub loss: f64,
    /// Share of pairs whose chosen answer has gained on the rejected one since the start, before the update.
    pub preferred: Option<f64>,
    /// The gradient's norm before it was cut.
    pub gradient_norm: f64,
    /// Tokens trained.
    pub trained_tokens: usize,
    /// All tokens.
    pub tokens: usize,
}

impl Trainer {
    /// A copy of `start` or a fresh adapter on `model`, or a copy of all its weights, as `config` says.
    pub fn new(model: &Model, start: Option<&LoraAdapter>, config: &TrainConfig) -> Result<Self, TrainError> {
        Self::on(None, &model.decoder, start, config)
    }

    /// As [`Trainer::new`], on `device` where there is one.
    pub fn on(
        device: Option<&Rc<dyn Device>>,
        decoder: &Decoder,
        start: Option<&LoraAdapter>,
        config: &TrainConfig,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        let adapter = match (config.method, start) {
            (Method::Lora, Some(start)) => Some(start.clone()),
            (Method::Lora, None) => Some(LoraAdapter::new(config.lora.clone(), decoder.config(), config.seed)),
            (Method::Full, _) => None,
        };
        let mut decoder = decoder.clone();
        if adapter.is_none() {
            decoder.thaw();
        }
        let mut gradients = match &adapter {
            Some(adapter) => adapter.gradients(),
            None => Gradients::zeros(
                weights_mut(&mut decoder)?.into_iter().map(|(parameter, values)| (parameter, values.len())),
            ),
        };
        let optimizer = AdamW::new(&gradients, config.betas, config.weight_decay);
        let device = match device {
            Some(device) => {
                gradients = Gradients::zeros([]);
                Some(device::model(Rc::clone(device), &decoder, adapter.as_ref())?)
            }
            None => None,
        };
        Ok(Self { decoder, adapter, gradients, optimizer, device, config: config.clone() })
    }

    /// One update on `batches`, which is step `step` (from 1) of its run.
    ///
    /// # Errors
    /// A loss or gradient that is no number leaves every parameter as it was; so does a parameter that no gradient
    /// reaches at the first step.
    pub fn step(
        &mut self,
        batches: &[StepBatch<'_>],
        learning_rate: f64,
        step: usize,
    ) -> Result<StepOutcome, TrainError> {
        match &self.device {
            Some(device) => device.clear_gradients()?,
            None => self.gradients.clear(),
        }
        let mut sum = LossSum::default();
        for (index, batch) in batches.iter().enumerate() {
            sum.add(self.add_gradients(*batch, step, index)?);
        }
        if sum.units == 0 {
            return Err(TrainError::NothingToTrain { reason: format!("step {step} holds no trained token") });
        }
        // One mean over all tokens or pairs of the step: a mean of means would weigh short batches more.
        let scale = 1.0 / sum.units as f64;
        let loss = sum.loss * scale;
        let squares = self.squared_gradient_norms()?;
        let gradient_norm = squares.iter().map(|(_, square)| square).sum::<f64>().sqrt() * scale;
        for (quantity, value) in [(Quantity::Loss, loss), (Quantity::GradientNorm, gradient_norm)] {
            if !value.is_finite() {
                return Err(TrainError::NotFinite { quantity, value, step, examples: String::new() });
            }
        }
        if step == 1 {
            check_gradients(&squares)?;
        }
        let clip = (self.config.max_gradient_norm / gradient_norm.max(1e-12)).min(1.0);
        self.update(scale * clip, learning_rate, step)?;
        let tokens = batches.iter().map(|batch| batch.batch().tokens.len()).sum();
        let is_pairs = matches!(batches[0], StepBatch::Preferences { .. });
        let preferred = is_pairs.then_some(sum.preferred as f64 * scale);
        Ok(StepOutcome { loss, preferred, gradient_norm, trained_tokens: sum.trained_tokens, tokens })
    }

    /// Each parameter's sum of squared gradients.
    fn squared_gradient_norms(&self) -> Result<Vec<(Parameter, f64)>, TrainError> {
        match &self.device {
            Some(device) => Ok(device.squared_gradient_norms()?),
            None => Ok(squared_norms(&self.gradients)),
        }
    }

    fn update(&mut self, gradient_scale: f64, learning_rate: f64, step: usize) -> Result<(), TrainError> {
        let TrainConfig { betas, weight_decay, .. } = self.config;
        if let Some(device) = &self.device {
            return Ok(device.update(Update { betas, weight_decay, gradient_scale, learning_rate, step })?);
        }
        let parameters = match &mut self.adapter {
            Some(adapter) => adapter.parameters_mut(),
            None => weights_mut(&mut self.decoder)?,
        };
        self.optimizer.step(parameters, &self.gradients, gradient_scale, learning_rate, step);
        Ok(())
    }

    /// Each trained token's loss; gradients are added up where the trainer computes.
    fn loss_and_gradients(
        &mut self,
        batch: &PackedBatch,
        weights: TokenWeights<'_>,
        options: PassOptions,
    ) -> Result<Vec<f32>, TrainError> {
        if let Some(device) = &self.device {
            return Ok(device.loss_and_gradients(batch, weights, options)?);
        }
        let trainable = self.adapter.as_ref().map_or(Trainable::Weights, Trainable::Lora);
        Ok(loss_and_gradients(&self.decoder, trainable, batch, weights, options, &mut self.gradients)?)
    }

    /// Each trained token's loss in `batch`, without gradients.
    fn token_losses(&self, batch: &PackedBatch, adapter: Adapter<'_>) -> Result<Vec<f32>, TrainError> {
        match &self.device {
            Some(device) => Ok(device.token_losses(batch)?),
            None => Ok(token_losses(&self.decoder, batch, adapter)?),
        }
    }

    /// The adapter as a forward pass on this machine takes it; nothing where a device computes.
    fn packed_adapter(&self) -> Option<PackedAdapter> {
        self.adapter.as_ref().filter(|_| self.device.is_none()).map(LoraAdapter::pack)
    }

    /// Options of a training pass, but for its key.
    fn pass_options(&self) -> PassOptions {
        PassOptions {
            recompute: self.config.recompute,
            neftune_alpha: self.config.neftune_alpha,
            lora_dropout: if self.adapter.is_some() { self.config.lora.dropout } else { 0.0 },
            key: 0,
        }
    }

    /// Takes the device's memory for batches of up to `tokens()` tokens. The result is how many bytes of it are held then;
    /// nothing where this machine trains, which takes memory as it goes.
    pub(crate) fn reserve(&self, tokens: impl FnOnce() -> usize) -> Result<Option<usize>, TrainError> {
        let Some(device) = &self.device else { return Ok(None) };
        device.reserve(tokens(), self.pass_options())?;
        Ok(Some(device.device().peak_bytes()))
    }

    /// Adds one batch's gradients.
    fn add_gradients(&mut self, batch: StepBatch<'_>, step: usize, index: usize) -> Result<LossSum, TrainError> {
        let key = ["batch", &step.to_string(), &index.to_string()].map(str::to_owned);
        let key = KeyedRandom::new(self.config.seed, &key.each_ref().map(String::as_str)).next_u64();
        let options = PassOptions { key, ..self.pass_options() };
        let beta = self.config.preference_beta;
        match batch {
            StepBatch::Dialogues(batch) => {
                let losses = self.loss_and_gradients(batch, TokenWeights::Equal, options)?;
                Ok(LossSum::of_tokens(&losses))
            }
            StepBatch::Preferences { batch, reference } => {
                let weigh = |losses: &[f32]| token_weights(batch, losses, reference, beta);
                let losses = self.loss_and_gradients(batch, TokenWeights::FromLosses(&weigh), options)?;
                Ok(LossSum::of_pairs(batch, &losses, reference, beta))
            }
        }
    }

    /// Mean loss over data that is not trained, as [`crate::Task`] defines it; nothing where there is none.
    pub(crate) fn held_out_loss(&self, data: TaskData<'_>, references: &References) -> Result<Option<f64>, TrainError> {
        let packed = self.packed_adapter();
        let adapter = packed.as_ref().map_or(Adapter::Base, Adapter::Packed);
        let mut sum = LossSum::default();
        for (batch, places) in data.pack(&self.config, 0) {
            let losses = self.token_losses(&batch, adapter)?;
            sum.add(match data {
                TaskData::Dialogues(_) => LossSum::of_tokens(&losses),
                TaskData::Preferences(_) => {
                    let reference: Vec<f64> = places.iter().map(|&place| references.held_out[place]).collect();
                    LossSum::of_pairs(&batch, &losses, &reference, self.config.preference_beta)
                }
            });
        }
        Ok((sum.units > 0).then(|| sum.loss / sum.units as f64))
    }

    /// `log p(chosen) - log p(rejected)` of each pair of a batch as the model stands.
    pub(crate) fn log_ratios(&self, batch: &PackedBatch) -> Result<Vec<f64>, TrainError> {
        let packed = self.packed_adapter();
        let adapter = packed.as_ref().map_or(Adapter::Base, Adapter::Packed);
        Ok(log_ratios(batch, &self.token_losses(batch, adapter)?))
    }

    /// The adapter, where one is trained; under a device, as it was when it was last pulled.
    pub fn adapter(&self) -> Option<&LoraAdapter> {
        self.adapter.as_ref()
    }

    /// The weights: the base model's under an adapter, the trained ones without; under a device, as they were when
    /// they were last pulled.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Number of trainable parameters.
    pub fn parameter_count(&self) -> usize {
        match &self.adapter {
            Some(adapter) => adapter.parameter_count(),
            // By shape: panels pad a matrix to whole ones of 16 outputs, and the padding is no parameter.
            None => self.decoder.weights().iter().map(|(_, weight)| weight.shape().iter().product::<usize>()).sum(),
        }
    }

    /// Copies what is trained from the device, where there is one. The result is the first value that is no number.
    pub(crate) fn pull(&mut self) -> Result<Option<f32>, TrainError> {
        let Self { decoder, adapter, optimizer, device, .. } = self;
        if let Some(device) = device {
            HostCopies { decoder, adapter: adapter.as_mut(), optimizer }.pull(device)?;
        }
        let parameters = match adapter {
            Some(adapter) => adapter.parameters_mut(),
            None => weights_mut(decoder)?,
        };
        let mut values = parameters.iter().flat_map(|(_, values)| values.iter());
        Ok(values.find(|value| !value.is_finite()).copied())
    }

    /// Writes parameters and moments, as they were last pulled, under `folder`.
    pub(crate) fn save(&mut self, folder: &Path, base_model: &str) -> Result<(), TrainError> {
        match &self.adapter {
            Some(adapter) => adapter.save(folder, base_model)?,
            None => checkpoint::save_weights(folder, &weights_mut(&mut self.decoder)?)?,
        }
        checkpoint::save_moments(folder, &self.optimizer.state()?)
    }

    /// Takes up what [`Trainer::save`] wrote.
    pub(crate) fn restore(&mut self, folder: &Path) -> Result<(), TrainError> {
        match &mut self.adapter {
            Some(adapter) => *adapter = LoraAdapter::load(folder, self.decoder.config())?,
            None => checkpoint::load_weights(folder, weights_mut(&mut self.decoder)?)?,
        }
        self.optimizer.restore(&load_moments(folder)?)?;
        let Self { decoder, adapter, optimizer, device, .. } = self;
        match device {
            Some(device) => HostCopies { decoder, adapter: adapter.as_mut(), optimizer }.push(device),
            None => Ok(()),
        }
    }
}

/// At the first step `B` is zero, so the gradient of `A` is too; that of anything else must not be.
fn check_gradients(squares: &[(Parameter, f64)]) -> Result<(), TrainError> {
    for (parameter, square) in squares {
        if !matches!(parameter, Parameter::LoraA(..)) && *square == 0.0 {
            return Err(TrainError::NoGradient { parameter: parameter.name() });
        }
    }
    Ok(())
}

/// The weights of a thawed decoder.
pub(crate) fn weights_mut(decoder: &mut Decoder) -> Result<Vec<(Parameter, &mut [f32])>, TrainError> {
    decoder
        .parameters_mut()
        .ok_or_else(|| TrainError::Tensor(candle_core::Error::Msg("the weights to train are not thawed".into())))
}

#[cfg(test)]
mod tests {
    use opencharacter_nn::LinearName;

    use super::*;

    #[test]
    fn a_parameter_without_a_gradient_is_named() {
        let of = |parameter: Parameter, square: f64| (parameter, square);
        let a = Parameter::LoraA(3, LinearName::UpProj);
        let b = Parameter::LoraB(3, LinearName::UpProj);
        assert!(check_gradients(&[of(a, 0.0), of(b, 1e-30)]).is_ok());
        for parameter in [b, Parameter::Weight(1, LinearName::KProj), Parameter::FinalNorm] {
            let error = check_gradients(&[of(a, 1.0), of(parameter, 0.0)]).unwrap_err();
            assert!(error.to_string().contains(&format!("no gradient reaches `{}`", parameter.name())), "{error}");
        }
    }
}
