//! Activations as generation rounds them where they meet quantised weights.

#[cfg(target_arch = "x86_64")]
use super::bfloat16::{self, Bfloat16Rows};
use super::{Activations, activations::EightBitRows, packed::QuantisedMatrix, tile_rows};
use crate::team::RUN;

/// Rows of rounded activations.
#[derive(Debug)]
pub(crate) enum RoundedRows {
    EightBits(EightBitRows),
    #[cfg(target_arch = "x86_64")]
    Bfloat16(Bfloat16Rows),
}

impl RoundedRows {
    /// Rounds `[rows, inputs]` values. `inputs` is a multiple of 32.
    pub(crate) fn new(activations: Activations, values: &[f32], inputs: usize) -> Self {
        Self::of(activations, values.len(), inputs, RUN, |run, out| {
            out.copy_from_slice(&values[run * RUN..][..out.len()]);
        })
    }

    /// Rounds `total` values, rows of `inputs`, that `body` computes: it is called with the place of each run of
    /// `length` values, whole blocks, and must write all of them. They never leave the first-level cache.
    pub(crate) fn of(
        activations: Activations,
        total: usize,
        inputs: usize,
        length: usize,
        body: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        #[cfg(target_arch = "x86_64")]
        if activations == Activations::RoundedForBatches && bfloat16::available() {
            return Self::Bfloat16(Bfloat16Rows::of(total, inputs, length, body));
        }
        let _ = activations;
        Self::EightBits(EightBitRows::of(total, inputs, length, body))
    }

    /// What `activate` makes of the products with two matrices, rounded as these rows are, where that is one step: `activate`
    /// is handed as many values of the one as of the other, and must write so many.
    pub(crate) fn gated_product(
        &self,
        matrices: [QuantisedMatrix<'_>; 2],
        activate: impl Fn([&[f32]; 2], &mut [f32]) + Sync,
    ) -> Option<Self> {
        match self {
            Self::EightBits(_) => {
                let _ = (matrices, activate);
                None
            }
            #[cfg(target_arch = "x86_64")]
            Self::Bfloat16(x) => Some(Self::Bfloat16(bfloat16::gated_product(x, matrices, activate))),
        }
    }

    /// Rows, and values of each.
    pub(crate) fn shape(&self) -> (usize, usize) {
        match self {
            Self::EightBits(rows) => rows.shape(),
            #[cfg(target_arch = "x86_64")]
            Self::Bfloat16(rows) => rows.shape(),
        }
    }

    /// Rows that meet all panels of a task before the next ones do, while they stay in a core's second-level cache.
    pub(super) fn rows_of_a_pass(&self) -> usize {
        match self {
            Self::EightBits(rows) => rows.rows_in_second_level_cache(),
            #[cfg(target_arch = "x86_64")]
            Self::Bfloat16(rows) => rows.rows_of_a_pass(),
        }
    }

    /// Whether all of these rows meet a pair of panels before the next one is looked at.
    pub(super) fn meets_pair_after_pair(&self) -> bool {
        match self {
            Self::EightBits(_) => false,
            #[cfg(target_arch = "x86_64")]
            Self::Bfloat16(rows) => rows.shape().0 > bfloat16::ROWS,
        }
    }

    /// Rows that tasks are multiples of.
    pub(super) fn step(&self) -> usize {
        match self {
            Self::EightBits(_) => tile_rows(),
            #[cfg(target_arch = "x86_64")]
            Self::Bfloat16(_) => bfloat16::ROWS,
        }
    }
}

impl Activations {
    /// What meets quantised weights on this machine, in words: texts depend on it.
    pub fn description(self) -> &'static str {
        match self {
            Self::Floats => "activations in f32",
            #[cfg(target_arch = "x86_64")]
            Self::RoundedForBatches if bfloat16::available() => "activations and weights in bfloat16",
            Self::EightBits | Self::RoundedForBatches => "activations in 8 bits by blocks of 64",
        }
    }
}
