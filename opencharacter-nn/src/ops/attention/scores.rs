//! A matrix of scores, and its products.

use std::ops::Range;

use super::panels::Turned;
use crate::matrix::{Layout, PANEL, Results, Tile, tile_rows};

/// Cuts tokens into tiles.
pub(super) fn tiles(tokens: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = tokens.end;
    tokens.clone().step_by(tile_rows()).map(move |first| first..(first + tile_rows()).min(end))
}

/// Scores of some queries with some keys, row by row, whole panels of keys.
pub(super) struct Scores {
    values: Vec<f32>,
    /// Elements from one row to the next: more than the columns, so that the elements of a column do not drive each other
    /// out of the first-level cache.
    stride: usize,
    queries: Range<usize>,
    /// Column 0: the first of a panel.
    base: usize,
}

impl Scores {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), stride: 0, queries: 0..0, base: 0 }
    }

    /// Makes room for `queries` and `keys`. What the elements hold is left open.
    pub(super) fn reset(&mut self, queries: &Range<usize>, keys: &Range<usize>) {
        self.base = keys.start / PANEL * PANEL;
        self.stride = (keys.end - self.base).next_multiple_of(PANEL) + PANEL;
        self.queries = queries.clone();
        let length = queries.len() * self.stride;
        if self.values.len() < length {
            self.values.resize(length, 0.0);
        }
    }

    /// The columns of `keys` in the row of `query`.
    pub(super) fn row(&mut self, query: usize, keys: &Range<usize>) -> &mut [f32] {
        let first = self.place(query, keys.start);
        &mut self.values[first..first + keys.len()]
    }

    fn place(&self, query: usize, key: usize) -> usize {
        (query - self.queries.start) * self.stride + key - self.base
    }

    /// Multiplies the features of a head's queries, in `rows` of `width`, with `keys`' panels, as far as a query of the
    /// same tile may see them.
    pub(super) fn multiply(
        &mut self,
        rows: &[f32],
        width: usize,
        head: usize,
        keys: &Range<usize>,
        panels: (&Turned, usize),
    ) {
        let (turned, panel_head) = panels;
        let dim = turned.head_dim;
        for queries in tiles(&self.queries) {
            let end = keys.end.min(queries.end);
            if end <= keys.start {
                continue;
            }
            let (first, last) = (keys.start / PANEL, end.div_ceil(PANEL));
            let x = &rows[queries.start * width + head * dim..(queries.end - 1) * width + (head + 1) * dim];
            let tile = Tile { x: x.as_ptr(), layout: Layout::Rows(width), inputs: dim };
            let place = self.place(queries.start, first * PANEL);
            let out = &mut self.values[place..];
            assert!(out.len() >= (queries.len() - 1) * self.stride + (last - first) * PANEL, "room for the scores");
            let panels = turned.panels(panel_head, first..last);
            // SAFETY: `x` covers the tile's rows, every panel has `dim` inputs, and `out` has room.
            unsafe {
                tile.run_on(turned.set, queries.len(), panels, Results::rows(out.as_mut_ptr(), self.stride), false);
            }
        }
    }

    /// Some rows' weights of `keys`, as the left factor of a product.
    pub(super) fn rows_of(&self, queries: &Range<usize>, keys: &Range<usize>) -> Tile {
        let rows = &self.values[self.place(queries.start, keys.start)..];
        assert!(rows.len() >= (queries.len() - 1) * self.stride + keys.len(), "the rows' weights");
        Tile { x: rows.as_ptr(), layout: Layout::Rows(self.stride), inputs: keys.len() }
    }

    /// Some columns' weights of `queries`, as the left factor of a product.
    pub(super) fn columns_of(&self, keys: &Range<usize>, queries: &Range<usize>) -> Tile {
        let columns = &self.values[self.place(queries.start, keys.start)..];
        assert!(columns.len() >= (queries.len() - 1) * self.stride + keys.len(), "the columns' weights");
        Tile { x: columns.as_ptr(), layout: Layout::Columns(self.stride), inputs: queries.len() }
    }
}
