//! A matrix laid out for multiplication, and the multiplication itself.
//!
//! A linear layer's weight `W` of shape `[outputs, inputs]` is stored as panels of 16 outputs: panel `p` holds, for
//! each input, the 16 weights that lead to outputs `16p..16p+16`. The kernel keeps a tile of up to 6 rows by 16
//! outputs in registers and walks the inputs once, so that
//!
//! - weights are packed once, at load, and stream through the cache in the order in which they lie in memory;
//! - every output element is one chain of fused multiply-adds in the order of the inputs. Its bits therefore do not
//!   depend on how many rows are multiplied together, on how the work is split over threads, or on the instruction
//!   set. The engine's promise that a request's text does not depend on its company rests on this. A general GEMM
//!   gives no such promise: it changes its summation order with the shape.

use rayon::prelude::*;

/// Outputs per panel: two AVX2 registers.
pub(crate) const PANEL: usize = 16;
/// Rows per register tile: 6 x 2 accumulators, 2 weights and 1 broadcast value fill 15 of 16 AVX2 registers.
const TILE_ROWS: usize = 6;
/// Rows that share one pass over the panels: 96 rows of 1,536 inputs are 576 KiB, about one core's L2 cache.
const BLOCK_ROWS: usize = 96;

/// An immutable `[outputs, inputs]` matrix in panels; see the module's text.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    panels: Vec<f32>,
    outputs: usize,
    inputs: usize,
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
        Self::from_fn(outputs, inputs, |output, input| weight[output * inputs + input])
    }

    fn from_fn(outputs: usize, inputs: usize, element: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let mut panels = vec![0.0_f32; outputs.div_ceil(PANEL) * PANEL * inputs];
        panels.par_chunks_mut(PANEL * inputs.max(1)).enumerate().for_each(|(panel, chunk)| {
            for (input, row) in chunk.chunks_exact_mut(PANEL).enumerate() {
                for (lane, value) in row.iter_mut().enumerate() {
                    let output = panel * PANEL + lane;
                    if output < outputs {
                        *value = element(output, input);
                    }
                }
            }
        });
        Self { panels, outputs, inputs }
    }

    /// The transposed matrix, packed: what the backward pass multiplies by.
    #[must_use]
    pub fn transposed(&self) -> Self {
        Self::from_fn(self.inputs, self.outputs, |output, input| self.get(input, output))
    }

    /// Number of output features.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of input features.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The weight from `input` to `output`.
    pub fn get(&self, output: usize, input: usize) -> f32 {
        self.panels[(output / PANEL * self.inputs + input) * PANEL + output % PANEL]
    }

    /// Copies row `output`, `inputs` long, into `row`.
    pub fn copy_row(&self, output: usize, row: &mut [f32]) {
        let start = output / PANEL * self.inputs * PANEL + output % PANEL;
        for (input, value) in row.iter_mut().enumerate() {
            *value = self.panels[start + input * PANEL];
        }
    }

    /// The matrix row by row, as it was given to [`PackedMatrix::new`].
    pub fn to_rows(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.outputs * self.inputs];
        rows.par_chunks_mut(self.inputs.max(1)).enumerate().for_each(|(output, row)| self.copy_row(output, row));
        rows
    }

    /// `x W^T`: `x` is `[rows, inputs]`, the result `[rows, outputs]`, both row-major.
    pub fn multiply(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(rows * self.outputs);
        // SAFETY: `run` writes every element and, without `accumulate`, reads none. Filling megabytes with zeros first
        // was 3% of a prefill step.
        unsafe {
            self.run(x, rows, out.as_mut_ptr(), false);
            out.set_len(rows * self.outputs);
        }
        out
    }

    /// `out = x W^T`, or `out += x W^T` when `accumulate` is set.
    ///
    /// # Panics
    /// When `x` or `out` has another number of elements than their shapes say.
    pub fn multiply_into(&self, x: &[f32], rows: usize, out: &mut [f32], accumulate: bool) {
        assert_eq!(out.len(), rows * self.outputs, "out has rows x outputs elements");
        // SAFETY: `out` has the size that `run` writes, and is borrowed alone.
        unsafe { self.run(x, rows, out.as_mut_ptr(), accumulate) };
    }

    /// # Safety
    /// `out` is writable for `rows` x `outputs` elements by nobody else, and initialised if `accumulate` is set.
    unsafe fn run(&self, x: &[f32], rows: usize, out: *mut f32, accumulate: bool) {
        assert_eq!(x.len(), rows * self.inputs, "x has rows x inputs elements");
        if rows == 0 || self.outputs == 0 {
            return;
        }
        let panel_count = self.outputs.div_ceil(PANEL);
        let row_blocks = rows.div_ceil(BLOCK_ROWS);
        // Enough tasks that a thread which is held up costs little, few enough that each is worth its start.
        let wanted = rayon::current_num_threads() * 4;
        let flops = 2 * rows * self.inputs * self.outputs;
        let groups = if flops < 400_000 { 1 } else { wanted.div_ceil(row_blocks).clamp(1, panel_count) };
        let group_size = panel_count.div_ceil(groups);
        let groups = panel_count.div_ceil(group_size);
        let target = SharedPointer(out);
        let task = |index: usize| {
            let (block, group) = (index / groups, index % groups);
            let row_range = block * BLOCK_ROWS..((block + 1) * BLOCK_ROWS).min(rows);
            let panel_range = group * group_size..((group + 1) * group_size).min(panel_count);
            // SAFETY: tasks differ in their rows or in their panels, so they write to disjoint elements of `out`.
            unsafe { self.multiply_block(x, row_range, panel_range, target.get(), accumulate) };
        };
        let tasks = row_blocks * groups;
        if tasks == 1 {
            task(0);
        } else {
            (0..tasks).into_par_iter().for_each(task);
        }
    }

    /// # Safety
    /// `out` points to `[rows, outputs]` elements, and nobody else touches those of `row_range` x `panel_range`.
    unsafe fn multiply_block(
        &self,
        x: &[f32],
        row_range: std::ops::Range<usize>,
        panel_range: std::ops::Range<usize>,
        out: *mut f32,
        accumulate: bool,
    ) {
        for panel in panel_range {
            let weights = &self.panels[panel * PANEL * self.inputs..(panel + 1) * PANEL * self.inputs];
            let columns = (self.outputs - panel * PANEL).min(PANEL);
            let mut row = row_range.start;
            while row < row_range.end {
                let count = (row_range.end - row).min(TILE_ROWS);
                // SAFETY: `row` and the panel's first column lie inside `out` by the caller's promise.
                let corner = unsafe { out.add(row * self.outputs + panel * PANEL) };
                let tile = Tile { x: x[row * self.inputs..].as_ptr(), x_stride: self.inputs, inputs: self.inputs };
                if columns == PANEL {
                    // SAFETY: `count` rows of `inputs` elements lie behind `tile.x`, and a full panel behind `corner`.
                    unsafe { tile.run(count, weights.as_ptr(), corner, self.outputs, accumulate) };
                } else {
                    let mut edge = [0.0_f32; TILE_ROWS * PANEL];
                    for r in 0..count {
                        for c in 0..if accumulate { columns } else { 0 } {
                            // SAFETY: inside `out`, as above.
                            edge[r * PANEL + c] = unsafe { *corner.add(r * self.outputs + c) };
                        }
                    }
                    // SAFETY: `edge` holds a full tile.
                    unsafe { tile.run(count, weights.as_ptr(), edge.as_mut_ptr(), PANEL, accumulate) };
                    for r in 0..count {
                        for c in 0..columns {
                            // SAFETY: inside `out`, as above.
                            unsafe { *corner.add(r * self.outputs + c) = edge[r * PANEL + c] };
                        }
                    }
                }
                row += count;
            }
        }
    }
}

