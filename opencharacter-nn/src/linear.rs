use std::sync::{Arc, OnceLock};

use crate::PackedMatrix;

/// A frozen weight, packed for the forward pass and, once a backward pass asks, for that too. Clones share both.
#[derive(Debug, Clone)]
pub struct FrozenLinear {
    forward: Arc<PackedMatrix>,
    backward: Arc<OnceLock<PackedMatrix>>,
}

impl FrozenLinear {
    /// Wraps a packed weight.
    pub fn new(weight: PackedMatrix) -> Self {
        Self { forward: Arc::new(weight), backward: Arc::new(OnceLock::new()) }
    }

    /// `[outputs, inputs]`: multiplies activations.
    pub fn forward(&self) -> &PackedMatrix {
        &self.forward
    }

    /// `[inputs, outputs]`: multiplies gradients. Packed at first use, so that a model that only speaks never pays.
    pub fn backward(&self) -> &PackedMatrix {
        self.backward.get_or_init(|| self.forward.transposed())
    }
}
