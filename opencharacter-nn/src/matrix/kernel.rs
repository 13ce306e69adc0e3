//! The register tile: every product with a weight, every attention score and every weight gradient ends here.

/// Columns of a tile, and outputs per panel: two AVX2 registers, or one of AVX-512.
pub(crate) const PANEL: usize = 16;

/// Most rows of a tile on any instruction set.
pub(crate) const MAX_TILE_ROWS: usize = 12;

/// Up to [`tile_rows`] rows that are multiplied by one panel of `inputs` x 16.
///
/// `out[row][lane] = sum over input of x[row * row_stride + input * input_stride] * panel[input * 16 + lane]`, each
/// element as one chain of fused multiply-adds in the order of the inputs. With `accumulate`, the chain begins with
/// what `out` holds, so a product that is cut into pieces along its inputs has the bits of the whole.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// First element of the first row.
    pub(crate) x: *const f32,
    /// Elements from one row to the next.
    pub(crate) row_stride: usize,
    /// Elements from one input to the next.
    pub(crate) input_stride: usize,
    /// Length of the inner product.
    pub(crate) inputs: usize,
}

/// Rows that the best kernel of this machine keeps in registers: 6 x 2 accumulators, 2 weights and 1 broadcast value
/// fill 15 of AVX2's 16 registers; AVX-512 has 32, and needs at least 8 chains to hide the latency of its two units.
/// Two panels of 12 rows at once would fill those 32 and load each value once for two multiply-adds. It was no faster:
/// the loads are not what limits (Zen 4, medians of alternating runs: training 270 against 260 tokens/s, prefill 764
/// against 781).
pub(crate) fn tile_rows() -> usize {
    match instruction_set() {
        InstructionSet::Avx512 => MAX_TILE_ROWS,
        InstructionSet::Avx2 | InstructionSet::Portable => 6,
    }
}

/// What the kernels were compiled for and this machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InstructionSet {
    Avx512,
    Avx2,
    Portable,
}

/// The best of them here; the answer is cached by the standard library.
pub(crate) fn instruction_set() -> InstructionSet {
    #[cfg(target_arch = "x86_64")]
    {
        // Every processor with AVX2 has the two others.
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            let wide = std::arch::is_x86_feature_detected!("avx512f");
            return if wide { InstructionSet::Avx512 } else { InstructionSet::Avx2 };
        }
    }
    InstructionSet::Portable
}

impl Tile {
    /// Multiplies `rows` rows (1 to [`tile_rows`]) by a panel and stores to, or adds to, `out`.
    ///
    /// # Safety
    /// `rows` rows of `inputs` elements must be readable from `x` at its strides; `inputs * 16` elements from `panel`;
    /// and `rows` rows of 16 elements, `out_stride` apart, writable (and, to accumulate, initialised) at `out`.
    pub(crate) unsafe fn run(self, rows: usize, panel: *const f32, out: *mut f32, out_stride: usize, accumulate: bool) {
        // SAFETY: the features were asked for; the rest is the caller's promise.
        unsafe { self.run_on(instruction_set(), rows, panel, out, out_stride, accumulate) }
    }

    /// # Safety
    /// As [`Tile::run`], on a machine that has `set`.
    pub(super) unsafe fn run_on(
        self,
        set: InstructionSet,
        rows: usize,
        panel: *const f32,
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => match rows {
                    1 => self.avx512::<1>(panel, out, out_stride, accumulate),
                    2 => self.avx512::<2>(panel, out, out_stride, accumulate),
                    3 => self.avx512::<3>(panel, out, out_stride, accumulate),
                    4 => self.avx512::<4>(panel, out, out_stride, accumulate),
                    5 => self.avx512::<5>(panel, out, out_stride, accumulate),
                    6 => self.avx512::<6>(panel, out, out_stride, accumulate),
                    7 => self.avx512::<7>(panel, out, out_stride, accumulate),
                    8 => self.avx512::<8>(panel, out, out_stride, accumulate),
                    9 => self.avx512::<9>(panel, out, out_stride, accumulate),
                    10 => self.avx512::<10>(panel, out, out_stride, accumulate),
                    11 => self.avx512::<11>(panel, out, out_stride, accumulate),
                    _ => self.avx512::<12>(panel, out, out_stride, accumulate),
                },
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => match rows {
                    1 => self.avx2::<1>(panel, out, out_stride, accumulate),
                    2 => self.avx2::<2>(panel, out, out_stride, accumulate),
                    3 => self.avx2::<3>(panel, out, out_stride, accumulate),
                    4 => self.avx2::<4>(panel, out, out_stride, accumulate),
                    5 => self.avx2::<5>(panel, out, out_stride, accumulate),
                    _ => self.avx2::<6>(panel, out, out_stride, accumulate),
                },
                _ => self.portable(rows, panel, out, out_stride, accumulate),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const ROWS: usize>(self, panel: *const f32, out: *mut f32, out_stride: usize, accumulate: bool) {
        use std::arch::x86_64::{
            _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
        };
        // SAFETY: the caller's promise covers every address below.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); ROWS];
            if accumulate {
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(out.add(row * out_stride));
                }
            }
            for input in 0..self.inputs {
                let weights = _mm512_loadu_ps(panel.add(input * PANEL));
                for (row, sum) in sums.iter_mut().enumerate() {
                    let value = _mm512_set1_ps(*self.x.add(row * self.row_stride + input * self.input_stride));
                    *sum = _mm512_fmadd_ps(value, weights, *sum);
                }
            }
            for (row, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(out.add(row * out_stride), *sum);
            }
        }
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
                    let value = _mm256_broadcast_ss(&*self.x.add(row * self.row_stride + input * self.input_stride));
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
                    let value = *self.x.add(row * self.row_stride + input * self.input_stride);
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

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let best = instruction_set();
        let sets = [InstructionSet::Portable, InstructionSet::Avx2, InstructionSet::Avx512];
        let (inputs, stride) = (37, 41);
        let mut random = KeyedRandom::new(1, &["tile"]);
        let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
        let (x, panel) = (draw(stride * MAX_TILE_ROWS), draw(inputs * PANEL));
        let start = draw(MAX_TILE_ROWS * PANEL);
        for rows in 1..=tile_rows() {
            for (row_stride, input_stride) in [(stride, 1), (1, MAX_TILE_ROWS)] {
                let tile = Tile { x: x.as_ptr(), row_stride, input_stride, inputs };
                let run = |set, accumulate| {
                    let mut out = start.clone();
                    // SAFETY: the buffers hold what the strides address; `set` is not beyond the best one.
                    unsafe { tile.run_on(set, rows, panel.as_ptr(), out.as_mut_ptr(), PANEL, accumulate) };
                    out
                };
                for accumulate in [false, true] {
                    let expected = run(InstructionSet::Portable, accumulate);
                    assert_eq!(expected[rows * PANEL..], start[rows * PANEL..], "only {rows} rows are written");
                    for set in sets.into_iter().skip_while(|_| best == InstructionSet::Portable) {
                        if set == InstructionSet::Avx512 && best != set || set == InstructionSet::Avx2 && rows > 6 {
                            continue;
                        }
                        assert_eq!(run(set, accumulate), expected, "{set:?}, {rows} rows");
                    }
                }
            }
        }
    }
}
