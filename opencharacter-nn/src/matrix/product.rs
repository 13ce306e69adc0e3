//! Products with weight matrices: sums of them, cut into tasks.

use std::{cell::RefCell, ops::Range};

#[cfg(target_arch = "x86_64")]
use super::bfloat16::{self, Bfloat16Rows};
use super::{
    Factor, InstructionSet, Layout, PANEL, PackedMatrix, Panels, Results, RoundedRows, Tile,
    activations::EightBitRows,
    block_tile::{self, BlockTile, COLUMNS},
    fixed_point::{self, Corner, FixedPointRows, RightDigits},
    instruction_set,
    kernel::MAX_TILE_ROWS,
    packed::{GROUP, QuantisedMatrix},
    tile_rows,
};
use crate::{
    simd,
    team::{self, Pointer},
    tile_registers::Tiles,
};

/// Rows that share one pass over the panels, and thereby the work of unpacking and turning them.
/// Rows stream, so many of them cost no cache (alone, 1,024 x 576 by 576 x 1,536: 202 GFLOP/s in blocks of 384 rows, 219
/// in one of 1,024; in a training step the difference drowned in noise).
const BLOCK_ROWS: usize = 1024;
/// Most inputs that are multiplied at once: 6 panels of 640 x 16 weights are 240 KiB, half of a core's second-level
/// cache. Shorter chunks were slower: each begins with rows that are not in the first-level cache yet (measured on two
/// cores with AVX2, in one run: 105 GFLOP/s for 256 inputs, 138 for 576). The other order, in which 192 inputs of one panel
/// stay in the first-level cache and 96 rows pass, was no faster in a program of its own (Zen 3, both cores at work).
const CHUNK: usize = 640;
/// Fewest rows that are cut off where a pair of panels is unpacked for them.
pub(super) const FEWEST_ROWS: usize = 128;
/// Elements from one row to the next of a tile that was copied: a chunk, and a cache line that keeps rows from colliding.
const NEAR_STRIDE: usize = CHUNK + PANEL;

thread_local! {
    /// Panels made ready for multiplication, and behind them a tile's rows.
    static READY: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Which way a product goes through a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orientation {
    /// `x W^T`: activations.
    Forward,
    /// `g W`: gradients.
    Transposed,
}

/// In which form activations meet quantised weights. With f32 weights it makes no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// f32: the weights are turned into f32 as well. What training is defined by.
    Floats,
    /// Rounded to 8 bits in blocks of 64, or of 32 (as in llama.cpp) where a row is no multiple of 64: dot products of
    /// bytes, several times as fast as those of floats.
    EightBits,
    /// Rounded to what this machine multiplies many rows with fastest: to bfloat16, and the weights with them, where it has
    /// tiles for that (AMX), else to 8 bits. A row alone is not: it took 1.3 times as long as in 8 bits (Granite Rapids).
    RoundedForBatches,
}

/// One product of a sum: `x` has as many rows as all others.
#[derive(Clone, Copy)]
pub(crate) enum Term<'a> {
    /// In f32, whatever the matrix is stored in.
    Floats { x: &'a [f32], matrix: &'a PackedMatrix },
    /// To the accuracy of f32, whatever the matrix is stored in; on machines that have tiles for it.
    FixedPoint { x: &'a FixedPointRows, matrix: &'a PackedMatrix },
    /// With rounded activations as well; forward only, and only as a sum's first term.
    Rounded { x: &'a RoundedRows, matrix: QuantisedMatrix<'a> },
}

impl Term<'_> {
    /// Length of the inner product, and features of the result.
    fn extent(&self, orientation: Orientation) -> (usize, usize) {
        match self {
            Self::Floats { matrix, .. } | Self::FixedPoint { matrix, .. } => matrix.extent(orientation),
            Self::Rounded { matrix, .. } => (matrix.blocks.inputs(), matrix.outputs),
        }
    }
}

