use candle_core::{Result, Tensor};

use super::{
    Layer, LinearInput,
    linear::{linears, take_rounded},
    storage::{floats, from_floats},
};
use crate::{
    Activations, simd,
    team::{self, RUN},
};

simd::vectorised! {
    fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + simd::exp(-gate)) * up;
        }
    }
}

simd::vectorised! {
    fn backward(inputs: [&[f32]; 3], outputs: [&mut [f32]; 3]) {
        let [gate, up, gradient] = inputs;
        let [activated, gate_gradient, up_gradient] = outputs;
        let outputs = activated.iter_mut().zip(gate_gradient).zip(up_gradient);
        for (((activated, gate_out), up_out), ((&gate, &up), &g)) in outputs.zip(gate.iter().zip(up).zip(gradient)) {
            let denominator = 1.0 + simd::exp(-gate);
            let silu = gate / denominator;
            let sigmoid = 1.0 / denominator;
            *activated = silu * up;
            *up_out = g * silu;
            *gate_out = g * up * (sigmoid + silu * (1.0 - sigmoid));
        }
    }
}

/// `silu(gate) * up`, element by element, for `layers` to multiply; `silu(x) = x / (1 + e^-x)`. Both are
/// `[tokens, features]`.
pub(crate) fn swiglu(
    layers: &[Layer<'_>],
    activations: Activations,
    gate: &Tensor,
    up: &Tensor,
) -> Result<LinearInput> {
    let (gates, ups) = (floats(gate)?, floats(up)?);
    assert_eq!(gates.len(), ups.len(), "both have one shape");
    LinearInput::of(gate.dims2()?, layers, activations, RUN, |run, out| {
        let place = run * RUN..run * RUN + out.len();
        forward(&gates[place.clone()], &ups[place], out);
    })
}

/// [`swiglu`] of what the layers `gate_up` give, for whoever does not need that itself.
pub(crate) fn gated(
    x: &LinearInput,
    gate_up: &[Layer<'_>; 2],
    next: &[Layer<'_>],
    activations: Activations,
) -> Result<LinearInput> {
    if let LinearInput::Rounded(x) = x
        && let [Some(gate), Some(up)] = gate_up.each_ref().map(|layer| layer.weight.quantised())
        && gate_up.iter().all(|layer| layer.bias.is_none())
        && take_rounded(next, activations)
        && let Some(rows) = x.gated_product([gate, up], |[gate, up], out| forward(gate, up, out))
    {
        return Ok(LinearInput::Rounded(rows));
    }
    let [gate, up] = linears(x, gate_up, activations)?;
    swiglu(next, activations, &gate, &up)
}

/// What the way back through [`swiglu`] gives.
pub(crate) struct SwigluBackward {
    /// The result once more, with the same bits: the next layer's parameters need it for their gradients, and its
    /// exponential is at hand.
    pub(crate) activated: Tensor,
    /// The gradient of `gate`.
    pub(crate) gate: Tensor,
    /// The gradient of `up`.
    pub(crate) up: Tensor,
}

/// The gradients of `gate` and `up`, given that of [`swiglu`]'s result.
pub(crate) fn swiglu_backward(gate: &Tensor, up: &Tensor, gradient: &Tensor) -> Result<SwigluBackward> {
    let (gates, ups, gradient) = (floats(gate)?, floats(up)?, floats(gradient)?);
    // Six runs of a third's length share the first-level cache.
    let length = RUN / 2;
    let [activated, gate_gradient, up_gradient] = team::fill_several(gates.len(), length, |run, out| {
        let place = run * length..run * length + out[0].len();
        backward([&gates[place.clone()], &ups[place.clone()], &gradient[place]], out);
    });
    Ok(SwigluBackward {
        activated: from_floats(activated, gate.dims())?,
        gate: from_floats(gate_gradient, gate.dims())?,
        up: from_floats(up_gradient, up.dims())?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::finite_difference::{check, flat, normal};
    use super::*;

    fn activated(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match swiglu(&[], Activations::Floats, gate, up)? {
            LinearInput::Floats(out) => Ok(out),
            LinearInput::Rounded(_) => unreachable!("f32 was asked for"),
        }
    }

    #[test]
    fn backward_matches_finite_differences() {
        check(
            &[normal(1, &[3, 7]), normal(2, &[3, 7])],
            |arguments| activated(&arguments[0], &arguments[1]),
            |arguments, gradient| {
                let found = swiglu_backward(&arguments[0], &arguments[1], gradient)?;
                assert_eq!(flat(&found.activated), flat(&activated(&arguments[0], &arguments[1])?));
                Ok(vec![found.gate, found.up])
            },
        );
    }
}
