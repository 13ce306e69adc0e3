use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};

use super::storage::{floats, from_floats, slice};
use crate::PackedMatrix;
use crate::linear::FrozenLinear;

/// `x W^T` with a weight that never gets a gradient; `x` is `[tokens, inputs]`.
///
/// candle's own product would compute and store the gradient of `W` as well, half of the backward's work and the
/// larger part of its memory.
pub fn frozen_linear(x: &Tensor, weight: &FrozenLinear) -> Result<Tensor> {
    x.apply_op1(Frozen(weight.clone()))
}

struct Frozen(FrozenLinear);

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, _) = layout.shape().dims2()?;
        let out = self.0.forward().multiply(slice(storage, layout)?, rows);
        Ok((CpuStorage::F32(out), (rows, self.0.forward().outputs()).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let rows = x.dim(0)?;
        let values = floats(&gradient.contiguous()?, |gradient| self.0.backward().multiply(gradient, rows))?;
        Ok(Some(from_floats(values, x.dims())?))
    }
}

/// The two trainable factors of a low-rank adapter (Hu et al., 2021) and its scale, `alpha / rank`.
#[derive(Debug, Clone)]
pub struct LoraFactors {
    /// `[rank, inputs]`.
    pub a: Tensor,
    /// `[outputs, rank]`.
    pub b: Tensor,
    /// Multiplies the adapter's contribution.
    pub scale: f32,
}

/// `x W^T + scale (x A^T) B^T`, differentiable in `x`, `A` and `B` but not in `W`.
pub fn lora_linear(x: &Tensor, weight: &FrozenLinear, lora: &LoraFactors) -> Result<Tensor> {
    x.apply_op3(&lora.a, &lora.b, Lora { weight: weight.clone(), scale: lora.scale })
}

struct Lora {
    weight: FrozenLinear,
    scale: f32,
}

impl CustomOp3 for Lora {
    fn name(&self) -> &'static str {
        "lora-linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = l1.shape().dims2()?;
        let (rank, _) = l2.shape().dims2()?;
        let (x, a, b) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let outputs = self.weight.forward().outputs();
        let factors = PackedLora::new(a, b, outputs, inputs, rank, self.scale);
        let mut out = self.weight.forward().multiply(x, rows);
        factors.add(x, rows, &mut out);
        Ok((CpuStorage::F32(out), (rows, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, inputs) = x.dims2()?;
        let (outputs, rank) = b.dims2()?;
        let gradient = gradient.contiguous()?;
        let (x_gradient, a_gradient, b_gradient) = floats(x, |x| {
            floats(a, |a| {
                floats(b, |b| {
                    floats(&gradient, |g| {
                        // [rows, rank]: the gradient of x A^T, and x A^T itself.
                        let inner = product(g, false, b, false, rows, outputs, rank, self.scale);
                        let projected = product(x, false, a, true, rows, inputs, rank, self.scale);
                        let mut x_gradient = self.weight.backward().multiply(g, rows);
                        add_product(&mut x_gradient, &inner, false, a, false, rows, rank, inputs, 1.0);
                        let a_gradient = product(&inner, true, x, false, rank, rows, inputs, 1.0);
                        let b_gradient = product(g, true, &projected, false, outputs, rows, rank, 1.0);
                        (x_gradient, a_gradient, b_gradient)
                    })
                })
            })
        })????;
        Ok((
            Some(from_floats(x_gradient, x.dims())?),
            Some(from_floats(a_gradient, a.dims())?),
            Some(from_floats(b_gradient, b.dims())?),
        ))
    }
}

/// As [`lora_linear`], with factors packed once and no gradient into them.
pub(crate) fn packed_lora_linear(x: &Tensor, weight: &FrozenLinear, lora: &PackedLora) -> Result<Tensor> {
    let rows = x.dim(0)?;
    let values = floats(x, |x| {
        let mut out = weight.forward().multiply(x, rows);
        lora.add(x, rows, &mut out);
        out
    })?;
    from_floats(values, &[rows, weight.forward().outputs()])
}

/// An adapter's factors packed for multiplication, the scale folded into the second.
#[derive(Debug, Clone)]
pub(crate) struct PackedLora {
    a: Arc<PackedMatrix>,
    b: Arc<PackedMatrix>,
}

impl PackedLora {
    pub(crate) fn new(a: &[f32], b: &[f32], outputs: usize, inputs: usize, rank: usize, scale: f32) -> Self {
        let scaled: Vec<f32> = b.iter().map(|value| value * scale).collect();
        Self { a: Arc::new(PackedMatrix::new(a, rank, inputs)), b: Arc::new(PackedMatrix::new(&scaled, outputs, rank)) }
    }

    /// `out += scale (x A^T) B^T`.
    pub(crate) fn add(&self, x: &[f32], rows: usize, out: &mut [f32]) {
        let projected = self.a.multiply(x, rows);
        self.b.multiply_into(&projected, rows, out, true);
    }
}

/// `scale * left right`, `[rows, columns]`; each factor is row-major and, where marked, transposed before use.
fn product(
    left: &[f32],
    left_transposed: bool,
    right: &[f32],
    right_transposed: bool,
    rows: usize,
    inner: usize,
    columns: usize,
    scale: f32,
) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    add_product(&mut out, left, left_transposed, right, right_transposed, rows, inner, columns, scale);
    out
}

/// `out += scale * left right`.
fn add_product(
    out: &mut [f32],
    left: &[f32],
    left_transposed: bool,
    right: &[f32],
    right_transposed: bool,
    rows: usize,
    inner: usize,
    columns: usize,
    scale: f32,
) {
    assert!(left.len() == rows * inner && right.len() == inner * columns && out.len() == rows * columns);
    let (left_row, left_column) = if left_transposed { (1, rows) } else { (inner, 1) };
    let (right_row, right_column) = if right_transposed { (1, inner) } else { (columns, 1) };
    // SAFETY: the strides address exactly the elements whose number has just been checked.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            columns as isize,
            true,
            left.as_ptr(),
            left_column as isize,
            left_row as isize,
            right.as_ptr(),
            right_column as isize,
            right_row as isize,
            1.0_f32,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;

    fn weight(outputs: usize, inputs: usize) -> FrozenLinear {
        let values = normal(5, &[outputs, inputs]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        FrozenLinear::new(PackedMatrix::new(&values, outputs, inputs))
    }

    #[test]
    fn frozen_backward_matches_finite_differences() {
        let weight = weight(19, 11);
        check(&[normal(1, &[4, 11])], |arguments| frozen_linear(&arguments[0], &weight));
    }

    #[test]
    fn lora_backward_matches_finite_differences() {
        let weight = weight(19, 11);
        check(&[normal(1, &[7, 11]), normal(2, &[3, 11]), normal(3, &[19, 3])], |arguments| {
            let factors = LoraFactors { a: arguments[1].clone(), b: arguments[2].clone(), scale: 0.5 };
            lora_linear(&arguments[0], &weight, &factors)
        });
    }
}
