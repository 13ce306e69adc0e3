//! Weight gradients: products that sum over the tokens.

use std::cell::RefCell;

use super::{
    kernel::{Layout, MAX_TILE_ROWS, PANEL, Panels, Results, Tile, instruction_set, tile_rows},
    run_clipped,
};
use crate::team::{self, Pointer};

/// Tokens that are multiplied at once: 8 strips of 256 x 16 values are 128 KiB, a quarter of a core's second-level cache,
/// and each tile of the result is read and written once for all of them.
const CHUNK: usize = 256;
/// Panels of the right factor that share a strip of the left one.
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

/// `target[i][j] += sum over tokens of left[token][i] * right[token][j]`.
///
/// `left` is `[tokens, left_features]`, `right` is `[tokens, right_features]`. Both are copied into contiguous strips
/// first, the left one whole and the right one as far as it is needed: reading a column of a wide matrix would hit few
/// cache sets again and again. Each element is one chain of fused multiply-adds in the order of the tokens, so threads
/// change no bit.
pub(crate) fn add_outer_product(left: &[f32], right: &[f32], tokens: usize, target: Target<'_>) {
    if tokens == 0 {
        return;
    }
    let (left_features, right_features) = (left.len() / tokens, right.len() / tokens);
    let panels = right_features.div_ceil(PANEL);
    // The last panel's lanes without a feature exist in panels, not in rows.
    let (out, row_stride, panel_stride, whole_panels, length) = match target {
        Target::Rows(out) => (out.as_mut_ptr(), right_features, PANEL, right_features / PANEL, out.len()),
        Target::Panels(out) => {
            assert_eq!(out.len(), panels * PANEL * left_features, "a matrix of these panels");
            (out.as_mut_ptr(), PANEL, PANEL * left_features, panels, left_features * right_features)
        }
    };
    assert!(left.len() == tokens * left_features && right.len() == tokens * right_features);
    assert_eq!(length, left_features * right_features, "target has left x right elements");
    let out = Pointer(out);
    let (set, step) = (instruction_set(), tile_rows());
    // A wide left factor is split too, in whole tiles.
    let groups = panels.div_ceil(GROUP);
    let splits = (team::threads() * 4).div_ceil(groups).clamp(1, left_features.div_ceil(step * 4).max(1));
    let split = left_features.div_ceil(splits).next_multiple_of(step);
    let splits = left_features.div_ceil(split);
    let strips = left_features.div_ceil(step);
    let left_strips = team::fill(strips * step * tokens, step * tokens, |strip, target| {
        copy_strip(left, left_features, strip * step, tokens, step, target);
    });
    let task = |index: usize| {
        let (group, part) = (index / splits, index % splits);
        let strips = group * GROUP..((group + 1) * GROUP).min(panels);
        STRIPS.with_borrow_mut(|right_strips| {
            right_strips.resize(GROUP * CHUNK * PANEL, 0.0);
            for start in (0..tokens).step_by(CHUNK) {
                let count = CHUNK.min(tokens - start);
                for (strip, panel) in right_strips.chunks_exact_mut(CHUNK * PANEL).zip(strips.clone()) {
                    copy_strip(&right[start * right_features..], right_features, panel * PANEL, count, PANEL, strip);
                }
                for first in (part * split..((part + 1) * split).min(left_features)).step_by(step) {
                    let rows = step.min(left_features - first).min((part + 1) * split - first);
                    let left_strip = &left_strips[first * tokens + start * step..][..count * step];
                    let tile = Tile { x: left_strip.as_ptr(), layout: Layout::Columns(step), inputs: count };
                    let whole = strips.end.min(whole_panels) - strips.start;
                    let panels = Panels { first: right_strips.as_ptr(), stride: CHUNK * PANEL, count: whole };
                    // SAFETY: all strips hold `count` tokens, and tasks differ in their rows or columns of `out`.
                    unsafe {
                        let corner = out.get().add(strips.start * panel_stride + first * row_stride);
                        let results = Results { first: corner, row_stride, panel_stride };
                        tile.run_on(set, rows, panels, results, true);
                        if whole < strips.len() {
                            let (panel, corner) =
                                (panels.first.add(whole * panels.stride), corner.add(whole * panel_stride));
                            run_clipped(set, tile, rows, panel, corner, row_stride, right_features % PANEL, true);
                        }
                    }
                }
            }
        });
    };
    team::for_each(groups * splits, task);
}

/// Copies `width` columns from `first` on of `count` rows into rows of `width`; columns beyond the last are zero.
fn copy_strip(rows: &[f32], features: usize, first: usize, count: usize, width: usize, strip: &mut [f32]) {
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
