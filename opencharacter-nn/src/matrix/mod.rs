//! A weight matrix laid out for multiplication, and the products with it.
//!
//! A linear layer's weight `W` of shape `[outputs, inputs]` is stored as panels of 16 outputs: panel `p` holds, for
//! each input, the 16 weights that lead to outputs `16p..16p+16`, in f32 or in quantised blocks. The kernel keeps a
//! tile of rows by 16 outputs in registers and walks the inputs once, so that
//!
//! - weights stream through the cache in the order in which they lie in memory, a quantised panel through a buffer
//!   that stays in the first-level cache;
//! - every output element is one chain of fused multiply-adds in the order of the inputs. Its bits therefore do not
//!   depend on how many rows are multiplied together, on how the work is split over threads, or on the instruction
//!   set. The engine's promise that a request's text does not depend on its company rests on this. A general GEMM
//!   gives no such promise: it changes its summation order with the shape.
//!
//! The backward pass multiplies by the transposed matrix ([`Orientation::Transposed`]). Panels are turned in the same
//! small buffer, once for many rows, instead of being kept a second time: for 512 rows that is 3% of the product's
//! time and halves the memory of the weights.

mod blocks;
mod kernel;
mod outer;

use rayon::prelude::*;

pub use blocks::BlockFormat;
use blocks::{BLOCK, BlockPanels};
use kernel::{MAX_TILE_ROWS, tile_rows};
pub(crate) use kernel::{PANEL, Tile};
pub(crate) use outer::{Target, add_outer_product};

/// Rows that share one pass over the panels forward: 96 rows of 512 inputs are 192 KiB of a core's L2 cache.
const FORWARD_ROWS: usize = 96;
/// The same where panels must be turned first, which more rows make up for.
const TRANSPOSED_ROWS: usize = 512;
/// Inputs that are multiplied at once: 256 x 16 weights are 16 KiB, half of a first-level cache.
const CHUNK: usize = 256;

/// An immutable `[outputs, inputs]` matrix in panels; see the module's text.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    storage: Storage,
    outputs: usize,
    inputs: usize,
}

#[derive(Debug, Clone)]
enum Storage {
    /// `[panels][inputs][16]`.
    Floats(Vec<f32>),
    Blocks(BlockPanels),
}

/// Which way a product goes through a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orientation {
    /// `x W^T`: activations.
    Forward,
    /// `g W`: gradients.
    Transposed,
}

/// One product of a sum: `x` has as many rows as all others.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) matrix: &'a PackedMatrix,
}

/// A pointer that may cross threads; every user writes to elements that no other does.
#[derive(Clone, Copy)]
pub(crate) struct SharedPointer(pub(crate) *mut f32);

// SAFETY: the pointer is only a place; each parallel task writes to its own disjoint elements.
unsafe impl Send for SharedPointer {}
// SAFETY: as above.
unsafe impl Sync for SharedPointer {}

impl SharedPointer {
    /// A method rather than the field, so that closures capture the whole wrapper and not the bare pointer.
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}

impl PackedMatrix {
    /// Packs a row-major `[outputs, inputs]` weight.
    ///
    /// # Panics
    /// When `weight` has another number of elements.
    pub fn new(weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(weight.len(), outputs * inputs, "a weight has outputs x inputs elements");
        let mut panels = vec![0.0_f32; outputs.div_ceil(PANEL) * PANEL * inputs];
        panels.par_chunks_mut(PANEL * inputs.max(1)).enumerate().for_each(|(panel, chunk)| {
            for lane in 0..PANEL.min(outputs - panel * PANEL) {
                let output = panel * PANEL + lane;
                let row = &weight[output * inputs..(output + 1) * inputs];
                for (value, column) in row.iter().zip(chunk.chunks_exact_mut(PANEL)) {
                    column[lane] = *value;
                }
            }
        });
        Self { storage: Storage::Floats(panels), outputs, inputs }
    }

    /// Packs `outputs` rows of quantised blocks, as a GGUF file holds them; nothing when rows are no whole blocks.
    pub fn from_blocks(format: BlockFormat, rows: &[u8], outputs: usize, inputs: usize) -> Option<Self> {
        let fits = inputs.is_multiple_of(BLOCK) && rows.len() == outputs * (inputs / BLOCK) * format.bytes();
        fits.then(|| Self {
            storage: Storage::Blocks(BlockPanels::new(format, rows, outputs, inputs)),
            outputs,
            inputs,
        })
    }

