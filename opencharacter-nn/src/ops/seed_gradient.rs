use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// A scalar whose gradient with respect to `output` is `upstream`: how a block's backward pass is started with the
/// gradient that the next block left.
pub(crate) fn seed_gradient(output: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    output.apply_op1(SeedGradient(upstream.clone()))
}

struct SeedGradient(Tensor);

impl CustomOp1 for SeedGradient {
    fn name(&self) -> &'static str {
        "seed-gradient"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        // The value is never read; only its place in the graph counts.
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
