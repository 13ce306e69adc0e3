//! `RMSNorm` of rows or of their parts, and its backward.

use super::{Operations, THREADS, address, blocks, stride};
use crate::{
    DeviceError,
    device::{Address, Buffer, Kind, Matrix},
};

/// Runs of rows into which a sum over rows is cut.
const SLICES: usize = 32;

/// Part of a wide row, as norms of single heads see it.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) count: usize,
    pub(crate) width: usize,
}

impl Parts {
    /// Rows as they are.
    pub(crate) fn whole(width: usize) -> Self {
        Self { count: 1, width }
    }
}

impl Operations {
    /// `out = norm(input + update) * weight`; `places` picks rows of both, `sum` gets their sum.
    pub(crate) fn rms_norm(
        &self,
        input: Matrix<'_>,
        update: Option<Matrix<'_>>,
        places: Option<Matrix<'_>>,
        (weight, epsilon): (Matrix<'_>, f32),
        parts: Parts,
        sum: Option<Matrix<'_>>,
        out: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            update: Address,
            places: Address,
            weight: Address,
            sum: Address,
            out: Address,
            epsilon: f32,
            width: i32,
            parts: i32,
            input_stride: i32,
            update_stride: i32,
            sum_stride: i32,
            out_stride: i32,
        }
        let columns = parts.count * parts.width;
        assert!(input.columns == columns && out.columns == columns && weight.columns == parts.width);
        assert!(places.map_or(input.rows, |places| places.columns) == out.rows && weight.kind == Kind::Float);
        assert!(places.is_none() || parts.count == 1);
        assert!(update.is_none_or(|update| update.columns == columns && update.rows == input.rows));
        assert!(sum.is_none_or(|sum| sum.columns == columns && sum.rows == out.rows));
        let arguments = Arguments {
            input: input.address,
            update: address(update),
            places: address(places),
            weight: weight.address,
            sum: address(sum),
            out: out.address,
            epsilon,
            width: parts.width as i32,
            parts: parts.count as i32,
            input_stride: input.stride as i32,
            update_stride: stride(update),
            sum_stride: stride(sum),
            out_stride: out.stride as i32,
        };
        let grid = [(out.rows * parts.count) as u32, 1, 1];
        // SAFETY: shapes were just checked; places are rows of the batch.
        unsafe { self.launch("rms_norm", grid, self.row_threads(parts.width, 256), 0, &arguments) }
    }

    /// The gradient of a norm's argument, plus `residual`; each row's inverse root goes to `inverses`.
    pub(crate) fn rms_norm_backward(
        &self,
        input: Matrix<'_>,
        (weight, epsilon): (Matrix<'_>, f32),
        parts: Parts,
        gradient: Matrix<'_>,
        residual: Option<Matrix<'_>>,
        out: Matrix<'_>,
        inverses: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            weight: Address,
            gradient: Address,
            residual: Address,
            out: Address,
            inverses: Address,
            epsilon: f32,
            width: i32,
            parts: i32,
            input_stride: i32,
            gradient_stride: i32,
            residual_stride: i32,
            out_stride: i32,
        }
        let shape = (input.rows, parts.count * parts.width);
        assert!(weight.columns == parts.width && weight.kind == Kind::Float);
        for matrix in [Some(input), Some(gradient), residual, Some(out)].into_iter().flatten() {
            assert_eq!((matrix.rows, matrix.columns), shape);
        }
        assert!(inverses.kind == Kind::Float && inverses.columns >= input.rows * parts.count);
        let arguments = Arguments {
            input: input.address,
            weight: weight.address,
            gradient: gradient.address,
            residual: address(residual),
            out: out.address,
            inverses: inverses.address,
            epsilon,
            width: parts.width as i32,
            parts: parts.count as i32,
            input_stride: input.stride as i32,
            gradient_stride: gradient.stride as i32,
            residual_stride: stride(residual),
            out_stride: out.stride as i32,
        };
        let grid = [(input.rows * parts.count) as u32, 1, 1];
        // SAFETY: shapes were just checked.
        unsafe { self.launch("rms_norm_backward", grid, self.row_threads(parts.width, 256), 0, &arguments) }
    }

    /// Floats that [`Operations::norm_weight_gradient`] needs beside its operands.
    pub(crate) fn slice_floats(width: usize) -> usize {
        SLICES * width
    }

    /// Adds the gradient of a norm's weight to `sums`; `inverses` are [`Operations::rms_norm_backward`]'s.
    pub(crate) fn norm_weight_gradient(
        &self,
        input: Matrix<'_>,
        parts: Parts,
        gradient: Matrix<'_>,
        inverses: Matrix<'_>,
        slices: &Buffer,
        sums: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            gradient: Address,
            inverses: Address,
            sums: Address,
            rows: i32,
            width: i32,
            parts: i32,
            input_stride: i32,
            gradient_stride: i32,
        }
        #[repr(C)]
        struct AddArguments {
            slices: Address,
            sums: Address,
            count: i32,
            width: i32,
        }
        let rows = input.rows * parts.count;
        assert!(input.columns == parts.count * parts.width && gradient.columns == input.columns);
        assert!(gradient.rows == input.rows && inverses.columns >= rows && sums.columns == parts.width);
        assert!(sums.kind == Kind::Float);
        let count = rows.div_ceil(THREADS / 32).clamp(1, SLICES);
        let partial = slices.rows(count, parts.width);
        let arguments = Arguments {
            input: input.address,
            gradient: gradient.address,
            inverses: inverses.address,
            sums: partial.address,
            rows: rows as i32,
            width: parts.width as i32,
            parts: parts.count as i32,
            input_stride: input.stride as i32,
            gradient_stride: gradient.stride as i32,
        };
        let grid = [parts.width.div_ceil(32) as u32, count as u32, 1];
        let add = AddArguments {
            slices: partial.address,
            sums: sums.address,
            count: count as i32,
            width: parts.width as i32,
        };
        // SAFETY: shapes were just checked.
        unsafe {
            self.launch("norm_weight_gradient", grid, THREADS as u32, 0, &arguments)?;
            self.launch("add_slices", blocks(parts.width), THREADS as u32, 0, &add)
        }
    }
}
