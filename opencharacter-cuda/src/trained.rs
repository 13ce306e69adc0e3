//! What is trained: masters, moments and gradients, all f32, each kind in one piece of memory.

use std::{collections::BTreeMap, rc::Rc};

use opencharacter_nn::{Decoder, LoraAdapter, Parameter};

use crate::{
    DeviceError,
    device::{Address, Buffer, Device, Kind, Matrix},
    operations::{AdamwScalars, Operations, TrainedTable, TrainedTensor},
    weights::{Group, Layout, Vector, Weights},
};

/// Where a trained parameter lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// In masters and moments.
    first: usize,
    length: usize,
    /// Elements, or one row of a vector.
    columns: usize,
    /// In the gradients.
    gradient: usize,
    gradient_stride: usize,
}

/// Which of a parameter's values are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The parameter itself.
    Master,
    /// The optimiser's first moment.
    First,
    /// The optimiser's second moment.
    Second,
}

/// Trained parameters with all that belongs to them.
#[derive(Debug)]
pub(crate) struct Trained {
    places: BTreeMap<Parameter, Place>,
    /// The table's.
    order: Vec<Parameter>,
    masters: Rc<Buffer>,
    moments: [Buffer; 2],
    gradients: Buffer,
    table: TrainedTable,
}

/// Gradients of a group in one block.
#[derive(Clone, Copy)]
pub(crate) enum GroupGradients<'a> {
    /// Of the factors of its adapters: `[ranks, inputs]` and `[outputs, ranks]`.
    LowRank { inputs: Matrix<'a>, outputs: Matrix<'a> },
    /// Of the weights, with the column of the biases: `[outputs, inputs + bias_columns]`.
    Whole(Matrix<'a>),
}

/// Lays parameters and gradients out, one after the other.
#[derive(Default)]
struct Plan {
    tensors: Vec<(Parameter, Place, Option<Working>)>,
    values: usize,
    gradients: usize,
}

/// The copy of a master that products read.
struct Working {
    address: Address,
    stride: usize,
    scale: f32,
}

/// Elements to whose multiples parameters are laid out.
const ALIGNMENT: usize = 64;

impl Plan {
    /// `[rows, columns]`, whose gradient begins at `gradient`.
    fn push(
        &mut self,
        parameter: Parameter,
        (rows, columns): (usize, usize),
        gradient: usize,
        gradient_stride: usize,
        working: Option<Working>,
    ) {
        let place = Place { first: self.values, length: rows * columns, columns, gradient, gradient_stride };
        self.values += (rows * columns).next_multiple_of(ALIGNMENT);
        self.tensors.push((parameter, place, working));
    }

    fn gradient(&mut self, length: usize) -> usize {
        let first = self.gradients;
        self.gradients += length.next_multiple_of(ALIGNMENT);
        first
    }

    fn vector(&mut self, parameter: Parameter, length: usize) {
        let gradient = self.gradient(length);
        self.push(parameter, (1, length), gradient, length, None);
    }

    fn table(&mut self, parameter: Parameter, weight: &Buffer, columns: usize) {
        let gradient = self.gradient(weight.length());
        let working = Working { address: weight.vector(1).address, stride: columns, scale: 1.0 };
        self.push(parameter, (weight.length() / columns, columns), gradient, columns, Some(working));
    }

    fn adapters(&mut self, weights: &Weights, scale: f32) {
        for (layer, block) in weights.blocks.iter().enumerate() {
            for group in &block.groups {
                let layout = &group.layout;
                let inputs = self.gradient(layout.ranks * layout.inputs);
                let outputs = self.gradient(layout.outputs * layout.ranks);
                for part in &layout.parts {
                    let Some(rank) = part.first_rank else { continue };
                    let stride = layout.input_width();
                    let a = group.part(layout.outputs + rank, layout.rank, 0, layout.inputs);
                    let b = group.part(part.first_output, part.outputs, layout.rank_column() + rank, layout.rank);
                    self.push(
                        Parameter::LoraA(layer, part.name),
                        (layout.rank, layout.inputs),
                        inputs + rank * layout.inputs,
                        layout.inputs,
                        Some(Working { address: a.address, stride, scale: 1.0 }),
                    );
                    self.push(
                        Parameter::LoraB(layer, part.name),
                        (part.outputs, layout.rank),
                        outputs + part.first_output * layout.ranks + rank,
                        layout.ranks,
                        Some(Working { address: b.address, stride, scale }),
                    );
                }
            }
        }
    }

