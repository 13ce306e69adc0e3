//! Fine-tuning and scoring on one NVIDIA GPU.
//!
//! The decoder's forward and backward pass are written once, against a small [`Device`]: memory, kernels by name, and
//! products. Two things implement it. `Cuda` (feature `cuda`) drives a GPU through the driver's library and cuBLAS,
//! both loaded when they are first asked for. `Emulated` (feature `emulated`, the default) compiles the very same
//! kernel source as C++ and runs it on the CPU, where tests compare it with opencharacter-nn.
//!
//! Elements are bf16; what is trained is kept in f32, with f32 gradients and moments, and every sum is made in f32.

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "calls the driver and cuBLAS")]
mod cuda;
#[expect(unsafe_code, reason = "memory is an address there")]
mod device;
#[cfg(feature = "emulated")]
#[expect(unsafe_code, reason = "calls the kernels and owns the memory that they read")]
mod emulated;
mod error;
mod model;
#[expect(unsafe_code, reason = "hands the kernels their structures")]
mod operations;
mod pass;
mod trained;
mod weights;
mod workspace;

#[cfg(feature = "cuda")]
pub use cuda::Cuda;
pub use device::{Device, Precision};
#[cfg(feature = "emulated")]
pub use emulated::Emulated;
pub use error::DeviceError;
pub use model::{DeviceModel, Training, Update};
pub use trained::State;

use std::rc::Rc;

/// Opens GPU `ordinal` of this machine.
///
/// # Errors
/// Says what is missing: a build with CUDA, the driver, a GPU, or cuBLAS.
pub fn open(ordinal: usize) -> Result<Rc<dyn Device>, DeviceError> {
    #[cfg(feature = "cuda")]
    return Ok(Rc::new(Cuda::open(ordinal)?));
    #[cfg(not(feature = "cuda"))]
    {
        let _ = ordinal;
        Err(DeviceError::NotBuilt)
    }
}
