//! Dropout, for the inputs of adapters.

use super::{Operations, THREADS, blocks};
use crate::{
    DeviceError,
    device::{Address, Matrix},
};

/// Dropout whose draws follow from a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropout {
    pub(crate) probability: f32,
    pub(crate) key: u64,
}

impl Operations {
    /// Drops a share of `input` into `out`, or adds what is left to it.
    pub(crate) fn dropout(
        &self,
        input: Matrix<'_>,
        dropout: Dropout,
        out: Matrix<'_>,
        accumulate: bool,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            out: Address,
            key: u64,
            probability: f32,
            rows: i32,
            width: i32,
            input_stride: i32,
            out_stride: i32,
            accumulate: i32,
        }
        assert_eq!((input.rows, input.columns), (out.rows, out.columns));
        let arguments = Arguments {
            input: input.address,
            out: out.address,
            key: dropout.key,
            probability: dropout.probability,
            rows: input.rows as i32,
            width: input.columns as i32,
            input_stride: input.stride as i32,
            out_stride: out.stride as i32,
            accumulate: i32::from(accumulate),
        };
        // SAFETY: shapes were just checked.
        unsafe { self.launch("dropout", blocks(input.rows * input.columns), THREADS as u32, 0, &arguments) }
    }
}
