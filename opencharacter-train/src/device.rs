//! Training on a GPU: passes and updates run there, and what is saved and exported is copied back when it is needed.

use std::rc::Rc;

use opencharacter_cuda::{Device, DeviceModel, State, Training};
use opencharacter_nn::{Decoder, LoraAdapter, PackedMatrix, Parameter};

use crate::{TrainError, optimizer::AdamW, trainer::weights_mut};

/// Puts what is trained on `device`.
pub(crate) fn model(
    device: Rc<dyn Device>,
    decoder: &Decoder,
    adapter: Option<&LoraAdapter>,
) -> Result<DeviceModel, TrainError> {
    let training = adapter.map_or(Training::Weights, Training::Lora);
    Ok(DeviceModel::new(device, decoder, training)?)
}

/// The copies of what is trained that files are made of.
pub(crate) struct HostCopies<'a> {
    pub(crate) decoder: &'a mut Decoder,
    pub(crate) adapter: Option<&'a mut LoraAdapter>,
    pub(crate) optimizer: &'a mut AdamW,
}

impl HostCopies<'_> {
    /// Makes the copies what the device has.
    pub(crate) fn pull(self, model: &DeviceModel) -> Result<(), TrainError> {
        let shapes = Shapes::of(self.decoder, self.adapter.as_deref());
        let parameters = match self.adapter {
            Some(adapter) => adapter.parameters_mut(),
            None => weights_mut(self.decoder)?,
        };
        for (parameter, values) in parameters {
            values.copy_from_slice(&shapes.to_host(parameter, model.read(parameter, State::Master)?));
        }
        for (parameter, moments) in self.optimizer.moments_mut() {
            for (values, state) in moments.into_iter().zip([State::First, State::Second]) {
                values.copy_from_slice(&shapes.to_host(parameter, model.read(parameter, state)?));
            }
        }
        Ok(())
    }

    /// Makes the device have what the copies say.
    pub(crate) fn push(self, model: &DeviceModel) -> Result<(), TrainError> {
        let shapes = Shapes::of(self.decoder, self.adapter.as_deref());
        let parameters = match self.adapter {
            Some(adapter) => adapter.parameters_mut(),
            None => weights_mut(self.decoder)?,
        };
        let masters = parameters.into_iter().map(|(parameter, values)| (parameter, State::Master, values));
        let moments = self.optimizer.moments_mut().flat_map(|(parameter, [first, second])| {
            [(parameter, State::First, first.as_mut_slice()), (parameter, State::Second, second.as_mut_slice())]
        });
        let rows =
            |(parameter, state, values): (_, _, &mut [f32])| (parameter, state, shapes.to_rows(parameter, values));
        Ok(model.write(masters.chain(moments).map(rows))?)
    }
}

/// Which parameters the host keeps in panels: the matrices of a decoder, but no adapter's.
struct Shapes(Vec<(Parameter, Vec<usize>)>);

impl Shapes {
    fn of(decoder: &Decoder, adapter: Option<&LoraAdapter>) -> Self {
        let weights = || decoder.weights().into_iter().map(|(parameter, weight)| (parameter, weight.shape()));
        Self(if adapter.is_some() { Vec::new() } else { weights().collect() })
    }

    /// `[outputs, inputs]` of what is kept in panels.
    fn panels(&self, parameter: Parameter) -> Option<(usize, usize)> {
        let (_, shape) = self.0.iter().find(|(other, _)| *other == parameter)?;
        let &[outputs, inputs] = &shape[..] else { return None };
        Some((outputs, inputs))
    }

    /// Row-major values in the host's layout.
    fn to_host(&self, parameter: Parameter, rows: Vec<f32>) -> Vec<f32> {
        let Some((outputs, inputs)) = self.panels(parameter) else { return rows };
        PackedMatrix::new(&rows, outputs, inputs).floats_mut().map(|panels| panels.to_vec()).unwrap_or_default()
    }

    /// Values in the host's layout as rows.
    fn to_rows(&self, parameter: Parameter, values: &[f32]) -> Vec<f32> {
        let Some((outputs, inputs)) = self.panels(parameter) else { return values.to_vec() };
        let mut matrix = PackedMatrix::new(&vec![0.0; outputs * inputs], outputs, inputs);
        if let Some(panels) = matrix.floats_mut() {
            panels.copy_from_slice(values);
        }
        matrix.to_rows()
    }
}