/// Up to six rows that are multiplied by one panel.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// First element of the first row.
    pub(crate) x: *const f32,
    /// Elements from one row to the next.
    pub(crate) x_stride: usize,
    /// Length of the inner product.
    pub(crate) inputs: usize,
}

impl Tile {
    /// Multiplies `rows` rows (1 to 6) by a panel of `inputs` x 16 and stores to, or adds to, `out`.
    ///
    /// # Safety
    /// `rows` rows of `inputs` elements, `x_stride` apart, must be readable from `x`; `inputs * 16` elements from
    /// `panel`; and `rows` rows of 16 elements, `out_stride` apart, writable (and initialised) at `out`.
    pub(crate) unsafe fn run(self, rows: usize, panel: *const f32, out: *mut f32, out_stride: usize, accumulate: bool) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the features are there; the rest is the caller's promise.
            unsafe {
                match rows {
                    1 => self.avx2::<1>(panel, out, out_stride, accumulate),
                    2 => self.avx2::<2>(panel, out, out_stride, accumulate),
                    3 => self.avx2::<3>(panel, out, out_stride, accumulate),
                    4 => self.avx2::<4>(panel, out, out_stride, accumulate),
                    5 => self.avx2::<5>(panel, out, out_stride, accumulate),
                    _ => self.avx2::<6>(panel, out, out_stride, accumulate),
                }
            }
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { self.portable(rows, panel, out, out_stride, accumulate) };
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const ROWS: usize>(self, panel: *const f32, out: *mut f32, out_stride: usize, accumulate: bool) {
        use std::arch::x86_64::{
            _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        };
        // SAFETY: the caller's promise covers every address below.
        unsafe {
            let mut low = [_mm256_setzero_ps(); ROWS];
            let mut high = [_mm256_setzero_ps(); ROWS];
            if accumulate {
                for row in 0..ROWS {
                    low[row] = _mm256_loadu_ps(out.add(row * out_stride));
                    high[row] = _mm256_loadu_ps(out.add(row * out_stride + 8));
                }
            }
            for input in 0..self.inputs {
                let weights_low = _mm256_loadu_ps(panel.add(input * PANEL));
                let weights_high = _mm256_loadu_ps(panel.add(input * PANEL + 8));
                for row in 0..ROWS {
                    let value = _mm256_broadcast_ss(&*self.x.add(row * self.x_stride + input));
                    low[row] = _mm256_fmadd_ps(value, weights_low, low[row]);
                    high[row] = _mm256_fmadd_ps(value, weights_high, high[row]);
                }
            }
            for row in 0..ROWS {
                _mm256_storeu_ps(out.add(row * out_stride), low[row]);
                _mm256_storeu_ps(out.add(row * out_stride + 8), high[row]);
            }
        }
    }

