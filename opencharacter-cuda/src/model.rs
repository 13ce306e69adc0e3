//! The decoder on a device: loss and gradients of packed batches, and the optimiser's update.

use std::{cell::RefCell, rc::Rc};

use opencharacter_nn::{Decoder, DecoderConfig, LoraAdapter, PackedBatch, Parameter, PassOptions, TokenWeights};

use crate::{
    DeviceError,
    device::{Buffer, Device, Kind, Matrix, Product},
    operations::{AdamwScalars, Operations, Parts, Tiles, WIDEST_HEAD},
    pass::{Batch, Pass},
    trained::{State, Trained},
    weights::Weights,
    workspace::Workspace,
};

/// What is trained on the device.
#[derive(Debug, Clone, Copy)]
pub enum Training<'a> {
    /// This adapter, on frozen weights.
    Lora(&'a LoraAdapter),
    /// Every weight.
    Weights,
}

/// Settings of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Decay of the two moments.
    pub betas: (f64, f64),
    /// Decoupled weight decay, of matrices.
    pub weight_decay: f64,
    /// Gradients are multiplied by this first.
    pub gradient_scale: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Counts from 1.
    pub step: usize,
}

/// A decoder on a device, with what is trained of it.
#[derive(Debug)]
pub struct DeviceModel {
    pub(crate) operations: Operations,
    pub(crate) config: DecoderConfig,
    pub(crate) frequencies: Buffer,
    pub(crate) weights: Weights,
    pub(crate) trained: Trained,
    pub(crate) trains_weights: bool,
    /// Factor on the adapter's contribution.
    pub(crate) adapter_scale: f32,
    /// Of the longest batch so far.
    workspace: RefCell<Option<Workspace>>,
}

impl DeviceModel {
    /// Uploads `decoder`, with the adapter's factors where one is trained.
    pub fn new(device: Rc<dyn Device>, decoder: &Decoder, training: Training<'_>) -> Result<Self, DeviceError> {
        let config = decoder.config().clone();
        if config.head_dim > WIDEST_HEAD {
            return Err(DeviceError::Model(format!("heads of width {} (at most {WIDEST_HEAD})", config.head_dim)));
        }
        let adapter = match training {
            Training::Lora(adapter) => Some(adapter),
            Training::Weights => None,
        };
        let mut weights = Weights::upload(&device, decoder, adapter)?;
        let trained = Trained::new(&device, &mut weights, decoder, adapter)?;
        let frequencies = decoder.rotary_frequencies();
        let buffer = Buffer::new(&device, Kind::Float, frequencies.len(), "frequencies")?;
        buffer.write(0, frequencies)?;
        let model = Self {
            operations: Operations(device),
            config,
            frequencies: buffer,
            weights,
            trained,
            trains_weights: adapter.is_none(),
            adapter_scale: adapter.map_or(1.0, |adapter| adapter.config().scale()),
            workspace: RefCell::default(),
        };
        model.trained.refresh(&model.operations)?;
        Ok(model)
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.operations.0
    }

    /// Each trained token's negative log-likelihood, in the batch's order, without gradients.
    pub fn token_losses(&self, batch: &PackedBatch) -> Result<Vec<f32>, DeviceError> {
        let keeps_tapes = self.workspace.borrow().as_ref().is_some_and(|workspace| workspace.keeps_tapes);
        self.pass(batch, None, PassOptions::default(), keeps_tapes)
    }

    /// Each trained token's negative log-likelihood, in nats and in the batch's order. The gradients of their weighted
    /// sum are added to those of before.
    pub fn loss_and_gradients(
        &self,
        batch: &PackedBatch,
        weights: TokenWeights<'_>,
        options: PassOptions,
    ) -> Result<Vec<f32>, DeviceError> {
        self.pass(batch, Some(weights), options, !options.recompute)
    }

    /// Losses; with weights, gradients too.
    fn pass(
        &self,
        batch: &PackedBatch,
        weights: Option<TokenWeights<'_>>,
        options: PassOptions,
        keeps_tapes: bool,
    ) -> Result<Vec<f32>, DeviceError> {
        let (rows, targets) = batch.trained();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(token) = batch.tokens.iter().find(|&&token| token as usize >= self.config.vocab_size) {
            return Err(DeviceError::Model(format!(
                "token {token} is outside the vocabulary of {}",
                self.config.vocab_size
            )));
        }
        let workspace = self.take_workspace(batch.tokens.len(), keeps_tapes, options.lora_dropout > 0.0)?;
        let tiles = Tiles::new(&self.operations.0, &batch.cumulative_lengths)?;
        let batch = Batch { packed: batch, rows: &rows, targets: &targets, tiles };
        let pass = Pass { model: self, workspace: &workspace, batch: &batch, options };
        let losses = match weights {
            Some(weights) => pass.losses_and_gradients(weights),
            None => pass.losses(),
        };
        self.workspace.replace(Some(workspace));
        losses
    }