impl PackedMatrix {
    /// `x W^T`: `x` is `[rows, inputs]`, the result `[rows, outputs]`, both row-major.
    ///
    /// # Panics
    /// When `x` has another number of elements than its shape says.
    pub fn multiply(&self, x: &[f32], rows: usize) -> Vec<f32> {
        sum_of_products(Orientation::Forward, &[Term::Floats { x, matrix: self }], rows)
    }

    /// As [`PackedMatrix::multiply`], with activations in the given form.
    ///
    /// # Panics
    /// As [`PackedMatrix::multiply`].
    pub fn multiply_in(&self, activations: Activations, x: &[f32], rows: usize) -> Vec<f32> {
        let mut out = Vec::new();
        self.multiply_into(activations, x, rows, &mut out);
        out
    }

    /// As [`PackedMatrix::multiply_in`], in place of what `out` held.
    ///
    /// # Panics
    /// As [`PackedMatrix::multiply`].
    pub(crate) fn multiply_into(&self, activations: Activations, x: &[f32], rows: usize, out: &mut Vec<f32>) {
        let (rounded, factor);
        let term = match (activations, self.quantised()) {
            (Activations::Floats, _) => {
                factor = Factor::new(x, self.inputs);
                factor.term(self)
            }
            (_, Some(matrix)) => {
                rounded = RoundedRows::new(activations, x, self.inputs);
                Term::Rounded { x: &rounded, matrix }
            }
            (_, None) => Term::Floats { x, matrix: self },
        };
        let length = rows * self.outputs;
        out.clear();
        out.reserve_exact(length);
        // SAFETY: every element is written and none is read before.
        unsafe {
            run(&[Product::new(Orientation::Forward, &[term], rows, Pointer(out.as_mut_ptr()), false)]);
            out.set_len(length);
        }
    }

    /// `g W`: `g` is `[rows, outputs]`, the result `[rows, inputs]`, both row-major.
    ///
    /// # Panics
    /// When `g` has another number of elements than its shape says.
    pub fn multiply_transposed(&self, g: &[f32], rows: usize) -> Vec<f32> {
        if !fixed_point::available() {
            return sum_of_products(Orientation::Transposed, &[Term::Floats { x: g, matrix: self }], rows);
        }
        let mut out = vec![0.0; rows * self.inputs];
        for x in FixedPointRows::parts(g, self.outputs) {
            add_products(Orientation::Transposed, &[Term::FixedPoint { x: &x, matrix: self }], rows, &mut out);
        }
        out
    }
}

