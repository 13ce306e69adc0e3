//! The register tile: every product with a weight, every attention score and every weight gradient ends here.

use half::f16;

#[cfg(target_arch = "x86_64")]
use super::{six_rows, twelve_rows};

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
/// fill 15 of AVX2's 16 registers; 12 x 2 accumulators, 2 weights and the value 27 of AVX-512's 32.
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

/// Where a tile's results go.
#[derive(Clone, Copy)]
pub(crate) struct Results {
    /// The first row's result with the first panel's first output.
    pub(crate) first: *mut f32,
    /// Elements from one row to the next.
    pub(crate) row_stride: usize,
    /// Elements from one panel's 16 results to the next one's.
    pub(crate) panel_stride: usize,
}

impl Results {
    /// Rows of a matrix, where a panel's results lie behind those of the one before.
    pub(crate) fn rows(first: *mut f32, row_stride: usize) -> Self {
        Self { first, row_stride, panel_stride: PANEL }
    }

    /// The same rows' results with another first panel.
    ///
    /// # Safety
    /// As for [`pointer::add`].
    unsafe fn panel(self, index: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { first: unsafe { self.first.add(index * self.panel_stride) }, ..self }
    }
}

/// `$call` with the constant `$ROWS` that `$rows` is; the last of the list where it is none of the others.
#[cfg(target_arch = "x86_64")]
macro_rules! with_rows {
    ($rows:expr, $ROWS:ident in [$($count:literal)*] or $last:literal, $call:expr) => {
        match $rows {
            $($count => {
                const $ROWS: usize = $count;
                $call
            })*
            _ => {
                const $ROWS: usize = $last;
                $call
            }
        }
    };
}

