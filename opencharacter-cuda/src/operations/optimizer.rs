//! `AdamW` on all trained matrices at once, and the norms of their gradients.

use std::rc::Rc;

use super::{Operations, THREADS};
use crate::{
    DeviceError,
    device::{Address, Buffer, Device, Kind},
};

/// Blocks that share a trained tensor.
const TENSOR_BLOCKS: usize = 64;

/// One update's scalars.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamwScalars {
    pub(crate) first_decay: f32,
    pub(crate) second_decay: f32,
    pub(crate) keep: f32,
    pub(crate) rate: f32,
    pub(crate) root: f32,
    pub(crate) gradient_scale: f32,
}

/// A trained matrix as the kernels see it; `TrainedTensor` in `kernels/optimizer.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct TrainedTensor {
    pub(crate) master: Address,
    pub(crate) first: Address,
    pub(crate) second: Address,
    pub(crate) gradient: Address,
    /// 0 where there is no working copy.
    pub(crate) working: Address,
    pub(crate) rows: i64,
    pub(crate) columns: i64,
    pub(crate) gradient_stride: i64,
    pub(crate) working_stride: i64,
    pub(crate) working_scale: f32,
    pub(crate) decays: i32,
}

/// A table of trained matrices on the device.
#[derive(Debug)]
pub(crate) struct TrainedTable {
    table: Buffer,
    sums: Buffer,
    count: usize,
}

impl TrainedTable {
    pub(crate) fn new(device: &Rc<dyn Device>, tensors: &[TrainedTensor]) -> Result<Self, DeviceError> {
        let bytes = size_of_val(tensors);
        let table = Buffer::new(device, Kind::Float, bytes / 4, "the table of trained tensors")?;
        // SAFETY: a structure of plain numbers without gaps, read as bytes.
        table.write_bytes(unsafe { std::slice::from_raw_parts(tensors.as_ptr().cast(), bytes) })?;
        let sums = Buffer::zeros(device, Kind::Float, tensors.len() * TENSOR_BLOCKS, "gradient norms")?;
        Ok(Self { table, sums, count: tensors.len() })
    }
}

impl Operations {
    /// Each tensor's sum of squared gradients.
    pub(crate) fn squared_norms(&self, table: &TrainedTable) -> Result<Vec<f64>, DeviceError> {
        #[repr(C)]
        struct Arguments {
            tensors: Address,
            sums: Address,
        }
        let arguments =
            Arguments { tensors: table.table.vector(1).address, sums: table.sums.vector(table.sums.length()).address };
        let grid = [TENSOR_BLOCKS as u32, table.count as u32, 1];
        // SAFETY: the table's addresses are allocated as long as the model.
        unsafe { self.launch("squared_norm", grid, THREADS as u32, 0, &arguments)? };
        let sums = table.sums.read(0, table.sums.length())?;
        Ok(sums.chunks_exact(TENSOR_BLOCKS).map(|sums| sums.iter().map(|&sum| f64::from(sum)).sum()).collect())
    }

    /// `AdamW` on all masters, and the working copies anew.
    pub(crate) fn adamw(&self, table: &TrainedTable, scalars: AdamwScalars) -> Result<(), DeviceError> {
        self.run_adamw("adamw", table, scalars)
    }

    /// The working copies anew.
    pub(crate) fn refresh_working(&self, table: &TrainedTable) -> Result<(), DeviceError> {
        let nothing =
            AdamwScalars { first_decay: 0.0, second_decay: 0.0, keep: 1.0, rate: 0.0, root: 1.0, gradient_scale: 0.0 };
        self.run_adamw("refresh_working", table, nothing)
    }

    fn run_adamw(&self, kernel: &str, table: &TrainedTable, scalars: AdamwScalars) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            tensors: Address,
            first_decay: f32,
            second_decay: f32,
            keep: f32,
            rate: f32,
            root: f32,
            gradient_scale: f32,
            epsilon: f32,
        }
        let AdamwScalars { first_decay, second_decay, keep, rate, root, gradient_scale } = scalars;
        let tensors = table.table.vector(1).address;
        // As in the optimiser for the CPU.
        let epsilon = 1e-8;
        let arguments = Arguments { tensors, first_decay, second_decay, keep, rate, root, gradient_scale, epsilon };
        let grid = [TENSOR_BLOCKS as u32 * 4, table.count as u32, 1];
        // SAFETY: the table's addresses are allocated as long as the model.
        unsafe { self.launch(kernel, grid, THREADS as u32, 0, &arguments) }
    }
}
