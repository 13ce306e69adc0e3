//! What the model needs of a device: memory, kernels by name, and products.

use std::{ffi::c_void, fmt, marker::PhantomData, rc::Rc};

use crate::DeviceError;

/// Type of weights, activations and their gradients on the device. Masters, moments, gradients of parameters, losses
/// and logits are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// What a GPU computes with.
    Bf16,
    /// For exact comparisons; only the emulation has it.
    F32,
}

impl Precision {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// What ends a kernel's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// `values` in this type, as bytes.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::Bf16 => values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect(),
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

/// A place in the device's memory.
pub(crate) type Address = u64;

/// How a kernel is started.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Its name, without the type's suffix.
    pub kernel: &'a str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in whole warps.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
}

/// `out = scale * left * right`, or `out += ...`; row-major matrices, each operand turned or not.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// `[m, n]`.
    pub out: Matrix<'a>,
    /// `[m, k]`, or `[k, m]` where it is turned.
    pub left: Matrix<'a>,
    /// Whether `left` is read transposed.
    pub turn_left: bool,
    /// `[k, n]`, or `[n, k]` where it is turned.
    pub right: Matrix<'a>,
    /// Whether `right` is read transposed.
    pub turn_right: bool,
    /// Factor on the product.
    pub scale: f32,
    /// Whether `out` is added to.
    pub accumulate: bool,
}

impl Product<'_> {
    /// `(m, n, k)`, after checking that the operands fit.
    pub fn extent(&self) -> (usize, usize, usize) {
        let turned = |matrix: &Matrix<'_>, turn| {
            if turn { (matrix.columns, matrix.rows) } else { (matrix.rows, matrix.columns) }
        };
        let (m, k) = turned(&self.left, self.turn_left);
        let (same, n) = turned(&self.right, self.turn_right);
        assert_eq!(k, same, "operands of a product share an extent");
        assert_eq!((m, n), (self.out.rows, self.out.columns), "a product fits its result");
        assert!(self.left.kind == Kind::Element && self.right.kind == Kind::Element, "operands are elements");
        (m, n, k)
    }
}

/// A GPU, or what stands in for one.
///
/// Work is done in the order in which it is asked for; only `download` waits for it.
pub trait Device: fmt::Debug {
    /// What the device is called.
    fn name(&self) -> String;
    /// Type of elements.
    fn precision(&self) -> Precision;
    /// The most memory that was allocated at once, in bytes.
    fn peak_bytes(&self) -> usize;
    /// Memory with anything in it.
    fn allocate(&self, bytes: usize, what: &'static str) -> Result<u64, DeviceError>;
    /// Gives back what `allocate` gave.
    ///
    /// # Safety
    /// `address` came from [`Device::allocate`] for `bytes`, and nobody uses it any more.
    unsafe fn free(&self, address: u64, bytes: usize);
    /// Copies to the device.
    ///
    /// # Safety
    /// The bytes at `to` are allocated.
    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError>;
    /// Copies from the device, after all that was asked for before is done.
    ///
    /// # Safety
    /// The bytes at `from` are allocated.
    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;
    /// Sets bytes to zero.
    ///
    /// # Safety
    /// The bytes at `address` are allocated.
    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<(), DeviceError>;
    /// Starts a kernel.
    ///
    /// # Safety
    /// `arguments` points to the structure that the kernel takes, and all that it names is allocated.
    unsafe fn launch(&self, launch: &Launch<'_>, arguments: *const c_void) -> Result<(), DeviceError>;
    /// Multiplies, with sums in f32.
    fn multiply(&self, product: &Product<'_>) -> Result<(), DeviceError>;
}

/// What memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of the device's precision.
    Element,
    /// f32.
    Float,
    /// i32.
    Integer,
}

impl Kind {
    fn bytes(self, precision: Precision) -> usize {
        match self {
            Self::Element => precision.bytes(),
            Self::Float | Self::Integer => 4,
        }
    }
}

/// Memory on a device, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    device: Rc<dyn Device>,
    address: Address,
    bytes: usize,
    kind: Kind,
    length: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, and every matrix borrows from this buffer.
        unsafe { self.device.free(self.address, self.bytes) };
    }
}

impl Buffer {
    /// Memory with anything in it.
    pub(crate) fn new(
        device: &Rc<dyn Device>,
        kind: Kind,
        length: usize,
        what: &'static str,
    ) -> Result<Self, DeviceError> {
        // The driver refuses to allocate nothing.
        let bytes = (length * kind.bytes(device.precision())).max(16);
        let address = device.allocate(bytes, what)?;
        Ok(Self { device: Rc::clone(device), address, bytes, kind, length })
    }

