//! Queries, keys and values laid out for the tile.

use std::ops::Range;

use crate::{
    matrix::{InstructionSet, PANEL, Panels, Results, Tile, instruction_set, run_clipped},
    team,
};

/// Heads side by side, `[tokens, heads * head_dim]`, as panels whose columns are tokens: `[heads][tokens / 16][head_dim][16]`.
/// A row of features times such a panel is a row of 16 scores.
pub(super) struct Turned {
    panels: Vec<f32>,
    head_panels: usize,
    pub(super) head_dim: usize,
    pub(super) set: InstructionSet,
}

impl Turned {
    pub(super) fn new(values: &[f32], tokens: usize, head_dim: usize) -> Self {
        let width = values.len() / tokens.max(1);
        let head_panels = tokens.div_ceil(PANEL);
        let panel = head_dim * PANEL;
        let panels = team::fill(width / head_dim * head_panels * panel, panel, |index, panel| {
            let (head, first) = (index / head_panels, index % head_panels * PANEL);
            let rows = values[first * width..].chunks(width).take(PANEL);
            for (lane, row) in rows.enumerate() {
                let features = &row[head * head_dim..(head + 1) * head_dim];
                for (column, &value) in panel.chunks_exact_mut(PANEL).zip(features) {
                    column[lane] = value;
                }
            }
        });
        Self { panels, head_panels, head_dim, set: instruction_set() }
    }

    /// Some of a head's panels.
    pub(super) fn panels(&self, head: usize, panels: Range<usize>) -> Panels<f32> {
        let length = self.head_dim * PANEL;
        let all = &self.panels[(head * self.head_panels + panels.start) * length..][..panels.len() * length];
        Panels { first: all.as_ptr(), stride: length, count: panels.len() }
    }
}

/// The same as panels whose columns are features: `[heads][head_dim / 16][tokens][16]`. A row of weights for tokens times
/// such a panel is 16 features of their weighted sum.
pub(super) struct Straight {
    panels: Vec<f32>,
    tokens: usize,
    head_dim: usize,
    set: InstructionSet,
}

impl Straight {
    pub(super) fn new(values: &[f32], tokens: usize, head_dim: usize) -> Self {
        let width = values.len() / tokens.max(1);
        let head_panels = head_dim.div_ceil(PANEL);
        let panels = team::fill(width / head_dim * head_panels * tokens * PANEL, tokens * PANEL, |index, panel| {
            let (head, first) = (index / head_panels, index % head_panels * PANEL);
            let features = head * head_dim + first..head * head_dim + head_dim.min(first + PANEL);
            for (target, row) in panel.chunks_exact_mut(PANEL).zip(values.chunks_exact(width)) {
                target[..features.len()].copy_from_slice(&row[features.clone()]);
            }
        });
        Self { panels, tokens, head_dim, set: instruction_set() }
    }

    /// Writes `tile` times `tokens` of a head to `head_dim` columns behind `out`.
    ///
    /// # Safety
    /// `rows` rows of `tokens.len()` elements are readable from `tile.x`, and as many rows of `head_dim` elements,
    /// `out_stride` apart, writable at `out` by nobody else (and, to accumulate, initialised).
    pub(super) unsafe fn multiply(
        &self,
        tile: Tile,
        rows: usize,
        head: usize,
        tokens: Range<usize>,
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) {
        assert!(tokens.end <= self.tokens && tile.inputs == tokens.len(), "a panel has these tokens");
        let (whole, rest) = (self.head_dim / PANEL, self.head_dim % PANEL);
        let length = self.head_dim.div_ceil(PANEL) * self.tokens * PANEL;
        let first = self.panels[head * length..][..length][tokens.start * PANEL..].as_ptr();
        let panels = Panels { first, stride: self.tokens * PANEL, count: whole };
        // SAFETY: the caller's promise; all of the head's panels are there.
        unsafe {
            tile.run_on(self.set, rows, panels, Results::rows(out, out_stride), accumulate);
            if rest > 0 {
                let (panel, out) = (first.add(whole * panels.stride), out.add(whole * PANEL));
                run_clipped(self.set, tile, rows, panel, out, out_stride, rest, accumulate);
            }
        }
    }
}