    /// The same chains of fused multiply-adds, for any machine.
    unsafe fn portable(self, rows: usize, panel: *const f32, out: *mut f32, out_stride: usize, accumulate: bool) {
        for row in 0..rows {
            let mut sums = [0.0_f32; PANEL];
            // SAFETY: the caller's promise covers every address below.
            unsafe {
                let target = out.add(row * out_stride);
                if accumulate {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = *target.add(lane);
                    }
                }
                for input in 0..self.inputs {
                    let value = *self.x.add(row * self.x_stride + input);
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = value.mul_add(*panel.add(input * PANEL + lane), *sum);
                    }
                }
                for (lane, sum) in sums.iter().enumerate() {
                    *target.add(lane) = *sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencharacter_core::KeyedRandom;
    use proptest::prelude::*;

    fn random(seed: u64, count: usize) -> Vec<f32> {
        let mut random = KeyedRandom::new(seed, &["packed"]);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn agrees_with_the_definition(rows in 1_usize..20, outputs in 1_usize..50, inputs in 1_usize..70, seed: u64) {
            let (x, w) = (random(seed, rows * inputs), random(seed ^ 1, outputs * inputs));
            let matrix = PackedMatrix::new(&w, outputs, inputs);
            prop_assert_eq!(matrix.to_rows(), w.clone());
            prop_assert_eq!(matrix.transposed().transposed().to_rows(), w.clone());
            let mut out = random(seed ^ 2, rows * outputs);
            let before = out.clone();
            matrix.multiply_into(&x, rows, &mut out, true);
            for row in 0..rows {
                for output in 0..outputs {
                    let exact: f64 = (0..inputs)
                        .map(|i| f64::from(x[row * inputs + i]) * f64::from(w[output * inputs + i]))
                        .sum::<f64>() + f64::from(before[row * outputs + output]);
                    prop_assert!((f64::from(out[row * outputs + output]) - exact).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_company_threads_or_instruction_set() {
        let (rows, outputs, inputs) = (131, 200, 96);
        let (x, w) = (random(1, rows * inputs), random(2, outputs * inputs));
        let matrix = PackedMatrix::new(&w, outputs, inputs);
        let together = matrix.multiply(&x, rows);
        for row in [0, 5, 6, 97, 130] {
            let alone = matrix.multiply(&x[row * inputs..(row + 1) * inputs], 1);
            assert_eq!(alone, together[row * outputs..(row + 1) * outputs], "row {row}");
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(7).build().unwrap();
        assert_eq!(pool.install(|| matrix.multiply(&x, rows)), together);
        let mut portable = vec![0.0; PANEL];
        let tile = Tile { x: x.as_ptr(), x_stride: inputs, inputs };
        // SAFETY: one row of x, the first panel, and 16 outputs.
        unsafe { tile.portable(1, matrix.panels.as_ptr(), portable.as_mut_ptr(), PANEL, false) };
        assert_eq!(portable, together[..PANEL]);
    }
}
