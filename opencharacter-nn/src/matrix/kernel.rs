//! The register tile: every product with a weight, every attention score and every weight gradient ends here.

use half::f16;

#[cfg(target_arch = "x86_64")]
use super::six_rows;

/// Columns of a tile, and outputs per panel: two AVX2 registers, or one of AVX-512.
pub(crate) const PANEL: usize = 16;

/// Most rows of a tile on any instruction set.
pub(crate) const MAX_TILE_ROWS: usize = 12;

/// What a panel is kept in. Every kernel computes in f32: halves are widened, exactly, on their way into a register.
///
/// The loads are inlined into kernels compiled for the instruction set they need.
pub(crate) trait PanelElement: Copy {
    /// In f32.
    fn widened(self) -> f32;

    /// The same panel, where its elements are f32.
    fn floats(panel: *const Self) -> Option<*const f32>;

    /// 16 elements.
    ///
    /// # Safety
    /// They must be readable, and the processor must have AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_16(from: *const Self) -> std::arch::x86_64::__m512;

    /// 8 elements.
    ///
    /// # Safety
    /// They must be readable, and the processor must have AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_8(from: *const Self) -> std::arch::x86_64::__m256;
}

#[expect(clippy::inline_always, reason = "see the trait")]
impl PanelElement for f32 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }

    #[inline(always)]
    fn floats(panel: *const Self) -> Option<*const f32> {
        Some(panel)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_16(from: *const Self) -> std::arch::x86_64::__m512 {
        // SAFETY: the caller's promise.
        unsafe { std::arch::x86_64::_mm512_loadu_ps(from) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_8(from: *const Self) -> std::arch::x86_64::__m256 {
        // SAFETY: the caller's promise.
        unsafe { std::arch::x86_64::_mm256_loadu_ps(from) }
    }
}

#[expect(clippy::inline_always, reason = "see the trait")]
impl PanelElement for f16 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn floats(_panel: *const Self) -> Option<*const f32> {
        None
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_16(from: *const Self) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps};
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_8(from: *const Self) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps};
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
}

/// Up to [`tile_rows`] rows that are multiplied by panels of `inputs` x 16.
///
/// `out[row][lane] = sum over input of x[row][input] * panel[input * 16 + lane]`, each element as one chain of fused
/// multiply-adds in the order of the inputs. With `accumulate`, the chain begins with what `out` holds, so a product that
/// is cut into pieces along its inputs has the bits of the whole.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// First element of the first row.
    pub(crate) x: *const f32,
    pub(crate) layout: Layout,
    /// Length of the inner product.
    pub(crate) inputs: usize,
}

/// How a tile's rows lie in memory.
#[derive(Clone, Copy)]
pub(crate) enum Layout {
    /// A row's inputs side by side, and so many elements from one row to the next.
    Rows(usize),
    /// An input's rows side by side, and so many elements from one input to the next.
    Columns(usize),
}

impl Layout {
    /// Elements from one row to the next, and from one input to the next.
    fn strides(self) -> (usize, usize) {
        match self {
            Self::Rows(stride) => (stride, 1),
            Self::Columns(stride) => (1, stride),
        }
    }
}