/// The sum of several products with the same result shape, `[rows, features]`, in one pass over the result: a layer
/// and its adapter, or the gradients that several layers send to their common input.
pub(crate) fn sum_of_products(orientation: Orientation, terms: &[Term<'_>], rows: usize) -> Vec<f32> {
    several_sums(orientation, &[terms], rows).pop().unwrap_or_default()
}

/// Several sums of products at once, for layers that share an input: fewer and longer loops.
pub(crate) fn several_sums(orientation: Orientation, sums: &[&[Term<'_>]], rows: usize) -> Vec<Vec<f32>> {
    let lengths = sums.iter().map(|terms| rows * features(orientation, terms));
    let mut outs: Vec<Vec<f32>> = lengths.map(Vec::with_capacity).collect();
    let products: Vec<Product<'_>> = sums
        .iter()
        .zip(&mut outs)
        .map(|(terms, out)| Product::new(orientation, terms, rows, Pointer(out.as_mut_ptr()), false))
        .collect();
    // SAFETY: every element is written and none is read before. Filling megabytes with zeros first was 3% of a
    // prefill step.
    unsafe {
        run(&products);
        for (out, terms) in outs.iter_mut().zip(sums) {
            out.set_len(rows * features(orientation, terms));
        }
    }
    outs
}

/// `out += ` the sum of products.
pub(crate) fn add_products(orientation: Orientation, terms: &[Term<'_>], rows: usize, out: &mut [f32]) {
    assert_eq!(out.len(), rows * features(orientation, terms), "out has rows x features elements");
    // SAFETY: `out` is borrowed alone and initialised.
    unsafe { run(&[Product::new(orientation, terms, rows, Pointer(out.as_mut_ptr()), true)]) };
}

fn features(orientation: Orientation, terms: &[Term<'_>]) -> usize {
    terms.first().map_or(0, |term| term.extent(orientation).1)
}

/// A sum of products, and how it is cut into tasks.
struct Product<'a> {
    orientation: Orientation,
    terms: &'a [Term<'a>],
    rows: usize,
    features: usize,
    out: Pointer<f32>,
    accumulate: bool,
    /// Rows of a task.
    block_rows: usize,
    /// How many of them meet all panels of a task before the next ones do.
    pass_rows: usize,
    /// Panels of a task, and how many tasks share a block of rows.
    group_size: usize,
    groups: usize,
}

/// Runs products side by side.
///
/// # Safety
/// Every product's `out` is writable for `rows` x `features` elements by nobody else, and initialised where it
/// accumulates.
unsafe fn run(products: &[Product<'_>]) {
    let total = products.iter().map(Product::tasks).sum();
    team::for_each(total, |mut index| {
        for product in products {
            if index < product.tasks() {
                // SAFETY: tasks of a product differ in their rows or in their panels, so they write to disjoint
                // elements.
                unsafe { product.task(index) };
                return;
            }
            index -= product.tasks();
        }
    });
}

impl<'a> Product<'a> {
    fn new(orientation: Orientation, terms: &'a [Term<'a>], rows: usize, out: Pointer<f32>, accumulate: bool) -> Self {
        let features = features(orientation, terms);
        let mut inner_total = 0;
        for (place, term) in terms.iter().enumerate() {
            let (inner, term_features) = term.extent(orientation);
            assert_eq!(term_features, features, "all terms give the same features");
            match term {
                Term::Floats { x, .. } => assert_eq!(x.len(), rows * inner, "x has rows x inner elements"),
                Term::FixedPoint { x, .. } => x.check(rows, inner),
                Term::Rounded { x, .. } => {
                    assert_eq!(orientation, Orientation::Forward, "gradients are f32");
                    assert!(place == 0 && !accumulate, "rounded products begin a sum");
                    assert_eq!(x.shape(), (rows, inner), "x has rows x inner elements");
                }
            }
            inner_total += inner;
        }
        let panels = features.div_ceil(PANEL).max(1);
        // Enough tasks that a thread which is held up costs little, few enough that each is worth its start: three times
        // as many f32 tasks made training 2 to 5% slower (Zen 4).
        let wanted = if 2 * rows * inner_total * features < 100_000 { 1 } else { team::threads() * 4 };
        // Many rows in bfloat16 meet one pair of panels after the other, so that is a task; rows are cut where there are more
        // threads than pairs.
        let by_pairs = matches!(terms.first(), Some(Term::Rounded { x, .. }) if x.meets_pair_after_pair());
        let pairs = panels.div_ceil(2);
        let row_blocks = if by_pairs {
            (2 * team::threads()).div_ceil(pairs).min(rows / FEWEST_ROWS)
        } else {
            wanted.div_ceil(panels).min(rows.div_ceil(24))
        };
        let row_blocks = rows.div_ceil(BLOCK_ROWS).max(row_blocks);
        let step = match terms.first() {
            Some(Term::FixedPoint { .. }) => fixed_point::ROWS,
            Some(Term::Rounded { x, .. }) => x.step(),
            _ => tile_rows(),
        };
        let block_rows = rows.div_ceil(row_blocks.max(1)).max(1).next_multiple_of(step);
        let wanted = match terms.first() {
            // A row alone waits for weights, and memory hands over few long runs of them faster than many short ones.
            Some(Term::Rounded { .. }) if rows == 1 => wanted / 2,
            // Rounded products are short: with twice as many tasks, threads wait less long for the last of them.
            Some(Term::Rounded { .. }) => 2 * wanted,
            _ => wanted,
        };
        let groups = if by_pairs { pairs } else { wanted.div_ceil(rows.div_ceil(block_rows).max(1)).clamp(1, panels) };
        // An even number: quantised panels lie in pairs.
        let group_size = panels.div_ceil(groups).next_multiple_of(2);
        let groups = panels.div_ceil(group_size);
        let pass_rows = match terms.first() {
            Some(Term::Rounded { x, .. }) => x.rows_of_a_pass(),
            _ => block_rows,
        };
        Self { orientation, terms, rows, features, out, accumulate, block_rows, pass_rows, group_size, groups }
    }

    fn tasks(&self) -> usize {
        if self.features == 0 { 0 } else { self.rows.div_ceil(self.block_rows) * self.groups }
    }

    /// # Safety
    /// As [`run`]; each index is run once.
    unsafe fn task(&self, index: usize) {
        let (block, group) = (index / self.groups, index % self.groups);
        let rows = block * self.block_rows..((block + 1) * self.block_rows).min(self.rows);
        let panels = self.features.div_ceil(PANEL);
        let panels = group * self.group_size..((group + 1) * self.group_size).min(panels);
        for row in rows.clone().step_by(self.pass_rows) {
            for first in panels.clone().step_by(GROUP) {
                let rows = row..(row + self.pass_rows).min(rows.end);
                // SAFETY: the caller's promise.
                unsafe { self.fill(rows, first..(first + GROUP).min(panels.end)) };
            }
        }
    }

    /// # Safety
    /// As [`run`], for the elements of `rows` and the features of `panels`, which are at most [`GROUP`] and begin with a
    /// pair.
    unsafe fn fill(&self, rows: Range<usize>, panels: Range<usize>) {
        let mut accumulate = self.accumulate;
        for term in self.terms {
            // SAFETY: the caller's promise.
            unsafe {
                match term {
                    Term::Floats { x, matrix } => self.fill_floats(x, matrix, &rows, &panels, accumulate),
                    Term::FixedPoint { x, matrix } => self.fill_fixed_point(x, matrix, &rows, &panels, accumulate),
                    Term::Rounded { x: RoundedRows::EightBits(x), matrix } => {
                        self.fill_eight_bits(x, *matrix, &rows, &panels);
                    }
                    #[cfg(target_arch = "x86_64")]
                    Term::Rounded { x: RoundedRows::Bfloat16(x), matrix } => {
                        self.fill_bfloat16(x, *matrix, &rows, &panels);
                    }
                }
            }
            accumulate = true;
        }
    }

    /// # Safety
    /// As [`Product::fill`].
    unsafe fn fill_eight_bits(
        &self,
        x: &EightBitRows,
        matrix: QuantisedMatrix<'_>,
        rows: &Range<usize>,
        panels: &Range<usize>,
    ) {
        let set = block_tile::instruction_set();
        for panel in panels.clone().step_by(2) {
            let first = panel * PANEL;
            let tile = matrix.blocks.tile(panel / 2, x, rows.start);
            // SAFETY: the elements of these rows and panels are inside `out` and nobody else's, by the caller's promise.
            unsafe {
                let corner = self.out.get().add(rows.start * self.features + first);
                let target = block_tile::Target { out: corner, stride: self.features };
                match self.features - first {
                    columns @ 0..COLUMNS => run_clipped_blocks(set, tile, rows.len(), target, columns),
                    _ => tile.run_on(set, rows.len(), target),
                }
            }
        }
    }

    /// # Safety
    /// As [`Product::fill`], and the first row is a tile's.
    #[cfg(target_arch = "x86_64")]
    unsafe fn fill_bfloat16(
        &self,
        x: &Bfloat16Rows,
        matrix: QuantisedMatrix<'_>,
        rows: &Range<usize>,
        panels: &Range<usize>,
    ) {
        // SAFETY: rows in bfloat16 exist on machines with tiles only. The elements of these rows and panels are inside `out`
        // and nobody else's, by the caller's promise.
        unsafe {
            let _tiles = Tiles::configure();
            let out = self.out.get().add(rows.start * self.features + panels.start * PANEL);
            bfloat16::multiply(x, rows, matrix.blocks, panels, (out, self.features));
        }
    }

    /// # Safety
    /// As [`Product::fill`], and the first row is a tile's.
    unsafe fn fill_fixed_point(
        &self,
        x: &FixedPointRows,
        matrix: &PackedMatrix,
        rows: &Range<usize>,
        panels: &Range<usize>,
        mut accumulate: bool,
    ) {
        // SAFETY: rows in digits exist on machines with tiles only.
        let _tiles = unsafe { Tiles::configure() };
        READY.with_borrow_mut(|ready| {
            ready.resize(ready.len().max(GROUP * fixed_point::CHUNK * PANEL), 0.0);
            for (chunk, left) in x.chunks() {
                let ready = matrix.panels(self.orientation, panels, chunk, ready, fixed_point::CHUNK);
                let fill = |right: &RightDigits<'_>| {
                    for row in rows.clone().step_by(fixed_point::ROWS) {
                        for (place, panel) in panels.clone().enumerate() {
                            let first = panel * PANEL;
                            // SAFETY: the elements of these rows and panels are inside `out` and nobody else's, by the
                            // caller's promise.
                            unsafe {
                                let corner = Corner {
                                    out: self.out.get().add(row * self.features + first),
                                    stride: self.features,
                                    rows: (rows.end - row).min(fixed_point::ROWS),
                                    columns: (self.features - first).min(PANEL),
                                    accumulate,
                                };
                                right.multiply(left, row / fixed_point::ROWS, place, &corner);
                            }
                        }
                    }
                };
                // SAFETY: the panels hold this chunk.
                unsafe { RightDigits::with(ready, chunk.len(), fill) };
                accumulate = true;
            }
        });
    }

    /// # Safety
    /// As [`Product::fill`].
    unsafe fn fill_floats(
        &self,
        x: &[f32],
        matrix: &PackedMatrix,
        rows: &Range<usize>,
        panels: &Range<usize>,
        mut accumulate: bool,
    ) {
        let set = instruction_set();
        let step = tile_rows();
        let (inner, _) = matrix.extent(self.orientation);
        READY.with_borrow_mut(|ready| {
            ready.resize(ready.len().max(GROUP * CHUNK * PANEL + MAX_TILE_ROWS * NEAR_STRIDE), 0.0);
            let (ready, near) = ready.split_at_mut(GROUP * CHUNK * PANEL);
            for chunk in chunks(inner) {
                let ready = matrix.panels(self.orientation, panels, &chunk, ready, CHUNK);
                let part = RowPart { x, inner, chunk: chunk.clone() };
                let columns = self.features.min(panels.end * PANEL) - panels.start * PANEL;
                let whole = columns / PANEL;
                for row in rows.clone().step_by(step) {
                    let count = (rows.end - row).min(step);
                    let tile = part.tile(row, count, near);
                    let next = row + count..rows.end.min(row + count + step);
                    // What is asked of memory is spread over the panels.
                    let at_once = if part.collides() { 2 } else { whole.max(1) };
                    // SAFETY: `count` rows lie behind `tile.x`, the chunk's inputs x 16 weights behind each panel, and
                    // the tile's elements inside `out` by the caller's promise.
                    unsafe {
                        let corner = self.out.get().add(row * self.features + panels.start * PANEL);
                        for index in (0..whole).step_by(at_once) {
                            part.prefetch(&next, index / at_once, whole.div_ceil(at_once));
                            let first = ready.first.add(index * ready.stride);
                            let panels = Panels { first, count: at_once.min(whole - index), ..ready };
                            let out = Results::rows(corner.add(index * PANEL), self.features);
                            tile.run_on(set, count, panels, out, accumulate);
                        }
                        if whole < ready.count {
                            let (panel, corner) = (ready.first.add(whole * ready.stride), corner.add(whole * PANEL));
                            run_clipped(set, tile, count, panel, corner, self.features, columns % PANEL, accumulate);
                        }
                    }
                }
                accumulate = true;
            }
        });
    }
}

/// Some inputs of the rows of `x`, which is `[rows, inner]`.
struct RowPart<'a> {
    x: &'a [f32],
    inner: usize,
    chunk: Range<usize>,
}

impl RowPart<'_> {
    /// Whether all rows of a tile fall into the same few sets of the first-level cache and drive each other out: their
    /// distance is a multiple of 4 KiB. It cost a quarter of a product's speed (inputs of 2,048: 150 against 200
    /// GFLOP/s).
    fn collides(&self) -> bool {
        self.inner.is_multiple_of(1024)
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.x[row * self.inner..][self.chunk.clone()]
    }

    /// `count` rows from `row` on; copied to `near` first where they would collide.
    fn tile(&self, row: usize, count: usize, near: &mut [f32]) -> Tile {
        let inputs = self.chunk.len();
        if !self.collides() {
            return Tile { x: self.row(row).as_ptr(), layout: Layout::Rows(self.inner), inputs };
        }
        for (place, near) in near.chunks_exact_mut(NEAR_STRIDE).take(count).enumerate() {
            near[..inputs].copy_from_slice(self.row(row + place));
        }
        Tile { x: near.as_ptr(), layout: Layout::Rows(NEAR_STRIDE), inputs }
    }

    /// Asks memory for the `index`th of `parts` of the `next` tile's rows, where they will be copied: the processor
    /// foresees each row's bytes, but not where the next row is.
    fn prefetch(&self, next: &Range<usize>, index: usize, parts: usize) {
        if self.collides() {
            let share = next.len().div_ceil(parts);
            next.clone().skip(index * share).take(share).for_each(|row| simd::prefetch(self.row(row)));
        }
    }
}