    fn weights(&mut self, weights: &Weights, has_bias: &dyn Fn(Parameter) -> bool) {
        let hidden = weights.final_norm.length;
        self.table(Parameter::Embedding, &weights.embedding, hidden);
        for (layer, block) in weights.blocks.iter().enumerate() {
            self.vector(Parameter::InputNorm(layer), block.input_norm.length);
            if let Some([query, key]) = &block.head_norms {
                self.vector(Parameter::QueryNorm(layer), query.length);
                self.vector(Parameter::KeyNorm(layer), key.length);
            }
            self.vector(Parameter::PostAttentionNorm(layer), block.post_attention_norm.length);
            for group in &block.groups {
                let layout = &group.layout;
                let width = layout.inputs + layout.bias_columns;
                let gradient = self.gradient(layout.outputs * width);
                let stride = layout.input_width();
                for part in &layout.parts {
                    let first = gradient + part.first_output * width;
                    let weight = group.part(part.first_output, part.outputs, 0, layout.inputs);
                    let working = Working { address: weight.address, stride, scale: 1.0 };
                    let shape = (part.outputs, layout.inputs);
                    self.push(Parameter::Weight(layer, part.name), shape, first, width, Some(working));
                    let bias = Parameter::Bias(layer, part.name);
                    if has_bias(bias) {
                        let column = group.part(part.first_output, part.outputs, layout.inputs, 1);
                        let working = Working { address: column.address, stride, scale: 1.0 };
                        self.push(bias, (part.outputs, 1), first + layout.inputs, width, Some(working));
                    }
                }
            }
        }
        self.vector(Parameter::FinalNorm, hidden);
        if let Some(head) = &weights.head {
            self.table(Parameter::Head, head, hidden);
        }
    }
}

impl Trained {
    /// Everything that is trained under `adapter`, or all weights of `decoder` without one. Norms among the weights are
    /// made to read the masters.
    pub(crate) fn new(
        device: &Rc<dyn Device>,
        weights: &mut Weights,
        decoder: &Decoder,
        adapter: Option<&LoraAdapter>,
    ) -> Result<Self, DeviceError> {
        let mut plan = Plan::default();
        let known = decoder.weights();
        match adapter {
            Some(adapter) => plan.adapters(weights, adapter.config().scale()),
            None => plan.weights(weights, &|bias| known.iter().any(|(parameter, _)| *parameter == bias)),
        }
        let masters = Rc::new(Buffer::zeros(device, Kind::Float, plan.values, "master weights")?);
        let moments = [
            Buffer::zeros(device, Kind::Float, plan.values, "the optimiser's moments")?,
            Buffer::zeros(device, Kind::Float, plan.values, "the optimiser's moments")?,
        ];
        let gradients = Buffer::zeros(device, Kind::Float, plan.gradients, "gradients")?;
        let tensors: Vec<TrainedTensor> = plan
            .tensors
            .iter()
            .map(|(parameter, place, working)| {
                let at = |buffer: &Buffer, first: usize| buffer.matrix(first, 1, 1, 1).address;
                TrainedTensor {
                    master: at(&masters, place.first),
                    first: at(&moments[0], place.first),
                    second: at(&moments[1], place.first),
                    gradient: at(&gradients, place.gradient),
                    working: working.as_ref().map_or(0, |working| working.address),
                    rows: (place.length / place.columns) as i64,
                    columns: place.columns as i64,
                    gradient_stride: place.gradient_stride as i64,
                    working_stride: working.as_ref().map_or(0, |working| working.stride as i64),
                    working_scale: working.as_ref().map_or(1.0, |working| working.scale),
                    decays: i32::from(parameter.decays()),
                }
            })
            .collect();
        let table = TrainedTable::new(device, &tensors)?;
        let places: BTreeMap<Parameter, Place> =
            plan.tensors.iter().map(|(parameter, place, _)| (*parameter, *place)).collect();
        let order = plan.tensors.iter().map(|(parameter, ..)| *parameter).collect();
        let trained = Self { places, order, masters, moments, gradients, table };
        if let Some(adapter) = adapter {
            for (parameter, values) in adapter.parameters() {
                trained.set(parameter, State::Master, values)?;
            }
        } else {
            for (parameter, weight) in known {
                trained.set(parameter, State::Master, &weight.to_rows())?;
            }
            trained.share_norms(weights);
        }
        Ok(trained)
    }

