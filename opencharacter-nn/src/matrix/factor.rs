//! What a training step multiplies with matrices.

use super::{
    PackedMatrix, Term,
    fixed_point::{self, FixedPointRows},
};

/// An f32 factor, `[rows, inner]`, in the form in which this machine multiplies it fastest. It is converted once for all
/// products it takes part in.
///
/// Generation does without: it multiplies few rows at a time, for which a matrix would have to be converted again and
/// again.
pub(crate) struct Factor<'a> {
    values: &'a [f32],
    fixed_point: Option<FixedPointRows>,
}

impl<'a> Factor<'a> {
    pub(crate) fn new(values: &'a [f32], inner: usize) -> Self {
        Self { values, fixed_point: fixed_point::available().then(|| FixedPointRows::new(values, inner)) }
    }

    /// This times `matrix`.
    pub(crate) fn term<'b>(&'b self, matrix: &'b PackedMatrix) -> Term<'b> {
        match &self.fixed_point {
            Some(x) => Term::FixedPoint { x, matrix },
            None => Term::Floats { x: self.values, matrix },
        }
    }
}
