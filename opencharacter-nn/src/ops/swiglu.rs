use candle_core::{Result, Tensor};

use super::storage::{floats, from_floats};
use crate::{
    simd,
    team::{self, Pointer},
};

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

/// `silu(gate) * up`, element by element; `silu(x) = x / (1 + e^-x)`.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (gates, up) = (floats(gate)?, floats(up)?);
    let out = team::fill(gates.len(), CHUNK, |chunk, out| {
        let start = chunk * CHUNK;
        forward(&gates[start..start + out.len()], &up[start..start + out.len()], out);
    });
    from_floats(out, gate.dims())
}

/// The gradients of `gate` and `up`, given that of [`swiglu`]'s result.
pub(crate) fn swiglu_backward(gate: &Tensor, up: &Tensor, gradient: &Tensor) -> Result<(Tensor, Tensor)> {
    let (gates, ups, gradient) = (floats(gate)?, floats(up)?, floats(gradient)?);
    let mut gate_gradient = vec![0.0; gates.len()];
    let mut up_gradient = vec![0.0; gates.len()];
    let up_start = Pointer(up_gradient.as_mut_ptr());
    team::for_each_chunk(&mut gate_gradient, CHUNK, |chunk, gate_out| {
        let place = chunk * CHUNK..chunk * CHUNK + gate_out.len();
        // SAFETY: the same elements as `gate_out`'s, of a vector as long, which nobody else touches.
        let up_out = unsafe { std::slice::from_raw_parts_mut(up_start.get().add(place.start), place.len()) };
        backward(&gates[place.clone()], &ups[place.clone()], &gradient[place], gate_out, up_out);
    });
    Ok((from_floats(gate_gradient, gate.dims())?, from_floats(up_gradient, up.dims())?))
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, normal};
    use super::*;

    #[test]
    fn backward_matches_finite_differences() {
        check(
            &[normal(1, &[3, 7]), normal(2, &[3, 7])],
            |arguments| swiglu(&arguments[0], &arguments[1]),
            |arguments, gradient| {
                let (gate, up) = swiglu_backward(&arguments[0], &arguments[1], gradient)?;
                Ok(vec![gate, up])
            },
        );
    }
}