    fn share_norms(&self, weights: &mut Weights) {
        let vector = |parameter: Parameter| {
            let place = self.places[&parameter];
            Vector { buffer: Rc::clone(&self.masters), first: place.first, length: place.length }
        };
        for (layer, block) in weights.blocks.iter_mut().enumerate() {
            block.input_norm = vector(Parameter::InputNorm(layer));
            block.post_attention_norm = vector(Parameter::PostAttentionNorm(layer));
            if let Some([query, key]) = &mut block.head_norms {
                *query = vector(Parameter::QueryNorm(layer));
                *key = vector(Parameter::KeyNorm(layer));
            }
        }
        weights.final_norm = vector(Parameter::FinalNorm);
    }

    fn buffer(&self, state: State) -> &Buffer {
        match state {
            State::Master => &self.masters,
            State::First => &self.moments[0],
            State::Second => &self.moments[1],
        }
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = Parameter> {
        self.places.keys().copied()
    }

    pub(crate) fn parameter_count(&self) -> usize {
        self.places.values().map(|place| place.length).sum()
    }

    /// Replaces a parameter or a moment, row-major. The working copies follow with [`Trained::refresh`].
    pub(crate) fn set(&self, parameter: Parameter, state: State, values: &[f32]) -> Result<(), DeviceError> {
        match self.places.get(&parameter) {
            Some(place) if place.length == values.len() => self.buffer(state).write(place.first, values),
            _ => Err(DeviceError::Parameter(parameter.name())),
        }
    }

    /// A parameter or a moment, row-major.
    pub(crate) fn get(&self, parameter: Parameter, state: State) -> Result<Vec<f32>, DeviceError> {
        let place = self.places.get(&parameter).ok_or_else(|| DeviceError::Parameter(parameter.name()))?;
        self.buffer(state).read(place.first, place.length)
    }

    /// The working copies anew.
    pub(crate) fn refresh(&self, operations: &Operations) -> Result<(), DeviceError> {
        operations.refresh_working(&self.table)
    }

    pub(crate) fn clear_gradients(&self) -> Result<(), DeviceError> {
        self.gradients.zero()
    }

    /// A parameter's gradient, row-major.
    pub(crate) fn gradient(&self, parameter: Parameter) -> Result<Vec<f32>, DeviceError> {
        let place = self.places.get(&parameter).ok_or_else(|| DeviceError::Parameter(parameter.name()))?;
        let rows = place.length / place.columns;
        let all = self.gradients.read(place.gradient, (rows - 1) * place.gradient_stride + place.columns)?;
        Ok(all.chunks(place.gradient_stride).flat_map(|row| &row[..place.columns]).copied().collect())
    }

    /// Each parameter's sum of squared gradients.
    pub(crate) fn squared_norms(&self, operations: &Operations) -> Result<Vec<(Parameter, f64)>, DeviceError> {
        Ok(self.order.iter().copied().zip(operations.squared_norms(&self.table)?).collect())
    }

    pub(crate) fn update(&self, operations: &Operations, scalars: AdamwScalars) -> Result<(), DeviceError> {
        operations.adamw(&self.table, scalars)
    }

    /// Where the gradients of a vector or of a table go, if it is trained.
    pub(crate) fn dense_gradient(&self, parameter: Parameter) -> Option<Matrix<'_>> {
        let place = self.places.get(&parameter)?;
        Some(self.gradients.matrix(place.gradient, place.length / place.columns, place.columns, place.gradient_stride))
    }

    /// Where the gradients of a group's parameters go, if any is trained.
    pub(crate) fn group_gradients(&self, layer: usize, layout: &Layout) -> Option<GroupGradients<'_>> {
        if layout.ranks > 0 {
            let part = layout.parts.iter().find(|part| part.first_rank == Some(0))?;
            let a = self.places.get(&Parameter::LoraA(layer, part.name))?.gradient;
            let b = self.places.get(&Parameter::LoraB(layer, part.name))?.gradient - part.first_output * layout.ranks;
            return Some(GroupGradients::LowRank {
                inputs: self.gradients.rows_from(a, layout.ranks, layout.inputs),
                outputs: self.gradients.rows_from(b, layout.outputs, layout.ranks),
            });
        }
        let first = self.places.get(&Parameter::Weight(layer, layout.parts[0].name))?.gradient;
        let width = layout.inputs + layout.bias_columns;
        Some(GroupGradients::Whole(self.gradients.rows_from(first, layout.outputs, width)))
    }
}

impl Weights {
    /// The group's weights in block `layer`.
    pub(crate) fn group(&self, layer: usize, group: Group) -> &crate::weights::GroupWeights {
        self.blocks[layer].group(group)
    }
}