impl Tile {
    /// [`Tile::run_beside`] with panels in equal distances.
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn run_on<P: PanelElement>(
        self,
        set: InstructionSet,
        rows: usize,
        panels: Panels<P>,
        out: Results,
        accumulate: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let panel = |index: usize| panels.first.add(index * panels.stride);
            self.run_beside(set, rows, panels.count, panel, out, accumulate);
        }
    }

    /// Multiplies `rows` rows (1 to [`tile_rows`]) by `count` panels, and stores to, or adds to, `out`.
    ///
    /// All panels in one call: a call for each of them was 2% of a training step.
    ///
    /// # Safety
    /// The machine has `set`. `rows` rows of `inputs` elements must be readable from `x` in its layout; `inputs * 16`
    /// elements from each `panel(index)`; and the results writable (and, to accumulate, initialised).
    pub(crate) unsafe fn run_beside<P: PanelElement>(
        self,
        set: InstructionSet,
        rows: usize,
        count: usize,
        panel: impl Fn(usize) -> *const P,
        out: Results,
        accumulate: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => with_rows!(
                    rows,
                    ROWS in [1 2 3 4 5 6 7 8 9 10 11] or 12,
                    self.avx512_side_by_side::<ROWS, P>(count, panel, out, accumulate)
                ),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => with_rows!(
                    rows,
                    ROWS in [1 2 3 4 5] or 6,
                    self.avx2_one_by_one::<ROWS, P>(count, panel, out, accumulate)
                ),
                _ => {
                    for index in 0..count {
                        self.portable(rows, panel(index), out.panel(index), accumulate);
                    }
                }
            }
        }
    }

    /// Several panels at once: each value is then loaded once for several multiply-adds, and few rows, which are few
    /// chains, do not leave the multipliers waiting for each other. In attention of one new token, a tile has as many
    /// rows as query heads share a key head.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512_side_by_side<const ROWS: usize, P: PanelElement>(
        self,
        count: usize,
        panel: impl Fn(usize) -> *const P,
        out: Results,
        accumulate: bool,
    ) {
        let mut first = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while ROWS <= 3 && first + 4 <= count {
                let panels = [panel(first), panel(first + 1), panel(first + 2), panel(first + 3)];
                self.avx512::<ROWS, 4, P>(panels, out.panel(first), accumulate);
                first += 4;
            }
            while first + 2 <= count {
                let (panels, out) = ([panel(first), panel(first + 1)], out.panel(first));
                match panels.map(P::floats) {
                    [Some(one), Some(two)] if ROWS == twelve_rows::ROWS => {
                        twelve_rows::run_two(self, [one, two], [out, out.panel(1)], accumulate);
                    }
                    _ => self.avx512::<ROWS, 2, P>(panels, out, accumulate),
                }
                first += 2;
            }
            if first < count {
                let (panel, out) = (panel(first), out.panel(first));
                match P::floats(panel) {
                    Some(panel) if ROWS == twelve_rows::ROWS => twelve_rows::run(self, panel, out, accumulate),
                    _ => self.avx512::<ROWS, 1, P>([panel], out, accumulate),
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const ROWS: usize, const PANELS: usize, P: PanelElement>(
        self,
        panels: [*const P; PANELS],
        out: Results,
        accumulate: bool,
    ) {
        use std::arch::x86_64::{
            _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
        };
        // SAFETY: the caller's promise covers every address below.
        unsafe {
            let result = |row: usize, panel: usize| out.first.add(row * out.row_stride + panel * out.panel_stride);
            let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
            if accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (panel, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(result(row, panel));
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
                    _mm512_storeu_ps(result(row, panel), *sum);
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2_one_by_one<const ROWS: usize, P: PanelElement>(
        self,
        count: usize,
        panel: impl Fn(usize) -> *const P,
        out: Results,
        accumulate: bool,
    ) {
        for index in 0..count {
            // SAFETY: the caller's promise.
            unsafe {
                let (panel, out) = (panel(index), out.panel(index));
                match P::floats(panel) {
                    Some(panel) if ROWS == six_rows::ROWS => {
                        six_rows::run(self, panel, out.first, out.row_stride, accumulate);
                    }
                    _ => self.avx2::<ROWS, P>(panel, out, accumulate),
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<const ROWS: usize, P: PanelElement>(self, panel: *const P, out: Results, accumulate: bool) {
        use std::arch::x86_64::{
            _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        };
        // SAFETY: the caller's promise covers every address below.
        unsafe {
            let mut low = [_mm256_setzero_ps(); ROWS];
            let mut high = [_mm256_setzero_ps(); ROWS];
            if accumulate {
                for row in 0..ROWS {
                    low[row] = _mm256_loadu_ps(out.first.add(row * out.row_stride));
                    high[row] = _mm256_loadu_ps(out.first.add(row * out.row_stride + 8));
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
                _mm256_storeu_ps(out.first.add(row * out.row_stride), low[row]);
                _mm256_storeu_ps(out.first.add(row * out.row_stride + 8), high[row]);
            }
        }
    }

    /// The same chains of fused multiply-adds, for any machine.
    unsafe fn portable<P: PanelElement>(self, rows: usize, panel: *const P, out: Results, accumulate: bool) {
        let (row_stride, input_stride) = self.layout.strides();
        for row in 0..rows {
            let mut sums = [0.0_f32; PANEL];
            // SAFETY: the caller's promise covers every address below.
            unsafe {
                let target = out.first.add(row * out.row_stride);
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
                    unsafe { tile.run_on(set, rows, panels, Results::rows(out.as_mut_ptr(), PANEL), accumulate) };
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

    /// Products with `panels` side by side, one after the other in memory and each by itself on portable code are the same.
    fn check_side_by_side<P: PanelElement>(panels: &[P], inputs: usize, random: &mut KeyedRandom) {
        let (most, set) = (panels.len() / (inputs * PANEL), instruction_set());
        let stride = most * PANEL + 3;
        let (x, start) = (draw(random, inputs * MAX_TILE_ROWS), draw(random, MAX_TILE_ROWS * stride));
        let panel = |index: usize| panels[index * inputs * PANEL..].as_ptr();
        for (layout, rows) in [Layout::Rows(inputs), Layout::Columns(MAX_TILE_ROWS)]
            .into_iter()
            .flat_map(|layout| (1..=tile_rows()).map(move |rows| (layout, rows)))
        {
            let tile = Tile { x: x.as_ptr(), layout, inputs };
            for (count, accumulate) in (1..=most).flat_map(|count| [(count, false), (count, true)]) {
                let [mut beside, mut strided, mut alone] = [start.clone(), start.clone(), start.clone()];
                let in_a_row = Panels { first: panel(0), stride: inputs * PANEL, count };
                // SAFETY: `x`, the panels and all results hold what is addressed.
                unsafe {
                    tile.run_beside(set, rows, count, panel, Results::rows(beside.as_mut_ptr(), stride), accumulate);
                    tile.run_on(set, rows, in_a_row, Results::rows(strided.as_mut_ptr(), stride), accumulate);
                    for index in 0..count {
                        let out = Results::rows(alone[index * PANEL..].as_mut_ptr(), stride);
                        tile.run_on(InstructionSet::Portable, rows, Panels::one(panel(index)), out, accumulate);
                    }
                }
                assert_eq!(beside, alone, "{rows} rows, {count} panels, accumulate: {accumulate}");
                assert_eq!(strided, beside, "{rows} rows, {count} panels, accumulate: {accumulate}");
            }
        }
    }

    #[test]
    fn panels_side_by_side_give_the_bits_of_each_alone() {
        let (inputs, most) = (21, 7);
        let mut random = KeyedRandom::new(2, &["tile"]);
        let panels = draw(&mut random, most * inputs * PANEL);
        check_side_by_side(&panels, inputs, &mut random);
        let halves: Vec<f16> = panels.into_iter().map(f16::from_f32).collect();
        check_side_by_side(&halves, inputs, &mut random);
    }
}