    /// Memory full of zeros.
    pub(crate) fn zeros(
        device: &Rc<dyn Device>,
        kind: Kind,
        length: usize,
        what: &'static str,
    ) -> Result<Self, DeviceError> {
        let buffer = Self::new(device, kind, length, what)?;
        buffer.zero()?;
        Ok(buffer)
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn zero(&self) -> Result<(), DeviceError> {
        // SAFETY: all of this buffer.
        unsafe { self.device.zero(self.address, self.bytes) }
    }

    /// Sets all rows of a matrix that begins with this buffer to zero.
    pub(crate) fn zero_first(&self, length: usize) -> Result<(), DeviceError> {
        assert!(length <= self.length, "no more than the buffer");
        // SAFETY: inside this buffer.
        unsafe { self.device.zero(self.address, length * self.kind.bytes(self.device.precision())) }
    }

    /// Writes `values` from element `first` on, rounded where the buffer is of elements.
    pub(crate) fn write(&self, first: usize, values: &[f32]) -> Result<(), DeviceError> {
        assert!(first + values.len() <= self.length, "no more than the buffer");
        let precision = self.device.precision();
        let bytes = match self.kind {
            Kind::Element => precision.encode(values),
            Kind::Float => Precision::F32.encode(values),
            Kind::Integer => unreachable!("integers are written by `write_integers`"),
        };
        // SAFETY: inside this buffer.
        unsafe { self.device.upload(self.address + (first * self.kind.bytes(precision)) as u64, &bytes) }
    }

    pub(crate) fn write_integers(&self, values: &[i32]) -> Result<(), DeviceError> {
        assert!(self.kind == Kind::Integer && values.len() <= self.length, "integers, and no more than the buffer");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        // SAFETY: inside this buffer.
        unsafe { self.device.upload(self.address, &bytes) }
    }

    pub(crate) fn write_bytes(&self, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(bytes.len() <= self.bytes, "no more than the buffer");
        // SAFETY: inside this buffer.
        unsafe { self.device.upload(self.address, bytes) }
    }

    /// Reads `length` floats from element `first` on.
    pub(crate) fn read(&self, first: usize, length: usize) -> Result<Vec<f32>, DeviceError> {
        assert!(self.kind == Kind::Float && first + length <= self.length, "floats, and no more than the buffer");
        let mut bytes = vec![0; length * 4];
        // SAFETY: inside this buffer.
        unsafe { self.device.download(self.address + first as u64 * 4, &mut bytes)? };
        Ok(bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect())
    }

    /// `rows` rows of `columns` elements, `stride` apart, from element `first` on.
    pub(crate) fn matrix(&self, first: usize, rows: usize, columns: usize, stride: usize) -> Matrix<'_> {
        assert!(columns <= stride || rows <= 1, "rows do not overlap");
        assert!(
            rows == 0 || first + (rows - 1) * stride + columns <= self.length,
            "{rows} rows of {columns}, {stride} apart, from {first} on do not fit into {}",
            self.length
        );
        let address = self.address + (first * self.kind.bytes(self.device.precision())) as u64;
        let element_bytes = self.kind.bytes(self.device.precision());
        Matrix { address, rows, columns, stride, kind: self.kind, element_bytes, memory: PhantomData }
    }

    /// `rows` rows of a dense matrix that begins at element `first`.
    pub(crate) fn rows_from(&self, first: usize, rows: usize, columns: usize) -> Matrix<'_> {
        self.matrix(first, rows, columns, columns)
    }

    /// The first `rows` rows of a dense matrix.
    pub(crate) fn rows(&self, rows: usize, columns: usize) -> Matrix<'_> {
        self.matrix(0, rows, columns, columns)
    }

    /// The first `length` elements.
    pub(crate) fn vector(&self, length: usize) -> Matrix<'_> {
        self.matrix(0, 1, length, length)
    }
}

/// A row-major matrix in a device's memory, or a vector: one row.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub(crate) address: Address,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) stride: usize,
    pub(crate) kind: Kind,
    element_bytes: usize,
    memory: PhantomData<&'a Buffer>,
}

impl Matrix<'_> {
    /// Columns `first..first + columns`.
    pub(crate) fn columns(self, first: usize, columns: usize) -> Self {
        assert!(first + columns <= self.columns, "no more columns than the matrix");
        Self { address: self.address + (first * self.element_bytes) as u64, columns, ..self }
    }

    /// Rows `first..first + rows`.
    pub(crate) fn rows(self, first: usize, rows: usize) -> Self {
        assert!(first + rows <= self.rows, "no more rows than the matrix");
        Self { address: self.address + (first * self.stride * self.element_bytes) as u64, rows, ..self }
    }
}
