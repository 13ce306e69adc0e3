//! Weight gradients: products that sum over the tokens.

use std::{cell::RefCell, ops::Range};

use super::{
    fixed_point::{self, Corner, FixedPointColumns, RightDigits},
    kernel::{Layout, MAX_TILE_ROWS, PANEL, Panels, Results, Tile, instruction_set, tile_rows},
    run_clipped,
};
use crate::{
    team::{self, Pointer},
    tile_registers::Tiles,
};

/// Tokens that are multiplied at once: 8 strips of 256 x 16 values are 128 KiB, a quarter of a core's second-level cache,
/// and each tile of the result is read and written once for all of them.
const CHUNK: usize = 256;
/// Most panels of the right factor that share a strip of the left one.
const GROUP: usize = 8;

thread_local! {
    /// Strips of the right factor.
    static STRIPS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Where an outer product is added.
pub(crate) enum Target<'a> {
    /// Row-major `[left, right]`.
    Rows(&'a mut [f32]),
    /// The panels of a [`PackedMatrix`](super::PackedMatrix) with `left` inputs and `right` outputs.
    Panels(&'a mut [f32]),
}

/// One of the outer products that share their left factor.
pub(crate) struct OuterProduct<'a> {
    /// `[tokens, right_features]`.
    pub(crate) right: &'a [f32],
    pub(crate) target: Target<'a>,
}

/// For each product, `target[i][j] += sum over tokens of left[token][i] * right[token][j]`.
///
/// `left` is `[tokens, left_features]`. All factors are copied into contiguous strips first, the left one whole and once
/// for all products, the right ones as far as they are needed: reading a column of a wide matrix would hit few cache sets
/// again and again. Each element is one chain of fused multiply-adds in the order of the tokens, or, on machines with tiles
/// for it, one sum of each chunk of tokens to the accuracy of f32; so neither threads nor company change a bit.
pub(crate) fn add_outer_products<'a>(
    left: &[f32],
    tokens: usize,
    products: impl IntoIterator<Item = OuterProduct<'a>>,
) {
    if tokens == 0 {
        return;
    }
    let features = left.len() / tokens;
    assert_eq!(left.len(), tokens * features, "left has tokens x features elements");
    let sums: Vec<Sum<'a>> = products.into_iter().map(|product| Sum::new(product, features, tokens)).collect();
    if fixed_point::available() {
        for chunk in fixed_point::chunks(tokens) {
            let part = &left[chunk.start * features..chunk.end * features];
            let left = FixedPointColumns::new(part, features);
            for_each_task(&sums, features, fixed_point::ROWS, |sum, group, rows| {
                // SAFETY: the machine has tiles; tasks differ in their product, or in their rows or columns of its target.
                unsafe { sum.fixed_point_task(group, &left, rows, &chunk) };
            });
        }
        return;
    }
    let left = Left::new(left, features, tokens);
    for_each_task(&sums, features, left.step, |sum, group, rows| {
        // SAFETY: tasks differ in their product, or in their rows or columns of its target.
        unsafe { sum.task(group, &left, rows) };
    });
}

/// Calls `task` with each of `sums`, each group of its panels, and each part of the left factor's `features`: whole tiles
/// of `step`, and as many parts as the groups need to occupy all threads.
fn for_each_task<'a>(
    sums: &[Sum<'a>],
    features: usize,
    step: usize,
    task: impl Fn(&Sum<'a>, usize, Range<usize>) + Sync,
) {
    let groups: usize = sums.iter().map(Sum::groups).sum();
    if groups == 0 || features == 0 {
        return;
    }
    let parts = (team::threads() * 4).div_ceil(groups).clamp(1, features.div_ceil(step * 4).max(1));
    let length = features.div_ceil(parts).next_multiple_of(step);
    let parts = features.div_ceil(length);
    team::for_each(groups * parts, |index| {
        let (mut group, part) = (index / parts, index % parts);
        for sum in sums {
            if group < sum.groups() {
                return task(sum, group, part * length..((part + 1) * length).min(features));
            }
            group -= sum.groups();
        }
    });
}

/// The left factor, in strips of a tile's rows over all tokens.
struct Left {
    strips: Vec<f32>,
    tokens: usize,
    /// Rows of a tile.
    step: usize,
}

impl Left {
    fn new(left: &[f32], features: usize, tokens: usize) -> Self {
        let step = tile_rows();
        let strips = team::fill(features.div_ceil(step) * step * tokens, step * tokens, |strip, target| {
            copy_strip(left, features, strip * step, tokens, step, target);
        });
        Self { strips, tokens, step }
    }

    /// The strip from feature `first` on, for `tokens`.
    fn tile(&self, first: usize, tokens: &Range<usize>) -> Tile {
        let strip = &self.strips[first * self.tokens + tokens.start * self.step..][..tokens.len() * self.step];
        Tile { x: strip.as_ptr(), layout: Layout::Columns(self.step), inputs: tokens.len() }
    }
}

/// An [`OuterProduct`], and how its target lies in memory.
struct Sum<'a> {
    right: &'a [f32],
    features: usize,
    panels: usize,
    /// Panels of a task: an even number, since two are multiplied at once.
    group_size: usize,
    /// Panels whose 16 lanes all exist in the target.
    whole_panels: usize,
    out: Pointer<f32>,
    row_stride: usize,
    panel_stride: usize,
}