    /// Allocates what passes over up to `tokens` tokens with these options hold, so that memory runs out before the first
    /// step or never.
    pub fn reserve(&self, tokens: usize, options: PassOptions) -> Result<(), DeviceError> {
        let workspace = self.take_workspace(tokens, !options.recompute, options.lora_dropout > 0.0)?;
        self.workspace.replace(Some(workspace));
        Ok(())
    }

    /// The workspace, grown where it is too small.
    fn take_workspace(&self, tokens: usize, keeps_tapes: bool, drops: bool) -> Result<Workspace, DeviceError> {
        let mut workspace = match self.workspace.take() {
            Some(workspace) if workspace.fits(tokens, keeps_tapes) => workspace,
            old => {
                let capacity = old.as_ref().map_or(0, |old| old.capacity).max(tokens);
                // Before the new one is allocated.
                drop(old);
                Workspace::new(&self.operations, &self.config, &self.weights, capacity, keeps_tapes)?
            }
        };
        if drops && workspace.dropped.is_none() {
            let widest = self.weights.layouts.iter().map(|layout| layout.inputs).max().unwrap_or(0);
            let length = workspace.capacity * widest;
            workspace.dropped = Some(Buffer::zeros(&self.operations.0, Kind::Element, length, "activations")?);
        }
        Ok(workspace)
    }

    /// Sets all gradients to zero.
    pub fn clear_gradients(&self) -> Result<(), DeviceError> {
        self.trained.clear_gradients()
    }

    /// Each parameter's sum of squared gradients.
    pub fn squared_gradient_norms(&self) -> Result<Vec<(Parameter, f64)>, DeviceError> {
        self.trained.squared_norms(&self.operations)
    }

    /// One step of `AdamW`.
    pub fn update(&self, update: Update) -> Result<(), DeviceError> {
        let correction = |decay: f64| 1.0 - decay.powi(i32::try_from(update.step).unwrap_or(i32::MAX));
        let (first, second) = update.betas;
        let scalars = AdamwScalars {
            first_decay: first as f32,
            second_decay: second as f32,
            keep: (1.0 - update.learning_rate * update.weight_decay) as f32,
            rate: (update.learning_rate / correction(first)) as f32,
            root: (1.0 / correction(second).sqrt()) as f32,
            gradient_scale: update.gradient_scale as f32,
        };
        self.trained.update(&self.operations, scalars)
    }

    /// What is trained, in order.
    pub fn parameters(&self) -> impl Iterator<Item = Parameter> {
        self.trained.parameters()
    }

    /// Number of trained values.
    pub fn parameter_count(&self) -> usize {
        self.trained.parameter_count()
    }

    /// A parameter or a moment, row-major.
    pub fn read(&self, parameter: Parameter, state: State) -> Result<Vec<f32>, DeviceError> {
        self.trained.get(parameter, state)
    }

    /// A parameter's gradient, row-major.
    pub fn gradient(&self, parameter: Parameter) -> Result<Vec<f32>, DeviceError> {
        self.trained.gradient(parameter)
    }

    /// Replaces parameters or moments by row-major ones.
    pub fn write<V: AsRef<[f32]>>(
        &self,
        values: impl IntoIterator<Item = (Parameter, State, V)>,
    ) -> Result<(), DeviceError> {
        for (parameter, state, values) in values {
            self.trained.set(parameter, state, values.as_ref())?;
        }
        self.trained.refresh(&self.operations)
    }

    pub(crate) fn multiply(&self, out: Matrix<'_>, left: Matrix<'_>, right: Matrix<'_>) -> Result<(), DeviceError> {
        self.product(out, (left, false), (right, false), 1.0, false)
    }

    /// `left right'`.
    pub(crate) fn multiply_turned(
        &self,
        out: Matrix<'_>,
        left: Matrix<'_>,
        right: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        self.product(out, (left, false), (right, true), 1.0, false)
    }

    /// `out += scale * left' right`.
    pub(crate) fn add_outer_product(
        &self,
        out: Matrix<'_>,
        left: Matrix<'_>,
        right: Matrix<'_>,
        scale: f32,
    ) -> Result<(), DeviceError> {
        self.product(out, (left, true), (right, false), scale, true)
    }

    fn product(
        &self,
        out: Matrix<'_>,
        (left, turn_left): (Matrix<'_>, bool),
        (right, turn_right): (Matrix<'_>, bool),
        scale: f32,
        accumulate: bool,
    ) -> Result<(), DeviceError> {
        self.operations.0.multiply(&Product { out, left, turn_left, right, turn_right, scale, accumulate })
    }

    /// Rows as wide as the residual stream.
    pub(crate) fn hidden_parts(&self) -> Parts {
        Parts::whole(self.config.hidden_size)
    }
}
