//! A decoder's weights with an adapter's update added, one at a time.

use crate::{Decoder, LoraAdapter, Parameter, WeightRef, team};

/// One weight of the model that is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct MergedWeight<'a> {
    pub(super) parameter: Parameter,
    weight: WeightRef<'a>,
    update: Option<Update<'a>>,
}

/// `scale * B A`.
#[derive(Debug, Clone, Copy)]
struct Update<'a> {
    /// `[rank, inputs]`.
    a: &'a [f32],
    /// `[outputs, rank]`.
    b: &'a [f32],
    rank: usize,
    scale: f32,
}

/// Every weight of `decoder`, those of adapted layers with the update of `adapter`.
pub(super) fn merged<'a>(
    decoder: &'a Decoder,
    adapter: Option<&'a LoraAdapter>,
) -> impl Iterator<Item = MergedWeight<'a>> {
    let update = move |parameter| {
        let (Parameter::Weight(layer, name), Some(adapter)) = (parameter, adapter) else { return None };
        let [a, b] = adapter.factors(layer, name)?;
        Some(Update { a, b, rank: adapter.config().rank, scale: adapter.config().scale() })
    };
    let weights = decoder.weights().into_iter();
    weights.map(move |(parameter, weight)| MergedWeight { parameter, weight, update: update(parameter) })
}

impl MergedWeight<'_> {
    /// `[length]`, or `[outputs, inputs]`.
    pub(super) fn shape(&self) -> Vec<usize> {
        self.weight.shape()
    }

    /// `W + scale * (B A)` in f32, row-major: in the order of operations of PEFT's `merge_and_unload`.
    pub(super) fn values(&self) -> Vec<f32> {
        let mut values = self.weight.to_rows();
        let (Some(update), WeightRef::Matrix(matrix)) = (self.update, self.weight) else { return values };
        let inputs = matrix.inputs();
        team::for_each_chunk(&mut values, inputs, |output, row| {
            let factors = &update.b[output * update.rank..(output + 1) * update.rank];
            let mut sum = vec![0.0_f32; inputs];
            for (factor, a) in factors.iter().zip(update.a.chunks_exact(inputs)) {
                sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
            }
            row.iter_mut().zip(&sum).for_each(|(weight, sum)| *weight += update.scale * sum);
        });
        values
    }
}