impl<'a> Sum<'a> {
    fn new(OuterProduct { right, target }: OuterProduct<'a>, left_features: usize, tokens: usize) -> Self {
        let features = right.len() / tokens;
        assert_eq!(right.len(), tokens * features, "right has tokens x features elements");
        let panels = features.div_ceil(PANEL);
        // The last panel's lanes without a feature exist in panels, not in rows.
        let (out, row_stride, panel_stride, whole_panels, length) = match target {
            Target::Rows(out) => (out, features, PANEL, features / PANEL, left_features * features),
            Target::Panels(out) => (out, PANEL, PANEL * left_features, panels, panels * PANEL * left_features),
        };
        assert_eq!(out.len(), length, "target has left x right elements, or the panels of such a matrix");
        let groups = panels.div_ceil(GROUP).max((team::threads() * 4).min(panels / 4)).max(1);
        let group_size = panels.div_ceil(groups).next_multiple_of(2);
        let out = Pointer(out.as_mut_ptr());
        Self { right, features, panels, group_size, whole_panels, out, row_stride, panel_stride }
    }

    /// How many tasks share a part of the left factor.
    fn groups(&self) -> usize {
        self.panels.div_ceil(self.group_size)
    }

    /// The panels of the `group`th task.
    fn group(&self, group: usize) -> Range<usize> {
        group * self.group_size..((group + 1) * self.group_size).min(self.panels)
    }

