//! A device that is this machine's CPU: the kernels' own source, run block by block, and products as plain loops.
//!
//! It exists for tests. Fresh memory is full of values that are no numbers, and so is what lies around it: a kernel that
//! reads what nobody wrote, or beyond its operands, does not go unnoticed.

use std::{
    alloc::{self, Layout},
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ffi::{CString, c_char, c_int, c_uint, c_void},
};

use half::bf16;

use crate::{
    DeviceError,
    device::{Device, Kind, Launch, Matrix, Precision, Product},
};

unsafe extern "C" {
    fn opencharacter_emulated_launch(
        name: *const c_char,
        grid: *const c_uint,
        threads: c_uint,
        shared_bytes: usize,
        arguments: *const c_void,
        reversed: bool,
    ) -> c_int;
}

/// Not a number in every type that kernels use.
const POISON: u8 = 0xff;
const GUARD: usize = 256;

/// The emulation.
#[derive(Debug)]
pub struct Emulated {
    precision: Precision,
    reversed: bool,
    allocated: Cell<usize>,
    peak: Cell<usize>,
    launched: RefCell<BTreeSet<String>>,
}

impl Emulated {
    /// `reversed` runs a block's threads from the last to the first; a kernel without races gives the same bits.
    pub fn new(precision: Precision, reversed: bool) -> Self {
        Self { precision, reversed, allocated: Cell::default(), peak: Cell::default(), launched: RefCell::default() }
    }

    /// Names of the kernels that have run.
    pub fn launched(&self) -> BTreeSet<String> {
        self.launched.borrow().clone()
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes + 2 * GUARD, 256).ok()
}

impl Device for Emulated {
    fn name(&self) -> String {
        "emulation".into()
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn peak_bytes(&self) -> usize {
        self.peak.get()
    }

    fn allocate(&self, bytes: usize, what: &'static str) -> Result<u64, DeviceError> {
        let refused = DeviceError::OutOfMemory { bytes, what };
        let Some(layout) = layout(bytes) else { return Err(refused) };
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc::alloc(layout) };
        if start.is_null() {
            return Err(refused);
        }
        // SAFETY: just allocated.
        unsafe { start.write_bytes(POISON, layout.size()) };
        self.allocated.set(self.allocated.get() + bytes);
        self.peak.set(self.peak.get().max(self.allocated.get()));
        Ok(start as u64 + GUARD as u64)
    }

    unsafe fn free(&self, address: u64, bytes: usize) {
        let start = (address - GUARD as u64) as *mut u8;
        // SAFETY: the caller's promise; the guards are part of the allocation.
        let whole = unsafe {
            let guard = |from: usize| std::slice::from_raw_parts(start.add(from), GUARD).iter().all(|&b| b == POISON);
            guard(0) && guard(GUARD + bytes)
        };
        if let Some(layout) = layout(bytes) {
            // SAFETY: allocated with the same layout.
            unsafe { alloc::dealloc(start, layout) };
        }
        self.allocated.set(self.allocated.get() - bytes);
        assert!(whole || std::thread::panicking(), "a kernel wrote outside a buffer of {bytes} bytes");
    }

    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from as *const u8, bytes.len()) };
        Ok(())
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { (address as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>, arguments: *const c_void) -> Result<(), DeviceError> {
        let name = format!("{}_{}", launch.kernel, self.precision.suffix());
        let failed = |reason: &str| DeviceError::Call { call: name.clone(), reason: reason.into() };
        let symbol = CString::new(name.as_str()).map_err(|_| failed("its name holds a zero"))?;
        // SAFETY: the caller's promise.
        let code = unsafe {
            opencharacter_emulated_launch(
                symbol.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                launch.shared_bytes,
                arguments,
                self.reversed,
            )
        };
        self.launched.borrow_mut().insert(launch.kernel.to_owned());
        match code {
            0 => Ok(()),
            1 => Err(failed("there is no such kernel")),
            2 => Err(failed("its threads wait for each other for ever")),
            _ => Err(failed("it writes behind its shared memory")),
        }
    }

    fn multiply(&self, product: &Product<'_>) -> Result<(), DeviceError> {
        let (m, n, k) = product.extent();
        let left = self.read(&product.left, product.turn_left);
        // The other way round, so that both operands are read along rows.
        let right = self.read(&product.right, !product.turn_right);
        for row in 0..m {
            for column in 0..n {
                let operands = left[row * k..][..k].iter().zip(&right[column * k..][..k]);
                let sum: f32 = operands.map(|(left, right)| left * right).sum();
                self.set(&product.out, row, column, sum * product.scale, product.accumulate);
            }
        }
        Ok(())
    }
}

impl Emulated {
    fn element(&self, matrix: &Matrix<'_>, row: usize, column: usize) -> f32 {
        let place = row * matrix.stride + column;
        // SAFETY: a matrix lies inside its buffer.
        unsafe {
            match (matrix.kind, self.precision) {
                (Kind::Element, Precision::Bf16) => (matrix.address as *const bf16).add(place).read().to_f32(),
                _ => (matrix.address as *const f32).add(place).read(),
            }
        }
    }

    fn set(&self, matrix: &Matrix<'_>, row: usize, column: usize, value: f32, accumulate: bool) {
        let value = if accumulate { value + self.element(matrix, row, column) } else { value };
        let place = row * matrix.stride + column;
        // SAFETY: a matrix lies inside its buffer.
        unsafe {
            match (matrix.kind, self.precision) {
                (Kind::Element, Precision::Bf16) => {
                    (matrix.address as *mut bf16).add(place).write(bf16::from_f32(value));
                }
                _ => (matrix.address as *mut f32).add(place).write(value),
            }
        }
    }

    /// A matrix row by row, or column by column where it is turned.
    fn read(&self, matrix: &Matrix<'_>, turned: bool) -> Vec<f32> {
        let (rows, columns) = if turned { (matrix.columns, matrix.rows) } else { (matrix.rows, matrix.columns) };
        let element =
            |row, column| if turned { self.element(matrix, column, row) } else { self.element(matrix, row, column) };
        (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| element(r, c)).collect()
    }
}