    /// Number of output features.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of input features.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Floats(panels) => panels.len() * size_of::<f32>(),
            Storage::Blocks(panels) => panels.bytes(),
        }
    }

    /// The panels of an f32 matrix, `[panels][inputs][16]`, to be changed in place; nothing where they are quantised.
    /// Lanes beyond the last output are zero and must stay so.
    pub fn floats_mut(&mut self) -> Option<&mut [f32]> {
        match &mut self.storage {
            Storage::Floats(panels) => Some(panels),
            Storage::Blocks(_) => None,
        }
    }

    /// The same matrix with f32 panels, which can be trained.
    #[must_use]
    pub fn to_floats(&self) -> Self {
        match &self.storage {
            Storage::Floats(_) => self.clone(),
            Storage::Blocks(blocks) => {
                let mut panels = vec![0.0_f32; self.outputs.div_ceil(PANEL) * PANEL * self.inputs];
                let chunks = panels.par_chunks_mut(PANEL * self.inputs.max(1));
                chunks.enumerate().for_each(|(panel, chunk)| blocks.unpack(panel, 0, chunk));
                Self { storage: Storage::Floats(panels), outputs: self.outputs, inputs: self.inputs }
            }
        }
    }

    /// Copies row `output`, `inputs` long, into `row`.
    pub fn copy_row(&self, output: usize, row: &mut [f32]) {
        let (panel, lane) = (output / PANEL, output % PANEL);
        match &self.storage {
            Storage::Floats(panels) => {
                let panel = &panels[panel * self.inputs * PANEL..(panel + 1) * self.inputs * PANEL];
                for (value, column) in row.iter_mut().zip(panel.chunks_exact(PANEL)) {
                    *value = column[lane];
                }
            }
            Storage::Blocks(blocks) => {
                let mut columns = [0.0; BLOCK * PANEL];
                for (block, row) in row.chunks_exact_mut(BLOCK).enumerate() {
                    blocks.unpack(panel, block * BLOCK, &mut columns);
                    for (value, column) in row.iter_mut().zip(columns.chunks_exact(PANEL)) {
                        *value = column[lane];
                    }
                }
            }
        }
    }

    /// Adds `values` to row `output` of `panels`, which has this matrix' shape in the layout of its f32 panels.
    pub(crate) fn add_to_row(&self, output: usize, values: &[f32], panels: &mut [f32]) {
        let start = output / PANEL * self.inputs * PANEL + output % PANEL;
        for (value, column) in values.iter().zip(panels[start..].iter_mut().step_by(PANEL)) {
            *column += value;
        }
    }

    /// The matrix row by row, as it was given to [`PackedMatrix::new`].
    pub fn to_rows(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.outputs * self.inputs];
        rows.par_chunks_mut(self.inputs.max(1)).enumerate().for_each(|(output, row)| self.copy_row(output, row));
        rows
    }

    /// `x W^T`: `x` is `[rows, inputs]`, the result `[rows, outputs]`, both row-major.
    ///
    /// # Panics
    /// When `x` has another number of elements than its shape says.
    pub fn multiply(&self, x: &[f32], rows: usize) -> Vec<f32> {
        sum_of_products(Orientation::Forward, &[Term { x, matrix: self }], rows)
    }

    /// `g W`: `g` is `[rows, outputs]`, the result `[rows, inputs]`, both row-major.
    ///
    /// # Panics
    /// When `g` has another number of elements than its shape says.
    pub fn multiply_transposed(&self, g: &[f32], rows: usize) -> Vec<f32> {
        sum_of_products(Orientation::Transposed, &[Term { x: g, matrix: self }], rows)
    }

    /// Length of the inner product, and features of the result.
    fn extent(&self, orientation: Orientation) -> (usize, usize) {
        match orientation {
            Orientation::Forward => (self.inputs, self.outputs),
            Orientation::Transposed => (self.outputs, self.inputs),
        }
    }

    /// 16 columns of the (turned) matrix for `inputs` of its inner product, as `[inputs][16]`: a part of the matrix
    /// itself where it lies ready, else `buffer`.
    fn panel<'a>(
        &'a self,
        orientation: Orientation,
        panel: usize,
        inner: std::ops::Range<usize>,
        buffer: &'a mut [f32; CHUNK * PANEL],
    ) -> &'a [f32] {
        match (orientation, &self.storage) {
            (Orientation::Forward, Storage::Floats(panels)) => {
                let start = (panel * self.inputs + inner.start) * PANEL;
                &panels[start..start + inner.len() * PANEL]
            }
            (Orientation::Forward, Storage::Blocks(blocks)) => {
                let buffer = &mut buffer[..inner.len() * PANEL];
                blocks.unpack(panel, inner.start, buffer);
                buffer
            }
            (Orientation::Transposed, storage) => {
                let buffer = &mut buffer[..inner.len() * PANEL];
                let first = panel * PANEL;
                let count = PANEL.min(self.inputs - first);
                let mut unpacked = [0.0; PANEL * PANEL];
                // Chunks begin at multiples of 16, so each covers whole panels but for the last one's empty lanes.
                for (index, out) in buffer.chunks_mut(PANEL * PANEL).enumerate() {
                    let source = inner.start / PANEL + index;
                    let block = match storage {
                        Storage::Floats(panels) => {
                            let start = (source * self.inputs + first) * PANEL;
                            &panels[start..start + count * PANEL]
                        }
                        Storage::Blocks(blocks) => {
                            blocks.unpack(source, first, &mut unpacked[..count * PANEL]);
                            &unpacked[..count * PANEL]
                        }
                    };
                    turn(block, out);
                }
                buffer
            }
        }
    }
}

