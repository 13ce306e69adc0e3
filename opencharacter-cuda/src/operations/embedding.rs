//! Rows by token and by place, and the constant columns that stand for biases.

use super::{Operations, THREADS, address, blocks};
use crate::{
    DeviceError,
    device::{Address, Kind, Matrix},
};

impl Operations {
    /// Rows of `table` for `tokens`; `noise` has each token's greatest.
    pub(crate) fn embed(
        &self,
        table: Matrix<'_>,
        tokens: Matrix<'_>,
        noise: Option<Matrix<'_>>,
        key: u64,
        out: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            table: Address,
            tokens: Address,
            noise: Address,
            out: Address,
            key: u64,
            width: i32,
        }
        assert!(table.columns == out.columns && out.stride == out.columns && table.stride == table.columns);
        assert!(tokens.kind == Kind::Integer && tokens.columns == out.rows);
        assert!(noise.is_none_or(|noise| noise.kind == Kind::Float && noise.columns == out.rows));
        let arguments = Arguments {
            table: table.address,
            tokens: tokens.address,
            noise: address(noise),
            out: out.address,
            key,
            width: out.columns as i32,
        };
        // SAFETY: shapes were just checked; that tokens are inside the table is checked where the batch is made.
        unsafe { self.launch("embed", [out.rows as u32, 1, 1], self.row_threads(out.columns, 256), 0, &arguments) }
    }

    /// Adds rows of `gradient` to the rows of `sums` that their tokens are. `places` are the batch's rows, sorted by
    /// token; those of `tokens[i]` begin at `starts[i]`.
    pub(crate) fn embed_backward(
        &self,
        gradient: Matrix<'_>,
        [tokens, starts, places]: [Matrix<'_>; 3],
        sums: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            gradient: Address,
            tokens: Address,
            starts: Address,
            places: Address,
            sums: Address,
            width: i32,
            gradient_stride: i32,
        }
        assert!(gradient.columns == sums.columns && sums.stride == sums.columns && sums.kind == Kind::Float);
        assert!(starts.columns == tokens.columns + 1 && places.columns == gradient.rows);
        let arguments = Arguments {
            gradient: gradient.address,
            tokens: tokens.address,
            starts: starts.address,
            places: places.address,
            sums: sums.address,
            width: sums.columns as i32,
            gradient_stride: gradient.stride as i32,
        };
        let grid = [tokens.columns as u32, 1, 1];
        // SAFETY: shapes were just checked, and tokens where the batch was made.
        unsafe { self.launch("embed_backward", grid, self.row_threads(sums.columns, 256), 0, &arguments) }
    }

    /// Row `i` of `input` becomes row `places[i]` of `out`.
    pub(crate) fn scatter_rows(
        &self,
        input: Matrix<'_>,
        places: Matrix<'_>,
        out: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            places: Address,
            out: Address,
            width: i32,
            input_stride: i32,
            out_stride: i32,
        }
        assert!(input.columns == out.columns && places.columns == input.rows && input.rows <= out.rows);
        let arguments = Arguments {
            input: input.address,
            places: places.address,
            out: out.address,
            width: input.columns as i32,
            input_stride: input.stride as i32,
            out_stride: out.stride as i32,
        };
        let grid = [input.rows as u32, 1, 1];
        // SAFETY: shapes were just checked; places are rows of the batch.
        unsafe { self.launch("scatter_rows", grid, self.row_threads(input.columns, 256), 0, &arguments) }
    }

    /// Every row becomes 1, 0, 0, ...
    pub(crate) fn bias_columns(&self, out: Matrix<'_>) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            out: Address,
            rows: i32,
            stride: i32,
            first: i32,
            count: i32,
        }
        let arguments = Arguments {
            out: out.address,
            rows: out.rows as i32,
            stride: out.stride as i32,
            first: 0,
            count: out.columns as i32,
        };
        // SAFETY: a matrix lies inside its buffer.
        unsafe { self.launch("bias_columns", blocks(out.rows * out.columns), THREADS as u32, 0, &arguments) }
    }
}
