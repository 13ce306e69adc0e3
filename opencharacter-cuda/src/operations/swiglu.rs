//! SwiGLU and its backward.

use super::{Operations, THREADS, address, blocks, stride};
use crate::{
    DeviceError,
    device::{Address, Matrix},
};

impl Operations {
    /// `silu(gate) * up`; `gate_up` is `[rows, 2 * width]`.
    pub(crate) fn swiglu(&self, gate_up: Matrix<'_>, activated: Matrix<'_>) -> Result<(), DeviceError> {
        self.run_swiglu("swiglu", gate_up, None, activated, None)
    }

    /// The gradients of gate and up, and the activations once more.
    pub(crate) fn swiglu_backward(
        &self,
        gate_up: Matrix<'_>,
        gradient: Matrix<'_>,
        activated: Matrix<'_>,
        gate_up_gradient: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        self.run_swiglu("swiglu_backward", gate_up, Some(gradient), activated, Some(gate_up_gradient))
    }

    fn run_swiglu(
        &self,
        kernel: &str,
        gate_up: Matrix<'_>,
        gradient: Option<Matrix<'_>>,
        activated: Matrix<'_>,
        gate_up_gradient: Option<Matrix<'_>>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            gate_up: Address,
            gradient: Address,
            activated: Address,
            gate_up_gradient: Address,
            rows: i32,
            width: i32,
            gate_up_stride: i32,
            gradient_stride: i32,
            activated_stride: i32,
            gate_up_gradient_stride: i32,
        }
        let (rows, width) = (activated.rows, activated.columns);
        assert_eq!((gate_up.rows, gate_up.columns), (rows, 2 * width));
        assert!(gradient.is_none_or(|gradient| (gradient.rows, gradient.columns) == (rows, width)));
        assert!(gate_up_gradient.is_none_or(|gradient| (gradient.rows, gradient.columns) == (rows, 2 * width)));
        let arguments = Arguments {
            gate_up: gate_up.address,
            gradient: address(gradient),
            activated: activated.address,
            gate_up_gradient: address(gate_up_gradient),
            rows: rows as i32,
            width: width as i32,
            gate_up_stride: gate_up.stride as i32,
            gradient_stride: stride(gradient),
            activated_stride: activated.stride as i32,
            gate_up_gradient_stride: stride(gate_up_gradient),
        };
        let pack = 16 / self.0.precision().bytes();
        // SAFETY: shapes were just checked.
        unsafe { self.launch(kernel, blocks((rows * width).div_ceil(pack)), THREADS as u32, 0, &arguments) }
    }
}