/// Cuts the inputs of an inner product into chunks of about equal length, at multiples of 16.
fn chunks(inner: usize) -> impl Iterator<Item = Range<usize>> {
    let length = inner.div_ceil(inner.div_ceil(CHUNK).max(1)).next_multiple_of(PANEL);
    (0..inner).step_by(length.max(1)).map(move |start| start..(start + length).min(inner))
}

/// Runs a tile of which only the first `columns` columns exist in `out`.
///
/// # Safety
/// As [`Tile::run_on`], but for `columns` of 16 elements per row of `out`.
pub(crate) unsafe fn run_clipped(
    set: InstructionSet,
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
            tile.run_on(set, rows, Panels::one(panel), Results::rows(out, out_stride), accumulate);
            return;
        }
        let mut edge = [0.0_f32; MAX_TILE_ROWS * PANEL];
        for row in 0..rows {
            for column in 0..if accumulate { columns } else { 0 } {
                edge[row * PANEL + column] = *out.add(row * out_stride + column);
            }
        }
        tile.run_on(set, rows, Panels::one(panel), Results::rows(edge.as_mut_ptr(), PANEL), accumulate);
        for row in 0..rows {
            for column in 0..columns {
                *out.add(row * out_stride + column) = edge[row * PANEL + column];
            }
        }
    }
}

/// Runs a tile of blocks of which only the first `columns` columns exist in the target.
///
/// # Safety
/// As [`BlockTile::run_on`], but for `columns` elements per row of the target.
unsafe fn run_clipped_blocks(
    set: block_tile::InstructionSet,
    tile: BlockTile<'_>,
    rows: usize,
    target: block_tile::Target,
    columns: usize,
) {
    let mut edge = vec![[0.0_f32; COLUMNS]; rows];
    // SAFETY: the caller's promise; `edge` holds all rows.
    unsafe {
        tile.run_on(set, rows, block_tile::Target { out: edge.as_mut_ptr().cast(), stride: COLUMNS });
        for (row, edge) in edge.iter().enumerate() {
            target.out.add(row * target.stride).copy_from_nonoverlapping(edge.as_ptr(), columns);
        }
    }
}
