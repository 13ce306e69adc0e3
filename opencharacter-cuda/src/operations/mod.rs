//! The kernels as functions on matrices: each checks that its operands fit, fills in the structure that the kernel
//! takes, and starts it.

mod attention;
mod cross_entropy;
mod dropout;
mod embedding;
mod normalisation;
mod optimizer;
mod rotary;
mod swiglu;

use std::{ffi::c_void, rc::Rc};

pub(crate) use self::{
    attention::{Attention, AttentionGradients, Tiles, WIDEST_HEAD},
    dropout::Dropout,
    normalisation::Parts,
    optimizer::{AdamwScalars, TrainedTable, TrainedTensor},
};
use crate::{
    DeviceError,
    device::{Address, Device, Launch, Matrix},
};

/// Threads of a block where nothing asks for another number.
const THREADS: usize = 256;
/// Blocks of a loop over elements: some for every multiprocessor of any GPU.
const MOST_BLOCKS: usize = 2_048;

/// The kernels of one device.
#[derive(Debug, Clone)]
pub(crate) struct Operations(pub(crate) Rc<dyn Device>);

/// Blocks for a loop over `elements`.
fn blocks(elements: usize) -> [u32; 3] {
    [elements.div_ceil(THREADS).clamp(1, MOST_BLOCKS) as u32, 1, 1]
}

fn no_memory() -> Address {
    0
}

fn address(matrix: Option<Matrix<'_>>) -> Address {
    matrix.map_or_else(no_memory, |matrix| matrix.address)
}

fn stride(matrix: Option<Matrix<'_>>) -> i32 {
    matrix.map_or(0, |matrix| matrix.stride as i32)
}

impl Operations {
    /// Starts a kernel whose structure is `arguments`.
    ///
    /// # Safety
    /// The structure is the kernel's, and all that it names is allocated.
    unsafe fn launch<A>(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: usize,
        arguments: &A,
    ) -> Result<(), DeviceError> {
        if grid.contains(&0) {
            return Ok(());
        }
        let launch = Launch { kernel, grid, threads, shared_bytes };
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&launch, std::ptr::from_ref(arguments).cast::<c_void>()) }
    }

    /// A few threads for narrow rows, many for wide ones.
    fn row_threads(&self, width: usize, most: usize) -> u32 {
        let pack = 16 / self.0.precision().bytes();
        width.div_ceil(pack).next_multiple_of(32).clamp(32, most) as u32
    }
}