/// Panels that lie in equal distances.
#[derive(Clone, Copy)]
pub(crate) struct Panels<P> {
    pub(crate) first: *const P,
    /// Elements from one panel to the next.
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

impl<P> Panels<P> {
    pub(crate) fn one(panel: *const P) -> Self {
        Self { first: panel, stride: 0, count: 1 }
    }
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
    /// Multiplies `rows` rows (1 to [`tile_rows`]) by `count` panels, and stores to, or adds to, `out`, where a panel's
    /// 16 results lie behind those of the one before.
    ///
    /// Few rows are few chains, which leave the multipliers waiting for each other: several panels at once fill them.
    /// In attention of one new token, a tile has as many rows as query heads share a key head.
    ///
    /// # Safety
    /// `rows` rows of `inputs` elements must be readable from `x` in its layout; `inputs * 16` elements from each
    /// `panel(index)`; and `rows` rows of `count * 16` elements, `out_stride` apart, writable (and, to accumulate,
    /// initialised) at `out`.
    pub(crate) unsafe fn run_beside<P: PanelElement>(
        self,
        rows: usize,
        count: usize,
        panel: impl Fn(usize) -> *const P,
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) {
        let set = instruction_set();
        let mut first = 0;
        // SAFETY: the features were asked for; the rest is the caller's promise.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if set == InstructionSet::Avx512 {
                while first + 4 <= count && rows <= 3 {
                    let panels = [panel(first), panel(first + 1), panel(first + 2), panel(first + 3)];
                    let out = out.add(first * PANEL);
                    match rows {
                        1 => self.avx512::<1, 4, P>(panels, out, out_stride, accumulate),
                        2 => self.avx512::<2, 4, P>(panels, out, out_stride, accumulate),
                        _ => self.avx512::<3, 4, P>(panels, out, out_stride, accumulate),
                    }
                    first += 4;
                }
                while first + 2 <= count && rows <= 6 {
                    let panels = [panel(first), panel(first + 1)];
                    let out = out.add(first * PANEL);
                    match rows {
                        1 => self.avx512::<1, 2, P>(panels, out, out_stride, accumulate),
                        2 => self.avx512::<2, 2, P>(panels, out, out_stride, accumulate),
                        3 => self.avx512::<3, 2, P>(panels, out, out_stride, accumulate),
                        4 => self.avx512::<4, 2, P>(panels, out, out_stride, accumulate),
                        5 => self.avx512::<5, 2, P>(panels, out, out_stride, accumulate),
                        _ => self.avx512::<6, 2, P>(panels, out, out_stride, accumulate),
                    }
                    first += 2;
                }
            }
            for index in first..count {
                let panels = Panels::one(panel(index));
                self.run_on(set, rows, panels, out.add(index * PANEL), out_stride, accumulate);
            }
        }
    }

    /// [`Tile::run_beside`] with panels in equal distances, one after the other: a call for each of them was 2% of a
    /// training step.
    ///
    /// # Safety
    /// As there, on a machine that has `set`.
    pub(crate) unsafe fn run_on<P: PanelElement>(
        self,
        set: InstructionSet,
        rows: usize,
        panels: Panels<P>,
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => match rows {
                    1 => self.avx512_one_by_one::<1, P>(panels, out, out_stride, accumulate),
                    2 => self.avx512_one_by_one::<2, P>(panels, out, out_stride, accumulate),
                    3 => self.avx512_one_by_one::<3, P>(panels, out, out_stride, accumulate),
                    4 => self.avx512_one_by_one::<4, P>(panels, out, out_stride, accumulate),
                    5 => self.avx512_one_by_one::<5, P>(panels, out, out_stride, accumulate),
                    6 => self.avx512_one_by_one::<6, P>(panels, out, out_stride, accumulate),
                    7 => self.avx512_one_by_one::<7, P>(panels, out, out_stride, accumulate),
                    8 => self.avx512_one_by_one::<8, P>(panels, out, out_stride, accumulate),
                    9 => self.avx512_one_by_one::<9, P>(panels, out, out_stride, accumulate),
                    10 => self.avx512_one_by_one::<10, P>(panels, out, out_stride, accumulate),
                    11 => self.avx512_one_by_one::<11, P>(panels, out, out_stride, accumulate),
                    _ => self.avx512_one_by_one::<12, P>(panels, out, out_stride, accumulate),
                },
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => match rows {
                    1 => self.avx2_one_by_one::<1, P>(panels, out, out_stride, accumulate),
                    2 => self.avx2_one_by_one::<2, P>(panels, out, out_stride, accumulate),
                    3 => self.avx2_one_by_one::<3, P>(panels, out, out_stride, accumulate),
                    4 => self.avx2_one_by_one::<4, P>(panels, out, out_stride, accumulate),
                    5 => self.avx2_one_by_one::<5, P>(panels, out, out_stride, accumulate),
                    _ => self.avx2_one_by_one::<6, P>(panels, out, out_stride, accumulate),
                },
                _ => {
                    for index in 0..panels.count {
                        let panel = panels.first.add(index * panels.stride);
                        self.portable(rows, panel, out.add(index * PANEL), out_stride, accumulate);
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512_one_by_one<const ROWS: usize, P: PanelElement>(
        self,
        panels: Panels<P>,
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) {
        for index in 0..panels.count {
            // SAFETY: the caller's promise.
            unsafe {
                let panel = panels.first.add(index * panels.stride);
                self.avx512::<ROWS, 1, P>([panel], out.add(index * PANEL), out_stride, accumulate);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const ROWS: usize, const PANELS: usize, P: PanelElement>(
        self,
        panels: [*const P; PANELS],
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) {
        use std::arch::x86_64::{
            _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
        };
        // SAFETY: the caller's promise covers every address below.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
            if accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (panel, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(out.add(row * out_stride + panel * PANEL));
                    }
                }
            }
            let (row_stride, input_stride) = self.layout.strides();
            for input in 0..self.inputs {
                let weights = panels.map(|panel| P::load_16(panel.add(input * PANEL)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = _mm512_set1_ps(*self.x.add(row * row_stride + input * input_stride));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_fmadd_ps(value, weights, *sum);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (panel, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(out.add(row * out_stride + panel * PANEL), *sum);
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2_one_by_one<const ROWS: usize, P: PanelElement>(
        self,
        panels: Panels<P>,
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) {
        for index in 0..panels.count {
            // SAFETY: the caller's promise.
            unsafe {
                let (panel, out) = (panels.first.add(index * panels.stride), out.add(index * PANEL));
                match P::floats(panel) {
                    Some(panel) if ROWS == six_rows::ROWS => six_rows::run(self, panel, out, out_stride, accumulate),
                    _ => self.avx2::<ROWS, P>(panel, out, out_stride, accumulate),
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<const ROWS: usize, P: PanelElement>(
        self,
        panel: *const P,
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) {
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
            let (row_stride, input_stride) = self.layout.strides();
            for input in 0..self.inputs {
                let weights_low = P::load_8(panel.add(input * PANEL));
                let weights_high = P::load_8(panel.add(input * PANEL + 8));
                for row in 0..ROWS {
                    let value = _mm256_broadcast_ss(&*self.x.add(row * row_stride + input * input_stride));
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
    unsafe fn portable<P: PanelElement>(
        self,
        rows: usize,
        panel: *const P,
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) {
        let (row_stride, input_stride) = self.layout.strides();
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
                    let value = *self.x.add(row * row_stride + input * input_stride);
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = value.mul_add((*panel.add(input * PANEL + lane)).widened(), *sum);
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

    /// Draws `count` numbers.
    fn draw(random: &mut KeyedRandom, count: usize) -> Vec<f32> {
        (0..count).map(|_| random.normal() as f32).collect()
    }

    /// Products with `panel` on every instruction set are those of the portable code.
    fn check_sets<P: PanelElement>(panel: &[P], inputs: usize, random: &mut KeyedRandom) {
        let best = instruction_set();
        let sets = [InstructionSet::Portable, InstructionSet::Avx2, InstructionSet::Avx512];
        let stride = inputs + 4;
        let (x, start) = (draw(random, stride * MAX_TILE_ROWS), draw(random, MAX_TILE_ROWS * PANEL));
        for rows in 1..=tile_rows() {
            for layout in [Layout::Rows(stride), Layout::Columns(MAX_TILE_ROWS)] {
                let tile = Tile { x: x.as_ptr(), layout, inputs };
                let run = |set, accumulate| {
                    let mut out = start.clone();
                    let panels = Panels::one(panel.as_ptr());
                    // SAFETY: the buffers hold what the strides address; `set` is not beyond the best one.
                    unsafe { tile.run_on(set, rows, panels, out.as_mut_ptr(), PANEL, accumulate) };
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

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        // None, one and several rounds of the loops over four inputs, with each rest.
        for inputs in [1, 2, 3, 4, 36, 37] {
            let mut random = KeyedRandom::new(1, &["tile"]);
            let panel = draw(&mut random, inputs * PANEL);
            check_sets(&panel, inputs, &mut random);
            let halves: Vec<f16> = panel.iter().map(|&value| f16::from_f32(value)).collect();
            check_sets(&halves, inputs, &mut random);
        }
    }

    #[test]
    fn panels_side_by_side_give_the_bits_of_each_alone() {
        let (inputs, most) = (21, 7);
        let stride = most * PANEL + 3;
        let mut random = KeyedRandom::new(2, &["tile"]);
        let (x, start) = (draw(&mut random, inputs * MAX_TILE_ROWS), draw(&mut random, MAX_TILE_ROWS * stride));
        let panels: Vec<f16> = draw(&mut random, most * inputs * PANEL).into_iter().map(f16::from_f32).collect();
        let panel = |index: usize| panels[index * inputs * PANEL..].as_ptr();
        let tile = Tile { x: x.as_ptr(), layout: Layout::Rows(inputs), inputs };
        for rows in 1..=tile_rows() {
            for (count, accumulate) in (1..=most).flat_map(|count| [(count, false), (count, true)]) {
                let [mut beside, mut alone] = [start.clone(), start.clone()];
                // SAFETY: `x`, the panels and both results hold what is addressed.
                unsafe { tile.run_beside(rows, count, panel, beside.as_mut_ptr(), stride, accumulate) };
                let mut strided = start.clone();
                let in_a_row = Panels { first: panel(0), stride: inputs * PANEL, count };
                // SAFETY: as above.
                unsafe { tile.run_on(instruction_set(), rows, in_a_row, strided.as_mut_ptr(), stride, accumulate) };
                assert_eq!(strided, beside, "{rows} rows, {count} panels, accumulate: {accumulate}");
                for index in 0..count {
                    let out = alone[index * PANEL..].as_mut_ptr();
                    // SAFETY: as above.
                    unsafe {
                        tile.run_on(InstructionSet::Portable, rows, Panels::one(panel(index)), out, stride, accumulate);
                    }
                }
                assert_eq!(beside, alone, "{rows} rows, {count} panels, accumulate: {accumulate}");
            }
        }
    }
}