    /// Adds the products of some of the left features and the `group`th panels, for the tokens of `chunk`.
    ///
    /// # Safety
    /// The machine has [`fixed_point`]'s tiles. The target is borrowed alone, and nobody else adds to these rows of these
    /// columns meanwhile.
    unsafe fn fixed_point_task(
        &self,
        group: usize,
        left: &FixedPointColumns,
        rows: Range<usize>,
        chunk: &Range<usize>,
    ) {
        let group = self.group(group);
        // SAFETY: the caller's promise.
        let _tiles = unsafe { Tiles::configure() };
        STRIPS.with_borrow_mut(|strips| {
            let length = chunk.len() * PANEL;
            strips.resize(strips.len().max(group.len() * length), 0.0);
            let columns = group.start * PANEL..(group.end * PANEL).min(self.features);
            let right = &self.right[chunk.start * self.features..];
            copy_strips(right, self.features, &columns, &mut strips[..group.len() * length], length);
            let panels = Panels { first: strips.as_ptr(), stride: length, count: group.len() };
            let add = |right: &RightDigits<'_>| {
                for row in rows.clone().step_by(fixed_point::ROWS) {
                    for (place, panel) in group.clone().enumerate() {
                        let columns = if panel < self.whole_panels { PANEL } else { self.features % PANEL };
                        // SAFETY: these results are this task's by the caller's promise.
                        unsafe {
                            let corner = Corner {
                                out: self.out.get().add(panel * self.panel_stride + row * self.row_stride),
                                stride: self.row_stride,
                                rows: (rows.end - row).min(fixed_point::ROWS),
                                columns,
                                accumulate: true,
                            };
                            right.multiply(left.digits(), row / fixed_point::ROWS, place, &corner);
                        }
                    }
                }
            };
            // SAFETY: the strips hold this chunk.
            unsafe { RightDigits::with(panels, chunk.len(), add) };
        });
    }

    /// The same for all tokens, by chains.
    ///
    /// # Safety
    /// The target is borrowed alone, and nobody else adds to these rows of these columns meanwhile.
    unsafe fn task(&self, group: usize, left: &Left, rows: Range<usize>) {
        let set = instruction_set();
        let group = self.group(group);
        let whole = group.end.min(self.whole_panels) - group.start;
        STRIPS.with_borrow_mut(|strips| {
            strips.resize(strips.len().max(GROUP * CHUNK * PANEL), 0.0);
            for start in (0..left.tokens).step_by(CHUNK) {
                let tokens = start..(start + CHUNK).min(left.tokens);
                let right = &self.right[start * self.features..];
                for (strip, panel) in strips.chunks_exact_mut(CHUNK * PANEL).zip(group.clone()) {
                    copy_strip(right, self.features, panel * PANEL, tokens.len(), PANEL, strip);
                }
                let panels = Panels { first: strips.as_ptr(), stride: CHUNK * PANEL, count: whole };
                for first in rows.clone().step_by(left.step) {
                    let count = left.step.min(rows.end - first);
                    let tile = left.tile(first, &tokens);
                    // SAFETY: all strips hold these tokens, and the results are this task's by the caller's promise.
                    unsafe {
                        let corner = self.out.get().add(group.start * self.panel_stride + first * self.row_stride);
                        let (row_stride, panel_stride) = (self.row_stride, self.panel_stride);
                        tile.run_on(set, count, panels, Results { first: corner, row_stride, panel_stride }, true);
                        if whole < group.len() {
                            let panel = panels.first.add(whole * panels.stride);
                            let corner = corner.add(whole * panel_stride);
                            run_clipped(set, tile, count, panel, corner, row_stride, self.features % PANEL, true);
                        }
                    }
                }
            }
        });
    }
}

/// Copies `columns` of as many rows as a strip has into strips of 16, `length` elements each; columns beyond the last are
/// zero. Row by row: what lies side by side is read once.
fn copy_strips(rows: &[f32], features: usize, columns: &Range<usize>, strips: &mut [f32], length: usize) {
    for (place, row) in rows.chunks(features).take(length / PANEL).enumerate() {
        let (whole, rest) = row[columns.clone()].as_chunks::<PANEL>();
        let mut targets = strips.chunks_exact_mut(length).map(|strip| &mut strip[place * PANEL..(place + 1) * PANEL]);
        for (values, target) in whole.iter().zip(targets.by_ref()) {
            target.copy_from_slice(values);
        }
        if let (Some(target), false) = (targets.next(), rest.is_empty()) {
            target[..rest.len()].copy_from_slice(rest);
            target[rest.len()..].fill(0.0);
        }
    }
}

/// Copies `width` columns from `first` on of `count` rows into rows of `width`; columns beyond the last are zero.
pub(super) fn copy_strip(rows: &[f32], features: usize, first: usize, count: usize, width: usize, strip: &mut [f32]) {
    let columns = (features - first).min(width);
    // Whole strips of the known widths are copied without a call per token.
    match width {
        _ if columns < width => {}
        PANEL => return copy_whole::<PANEL>(&rows[first..], features, count, strip),
        6 => return copy_whole::<6>(&rows[first..], features, count, strip),
        MAX_TILE_ROWS => return copy_whole::<MAX_TILE_ROWS>(&rows[first..], features, count, strip),
        _ => {}
    }
    for (token, target) in strip.chunks_exact_mut(width).take(count).enumerate() {
        let source = token * features + first;
        target[..columns].copy_from_slice(&rows[source..source + columns]);
        target[columns..].fill(0.0);
    }
}

fn copy_whole<const WIDTH: usize>(rows: &[f32], features: usize, count: usize, strip: &mut [f32]) {
    let targets = strip.as_chunks_mut::<WIDTH>().0;
    for (target, row) in targets.iter_mut().zip(rows.chunks(features)).take(count) {
        if let Some(values) = row.first_chunk() {
            *target = *values;
        }
    }
}
