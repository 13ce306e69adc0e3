use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{floats, from_floats, slice};
use crate::simd;

/// `silu(gate) * up`, element by element; `silu(x) = x / (1 + e^-x)`.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2(up, SwiGlu)
}

struct SwiGlu;

/// Elements per parallel task: large enough to be worth one.
const CHUNK: usize = 16_384;

simd::vectorised! {
    fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + simd::exp(-gate)) * up;
        }
    }
}

simd::vectorised! {
    fn backward(gate: &[f32], up: &[f32], gradient: &[f32], gate_gradient: &mut [f32], up_gradient: &mut [f32]) {
        let inputs = gate.iter().zip(up).zip(gradient);
        for (((&gate, &up), &g), (gate_out, up_out)) in inputs.zip(gate_gradient.iter_mut().zip(up_gradient)) {
            let sigmoid = 1.0 / (1.0 + simd::exp(-gate));
            let silu = gate * sigmoid;
            *up_out = g * silu;
            *gate_out = g * up * (sigmoid + silu * (1.0 - sigmoid));
        }
    }
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut out = vec![0.0; gate.len()];
        out.par_chunks_mut(CHUNK)
            .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
            .for_each(|(out, (gate, up))| forward(gate, up, out));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (gate_gradient, up_gradient) = floats(gate, |gate| {
            floats(up, |up| {
                floats(&gradient, |gradient| {
                    let mut gate_gradient = vec![0.0; gate.len()];
                    let mut up_gradient = vec![0.0; gate.len()];
                    gate_gradient
                        .par_chunks_mut(CHUNK)
                        .zip(up_gradient.par_chunks_mut(CHUNK))
                        .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(gradient.par_chunks(CHUNK)))
                        .for_each(|((gate_out, up_out), ((gate, up), g))| backward(gate, up, g, gate_out, up_out));
                    (gate_gradient, up_gradient)
                })
            })
        })???;
        Ok((Some(from_floats(gate_gradient, gate.dims())?), Some(from_floats(up_gradient, up.dims())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;

    #[test]
    fn backward_matches_finite_differences() {
        check(&[normal(1, &[3, 7]), normal(2, &[3, 7])], |arguments| swiglu(&arguments[0], &arguments[1]));
    }
}
