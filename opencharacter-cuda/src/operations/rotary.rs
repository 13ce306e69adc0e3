//! Rotary positions.

use super::{Operations, THREADS, blocks};
use crate::{
    DeviceError,
    device::{Address, Kind, Matrix},
};

impl Operations {
    /// Cosines and sines of each token's angles: `[tokens, head_dim]`.
    pub(crate) fn rotation_table(
        &self,
        positions: Matrix<'_>,
        frequencies: Matrix<'_>,
        table: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            positions: Address,
            frequencies: Address,
            table: Address,
            tokens: i32,
            half: i32,
        }
        assert!(positions.kind == Kind::Integer && positions.columns == table.rows && table.kind == Kind::Float);
        assert!(table.columns == 2 * frequencies.columns && table.stride == table.columns);
        let arguments = Arguments {
            positions: positions.address,
            frequencies: frequencies.address,
            table: table.address,
            tokens: table.rows as i32,
            half: frequencies.columns as i32,
        };
        let grid = blocks(table.rows * frequencies.columns);
        // SAFETY: shapes were just checked.
        unsafe { self.launch("rotation_table", grid, THREADS as u32, 0, &arguments) }
    }

    /// Rotates each head forward or back; `out` may be `input`.
    pub(crate) fn rotate(
        &self,
        input: Matrix<'_>,
        table: Matrix<'_>,
        forward: bool,
        out: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            out: Address,
            table: Address,
            sign: f32,
            tokens: i32,
            heads: i32,
            half: i32,
            input_stride: i32,
            out_stride: i32,
        }
        assert_eq!((input.rows, input.columns), (out.rows, out.columns));
        assert!(table.rows == input.rows && input.columns.is_multiple_of(table.columns));
        let arguments = Arguments {
            input: input.address,
            out: out.address,
            table: table.address,
            sign: if forward { 1.0 } else { -1.0 },
            tokens: input.rows as i32,
            heads: (input.columns / table.columns) as i32,
            half: (table.columns / 2) as i32,
            input_stride: input.stride as i32,
            out_stride: out.stride as i32,
        };
        let grid = blocks(input.rows * input.columns / 2);
        // SAFETY: shapes were just checked.
        unsafe { self.launch("rotate", grid, THREADS as u32, 0, &arguments) }
    }
}