crate::simd::vectorised! {
    /// `out[lane][column] = block[column][lane]`; both have rows of 16, `out` as many as are wanted. Columns that
    /// `block` lacks keep what they held: nobody reads their products.
    fn turn(block: &[f32], out: &mut [f32]) {
        if let (Ok(block), Ok(out)) = (<&[f32; 256]>::try_from(block), <&mut [f32; 256]>::try_from(&mut *out)) {
            for column in 0..PANEL {
                for lane in 0..PANEL {
                    out[lane * PANEL + column] = block[column * PANEL + lane];
                }
            }
            return;
        }
        for (lane, row) in out.chunks_exact_mut(PANEL).enumerate() {
            for (value, column) in row.iter_mut().zip(block.chunks_exact(PANEL)) {
                *value = column[lane];
            }
        }
    }
}

/// The sum of several products with the same result shape, `[rows, features]`, in one pass over the result: a layer
/// and its adapter, or the gradients that several layers send to their common input.
pub(crate) fn sum_of_products(orientation: Orientation, terms: &[Term<'_>], rows: usize) -> Vec<f32> {
    let features = terms.first().map_or(0, |term| term.matrix.extent(orientation).1);
    let mut out = Vec::with_capacity(rows * features);
    // SAFETY: every element is written and none is read before. Filling megabytes with zeros first was 3% of a
    // prefill step.
    unsafe {
        Product { orientation, terms, rows, features, out: SharedPointer(out.as_mut_ptr()), accumulate: false }.run();
        out.set_len(rows * features);
    }
    out
}

/// `out += ` the sum of products.
pub(crate) fn add_products(orientation: Orientation, terms: &[Term<'_>], rows: usize, out: &mut [f32]) {
    let features = terms.first().map_or(0, |term| term.matrix.extent(orientation).1);
    assert_eq!(out.len(), rows * features, "out has rows x features elements");
    // SAFETY: `out` is borrowed alone and initialised.
    unsafe {
        Product { orientation, terms, rows, features, out: SharedPointer(out.as_mut_ptr()), accumulate: true }.run();
    }
}

struct Product<'a> {
    orientation: Orientation,
    terms: &'a [Term<'a>],
    rows: usize,
    features: usize,
    out: SharedPointer,
    accumulate: bool,
}

