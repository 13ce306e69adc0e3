use std::path::Path;

use opencharacter_core::KeyedRandom;
use opencharacter_nn::{
    Adapter, Decoder, Gradients, LoraAdapter, Model, PackedBatch, Parameter, PassOptions, TokenWeights, Trainable,
    loss_and_gradients, token_losses,
};

use crate::{
    Example, Method, TrainConfig, TrainError,
    checkpoint::{self, load_moments},
    optimizer::{AdamW, norm},
    pack,
};

/// A model in training: its parameters, their gradients and the optimiser's state, without any file.
#[derive(Debug)]
pub struct Trainer {
    decoder: Decoder,
    /// None when every weight is trained.
    adapter: Option<LoraAdapter>,
    /// Of the step in progress; kept from step to step for their memory.
    gradients: Gradients,
    optimizer: AdamW,
    config: TrainConfig,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// Mean negative log-likelihood of the trained tokens before the update, in nats.
    pub loss: f64,
    /// The gradient's norm before it was cut.
    pub gradient_norm: f64,
    /// Tokens trained.
    pub trained_tokens: usize,
    /// All tokens.
    pub tokens: usize,
}

impl Trainer {
    /// A fresh adapter on `model`, or a copy of all its weights, as `config` says.
    pub fn new(model: &Model, config: &TrainConfig) -> Result<Self, TrainError> {
        config.validate()?;
        let adapter = match config.method {
            Method::Lora => Some(LoraAdapter::new(config.lora.clone(), model.decoder.config(), config.seed)),
            Method::Full => None,
        };
        let mut decoder = model.decoder.clone();
        if adapter.is_none() {
            decoder.thaw();
        }
        let gradients = match &adapter {
            Some(adapter) => adapter.gradients(),
            None => Gradients::zeros(
                weights_mut(&mut decoder)?.into_iter().map(|(parameter, values)| (parameter, values.len())),
            ),
        };
        let optimizer = AdamW::new(&gradients, config.betas, config.weight_decay);
        Ok(Self { decoder, adapter, gradients, optimizer, config: config.clone() })
    }

    /// One update on `batches`, which is step `step` (from 1) of its run.
    ///
    /// # Errors
    /// A loss or gradient that is no number leaves every parameter as it was; so does a parameter that no gradient
    /// reaches at the first step.
    pub fn step(
        &mut self,
        batches: &[&PackedBatch],
        learning_rate: f64,
        step: usize,
    ) -> Result<StepOutcome, TrainError> {
        self.gradients.clear();
        let mut loss_sum = 0.0;
        let mut trained_tokens = 0;
        for (index, batch) in batches.iter().enumerate() {
            let losses = self.add_gradients(batch, step, index)?;
            loss_sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            trained_tokens += losses.len();
        }
        if trained_tokens == 0 {
            return Err(TrainError::NothingToTrain { reason: format!("step {step} holds no trained token") });
        }
        // One mean over all trained tokens of the step: a mean of means would weigh short batches more.
        let scale = 1.0 / trained_tokens as f64;
        let loss = loss_sum * scale;
        let gradient_norm = norm(self.gradients.iter().map(|(_, gradient)| gradient)) * scale;
        if !loss.is_finite() || !gradient_norm.is_finite() {
            return Err(TrainError::NotFinite {
                loss: if loss.is_finite() { gradient_norm } else { loss },
                step,
                examples: String::new(),
            });
        }
        if step == 1 {
            self.check_gradients()?;
        }
        let clip = (self.config.max_gradient_norm / gradient_norm.max(1e-12)).min(1.0);
        let parameters = match &mut self.adapter {
            Some(adapter) => adapter.parameters_mut(),
            None => weights_mut(&mut self.decoder)?,
        };
        self.optimizer.step(parameters, &self.gradients, scale * clip, learning_rate, step);
        let tokens = batches.iter().map(|batch| batch.tokens.len()).sum();
        Ok(StepOutcome { loss, gradient_norm, trained_tokens, tokens })
    }

    /// Adds one batch's gradients, and returns its trained tokens' losses.
    fn add_gradients(&mut self, batch: &PackedBatch, step: usize, index: usize) -> Result<Vec<f32>, TrainError> {
        let key = ["batch", &step.to_string(), &index.to_string()].map(str::to_owned);
        let key = KeyedRandom::new(self.config.seed, &key.each_ref().map(String::as_str)).next_u64();
        let options = PassOptions {
            recompute: self.config.recompute,
            neftune_alpha: self.config.neftune_alpha,
            lora_dropout: if self.adapter.is_some() { self.config.lora.dropout } else { 0.0 },
            key,
        };
        let trainable = self.adapter.as_ref().map_or(Trainable::Weights, Trainable::Lora);
        Ok(loss_and_gradients(&self.decoder, trainable, batch, TokenWeights::Equal, options, &mut self.gradients)?)
    }

    /// Mean negative log-likelihood per trained token over `examples`, in nats; nothing for no examples.
    pub fn held_out_loss(&self, examples: &[Example]) -> Result<Option<f64>, TrainError> {
        let packed = self.adapter.as_ref().map(LoraAdapter::pack);
        let adapter = packed.as_ref().map_or(Adapter::Base, Adapter::Packed);
        held_out_loss(&self.decoder, adapter, examples, self.config.pack_tokens)
    }

    /// The adapter, where one is trained.
    pub fn adapter(&self) -> Option<&LoraAdapter> {
        self.adapter.as_ref()
    }

    /// The weights: the base model's under an adapter, the trained ones without.
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

    /// Writes parameters and moments under `folder`.
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
        self.optimizer.restore(&load_moments(folder)?)
    }

    /// At the first step `B` is zero, so the gradient of `A` is too; that of anything else must not be.
    fn check_gradients(&self) -> Result<(), TrainError> {
        for (parameter, gradient) in self.gradients.iter() {
            if !matches!(parameter, Parameter::LoraA(..)) && norm([gradient]) == 0.0 {
                return Err(TrainError::NoGradient { parameter: parameter.name() });
            }
        }
        Ok(())
    }
}

/// The weights of a thawed decoder.
fn weights_mut(decoder: &mut Decoder) -> Result<Vec<(Parameter, &mut [f32])>, TrainError> {
    decoder
        .parameters_mut()
        .ok_or_else(|| TrainError::Tensor(candle_core::Error::Msg("the weights to train are not thawed".into())))
}

/// Mean negative log-likelihood per trained token over `examples`, in nats; nothing for no examples.
pub fn held_out_loss(
    decoder: &Decoder,
    adapter: Adapter<'_>,
    examples: &[Example],
    pack_tokens: usize,
) -> Result<Option<f64>, TrainError> {
    let mut sum = 0.0;
    let mut count = 0;
    for (batch, _) in pack(examples, pack_tokens, 0, 0) {
        let losses = token_losses(decoder, &batch, adapter)?;
        sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        count += losses.len();
    }
    Ok((count > 0).then(|| sum / count as f64))
}
