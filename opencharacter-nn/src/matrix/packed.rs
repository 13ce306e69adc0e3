//! A weight matrix as it lies in memory.

use std::ops::Range;

use super::{BLOCK, BlockFormat, Orientation, PANEL, Panels, blocks::BlockPanels, turn::turn};
use crate::{simd, team};

/// Panels that are made ready together; a tile of rows meets them all while it is in the first-level cache.
pub(super) const GROUP: usize = 6;

/// An `[outputs, inputs]` matrix in panels of 16 outputs; `matrix/mod.rs` says why.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    storage: Storage,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

#[derive(Debug, Clone)]
enum Storage {
    /// `[panels][inputs][16]`.
    Floats(Vec<f32>),
    Blocks(BlockPanels),
}

/// A [`PackedMatrix`] in quantised blocks.
#[derive(Clone, Copy)]
pub(crate) struct QuantisedMatrix<'a> {
    pub(super) blocks: &'a BlockPanels,
    pub(super) outputs: usize,
}

impl PackedMatrix {
    /// Packs a row-major `[outputs, inputs]` weight.
    ///
    /// # Panics
    /// When `weight` has another number of elements.
    pub fn new(weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(weight.len(), outputs * inputs, "a weight has outputs x inputs elements");
        let mut panels = vec![0.0_f32; outputs.div_ceil(PANEL) * PANEL * inputs];
        team::for_each_chunk(&mut panels, PANEL * inputs, |panel, chunk| {
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

    /// The matrix as its blocks, where it has any: what activations in 8 bits can be multiplied with.
    pub(crate) fn quantised(&self) -> Option<QuantisedMatrix<'_>> {
        match &self.storage {
            Storage::Floats(_) => None,
            Storage::Blocks(blocks) => Some(QuantisedMatrix { blocks, outputs: self.outputs }),
        }
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
                team::for_each_chunk(&mut panels, PANEL * self.inputs, |panel, chunk| blocks.unpack(panel, 0, chunk));
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
        team::for_each_chunk(&mut rows, self.inputs, |output, row| self.copy_row(output, row));
        rows
    }

    /// Length of the inner product, and features of the result.
    pub(super) fn extent(&self, orientation: Orientation) -> (usize, usize) {
        match orientation {
            Orientation::Forward => (self.inputs, self.outputs),
            Orientation::Transposed => (self.outputs, self.inputs),
        }
    }

    /// Panels of the (turned) matrix for the `inner` part of its inner product, `[inner][16]` each: in the matrix itself
    /// where they lie ready, else in `buffer`, in distances of `longest` inputs.
    pub(super) fn panels(
        &self,
        orientation: Orientation,
        panels: &Range<usize>,
        inner: &Range<usize>,
        buffer: &mut [f32],
        longest: usize,
    ) -> Panels<f32> {
        match (orientation, &self.storage) {
            (Orientation::Forward, Storage::Floats(values)) => {
                let stride = self.inputs * PANEL;
                let (start, end) = (panels.start * stride + inner.start * PANEL, panels.end * stride);
                return Panels { first: values[start..end].as_ptr(), stride, count: panels.len() };
            }
            (Orientation::Forward, Storage::Blocks(blocks)) => {
                for (panel, out) in panels.clone().zip(buffer.chunks_exact_mut(longest * PANEL)) {
                    blocks.unpack(panel, inner.start, &mut out[..inner.len() * PANEL]);
                }
            }
            (Orientation::Transposed, storage) => self.turn_panels(storage, panels, inner, buffer, longest),
        }
        Panels { first: buffer.as_ptr(), stride: longest * PANEL, count: panels.len() }
    }

    /// Turned panels, 16 inputs of all of them at a time: those lie side by side in memory.
    fn turn_panels(
        &self,
        storage: &Storage,
        panels: &Range<usize>,
        inner: &Range<usize>,
        buffer: &mut [f32],
        longest: usize,
    ) {
        let columns = panels.start * PANEL..(panels.end * PANEL).min(self.inputs);
        let mut unpacked = [0.0; GROUP * PANEL * PANEL];
        // Chunks begin at multiples of 16, so each covers whole panels but for the last one's empty lanes.
        for (index, source) in (inner.start / PANEL..inner.end.div_ceil(PANEL)).enumerate() {
            let strip = match storage {
                Storage::Floats(values) => {
                    let part = |source: usize| (source * self.inputs + columns.start) * PANEL;
                    let length = columns.len() * PANEL;
                    // The processor does not foresee where the next ones lie.
                    if let Some(next) = values.get(part(source + 1)..part(source + 1) + length) {
                        simd::prefetch(next);
                    }
                    &values[part(source)..part(source) + length]
                }
                Storage::Blocks(blocks) => {
                    let unpacked = &mut unpacked[..columns.len() * PANEL];
                    blocks.unpack(source, columns.start, unpacked);
                    unpacked
                }
            };
            let wanted = index * PANEL * PANEL..((index + 1) * PANEL).min(inner.len()) * PANEL;
            for (block, out) in strip.chunks(PANEL * PANEL).zip(buffer.chunks_exact_mut(longest * PANEL)) {
                turn(block, &mut out[wanted.clone()]);
            }
        }
    }
}