impl Product<'_> {
    /// # Safety
    /// `out` is writable for `rows` x `features` elements by nobody else, and initialised if `accumulate` is set.
    unsafe fn run(&self) {
        let mut inner_total = 0;
        for term in self.terms {
            let (inner, features) = term.matrix.extent(self.orientation);
            assert_eq!(features, self.features, "all terms give the same features");
            assert_eq!(term.x.len(), self.rows * inner, "x has rows x inner elements");
            inner_total += inner;
        }
        if self.rows == 0 || self.features == 0 {
            return;
        }
        let panels = self.features.div_ceil(PANEL);
        // Enough tasks that a thread which is held up costs little, few enough that each is worth its start.
        let threads = rayon::current_num_threads();
        let wanted = if 2 * self.rows * inner_total * self.features < 400_000 { 1 } else { threads * 4 };
        let most_rows = if self.orientation == Orientation::Forward { FORWARD_ROWS } else { TRANSPOSED_ROWS };
        let row_blocks = self.rows.div_ceil(most_rows).max(wanted.div_ceil(panels).min(self.rows.div_ceil(24)));
        let block_rows = self.rows.div_ceil(row_blocks).next_multiple_of(tile_rows());
        let row_blocks = self.rows.div_ceil(block_rows);
        let groups = wanted.div_ceil(row_blocks).clamp(1, panels);
        let group_size = panels.div_ceil(groups);
        let groups = panels.div_ceil(group_size);
        let task = |index: usize| {
            let (block, group) = (index / groups, index % groups);
            let rows = block * block_rows..((block + 1) * block_rows).min(self.rows);
            let mut buffer = [0.0_f32; CHUNK * PANEL];
            for panel in group * group_size..((group + 1) * group_size).min(panels) {
                // SAFETY: tasks differ in their rows or in their panels, so they write to disjoint elements of `out`.
                unsafe { self.fill(rows.clone(), panel, &mut buffer) };
            }
        };
        let tasks = row_blocks * groups;
        if tasks == 1 {
            task(0);
        } else {
            (0..tasks).into_par_iter().for_each(task);
        }
    }

    /// # Safety
    /// As [`Product::run`], for the elements of `rows` and the features of `panel`.
    unsafe fn fill(&self, rows: std::ops::Range<usize>, panel: usize, buffer: &mut [f32; CHUNK * PANEL]) {
        let columns = (self.features - panel * PANEL).min(PANEL);
        let step = tile_rows();
        let mut accumulate = self.accumulate;
        for term in self.terms {
            let (inner, _) = term.matrix.extent(self.orientation);
            for start in (0..inner).step_by(CHUNK) {
                let chunk = start..(start + CHUNK).min(inner);
                let inputs = chunk.len();
                let weights = term.matrix.panel(self.orientation, panel, chunk, buffer);
                for row in rows.clone().step_by(step) {
                    let count = (rows.end - row).min(step);
                    let tile =
                        Tile { x: term.x[row * inner + start..].as_ptr(), row_stride: inner, input_stride: 1, inputs };
                    // SAFETY: `count` rows lie behind `tile.x`, `inputs` x 16 weights behind `weights`, and the tile's
                    // elements inside `out` by the caller's promise.
                    unsafe {
                        let corner = self.out.get().add(row * self.features + panel * PANEL);
                        run_clipped(tile, count, weights.as_ptr(), corner, self.features, columns, accumulate);
                    }
                }
                accumulate = true;
            }
        }
    }
}

/// Runs a tile of which only the first `columns` columns exist in `out`.
///
/// # Safety
/// As [`Tile::run`], but for `columns` of 16 elements per row of `out`.
unsafe fn run_clipped(
    tile: Tile,
    rows: usize,
    panel: *const f32,
    out: *mut f32,
    out_stride: usize,
    columns: usize,
    accumulate: bool,
) {
    // SAFETY: the caller's promise; `edge` holds a whole tile.
    unsafe {
        if columns == PANEL {
            tile.run(rows, panel, out, out_stride, accumulate);
            return;
        }
        let mut edge = [0.0_f32; MAX_TILE_ROWS * PANEL];
        for row in 0..rows {
            for column in 0..if accumulate { columns } else { 0 } {
                edge[row * PANEL + column] = *out.add(row * out_stride + column);
            }
        }
        tile.run(rows, panel, edge.as_mut_ptr(), PANEL, accumulate);
        for row in 0..rows {
            for column in 0..columns {
                *out.add(row * out_stride + column) = edge[row * PANEL + column];
            }
        }
    }
}

#[cfg(test)]
mod tests;
