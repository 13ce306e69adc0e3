//! Losses of rows of logits, and their gradient.

use super::{Operations, address};
use crate::{
    DeviceError,
    device::{Address, Kind, Matrix},
};

impl Operations {
    /// Each row's loss; with weights and a place for it, the gradient of their weighted sum.
    pub(crate) fn cross_entropy(
        &self,
        logits: Matrix<'_>,
        targets: Matrix<'_>,
        losses: Matrix<'_>,
        gradient: Option<(Matrix<'_>, Matrix<'_>)>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            logits: Address,
            targets: Address,
            weights: Address,
            losses: Address,
            gradient: Address,
            vocabulary: i32,
        }
        assert!(logits.kind == Kind::Float && logits.stride == logits.columns);
        assert!(targets.columns == logits.rows && losses.columns == logits.rows);
        if let Some((weights, gradient)) = gradient {
            assert!(weights.columns == logits.rows && gradient.stride == gradient.columns);
            assert_eq!((gradient.rows, gradient.columns), (logits.rows, logits.columns));
        }
        let arguments = Arguments {
            logits: logits.address,
            targets: targets.address,
            weights: address(gradient.map(|(weights, _)| weights)),
            losses: losses.address,
            gradient: address(gradient.map(|(_, gradient)| gradient)),
            vocabulary: logits.columns as i32,
        };
        let grid = [logits.rows as u32, 1, 1];
        // SAFETY: shapes were just checked, targets where the batch was made.
        unsafe { self.launch("cross_entropy", grid, self.row_threads(logits.columns, 512), 0, &arguments) }
    }
}
