use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{
    add::add_into,
    low_rank::{PackedLora, inner_gradients_of, project},
    storage::{floats, from_floats},
};
use crate::matrix::{
    Activations, Factor, Orientation, PackedMatrix, RoundedRows, Term, add_products, several_sums, sum_of_products,
};
use crate::{simd, team};

/// An adapter's factors and the rows of the batch that they apply to.
pub(crate) type AdaptedRows<'a> = (Range<usize>, &'a PackedLora);

/// A linear layer as it applies to one batch.
pub(crate) struct Layer<'a> {
    pub(crate) weight: &'a PackedMatrix,
    pub(crate) bias: Option<&'a [f32]>,
    /// Rows that no adapter names are the base model's.
    pub(crate) adapted: Vec<AdaptedRows<'a>>,
}

impl<'a> Layer<'a> {
    /// The adapter, where there is one and all `rows` rows are its.
    fn adapter_of_all(&self, rows: usize) -> Option<&'a PackedLora> {
        match &self.adapted[..] {
            [(range, lora)] if *range == (0..rows) => Some(lora),
            _ => None,
        }
    }
}

/// What layers multiply.
#[derive(Debug)]
pub(crate) enum LinearInput {
    /// `[tokens, inputs]`.
    Floats(Tensor),
    /// For layers whose weights are quantised and that no adapter changes.
    Rounded(RoundedRows),
}

impl LinearInput {
    /// What `body` computes for `layers`, in the form in which they take it: `[tokens, inputs]` of `shape`. `body` is
    /// called with the place of each run of `length` values, a multiple of 32, and must write all of them.
    ///
    /// Values that are rounded anyway are never stored as f32: in a prefill step, writing and clearing them was a
    /// twentieth of the time.
    pub(crate) fn of(
        (tokens, inputs): (usize, usize),
        layers: &[Layer<'_>],
        activations: Activations,
        length: usize,
        body: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Self> {
        if take_rounded(layers, activations) {
            return Ok(Self::Rounded(RoundedRows::of(activations, tokens * inputs, inputs, length, body)));
        }
        Ok(Self::Floats(from_floats(team::fill(tokens * inputs, length, body), &[tokens, inputs])?))
    }
}

/// Whether layers take their input rounded, and need nothing else of it.
pub(super) fn take_rounded(layers: &[Layer<'_>], activations: Activations) -> bool {
    let plain = layers.iter().all(|layer| layer.adapted.is_empty() && layer.weight.quantised().is_some());
    plain && activations != Activations::Floats
}

/// `x W^T + bias + scale (x A^T) B^T` for layers that share their input: `x` is `[tokens, inputs]`, each result
/// `[tokens, outputs]`.
pub(crate) fn linears<const COUNT: usize>(
    x: &LinearInput,
    layers: &[Layer<'_>; COUNT],
    activations: Activations,
) -> Result<[Tensor; COUNT]> {
    match x {
        LinearInput::Rounded(x) => linears_of(x.shape().0, &[], Form::Rounded(x), layers),
        LinearInput::Floats(x) => {
            let (rows, inputs) = x.dims2()?;
            let values = floats(x)?;
            let quantised = layers.iter().any(|layer| layer.weight.quantised().is_some());
            match activations {
                Activations::Floats => linears_of(rows, &values, Form::Exact(&Factor::new(&values, inputs)), layers),
                _ if quantised => {
                    let rounded = RoundedRows::new(activations, &values, inputs);
                    linears_of(rows, &values, Form::Rounded(&rounded), layers)
                }
                _ => linears_of(rows, &values, Form::Floats, layers),
            }
        }
    }
}

/// What rows are, beside their f32 values.
#[derive(Clone, Copy)]
enum Form<'a> {
    /// Rounded, for quantised weights.
    Rounded(&'a RoundedRows),
    /// What training multiplies all weights with.
    Exact(&'a Factor<'a>),
    /// No more, for weights that are not quantised.
    Floats,
}

/// [`linears`], with `values` for whatever takes no other form.
fn linears_of<const COUNT: usize>(
    rows: usize,
    values: &[f32],
    form: Form<'_>,
    layers: &[Layer<'_>; COUNT],
) -> Result<[Tensor; COUNT]> {
    // One pass over each result. An adapter's products continue the base's chains, so these are the very bits that
    // adding them afterwards gives.
    let adapters = layers.each_ref().map(|layer| layer.adapter_of_all(rows));
    let factor = if let Form::Exact(factor) = form { Some(factor) } else { None };
    let mut projected =
        project(&adapters.iter().flatten().copied().collect::<Vec<_>>(), values, factor, rows).into_iter();
    let adapters = adapters.map(|lora| lora.and_then(|lora| Some((projected.next()?, &lora.b))));
    let terms: Vec<Vec<Term<'_>>> = layers
        .iter()
        .zip(&adapters)
        .map(|(layer, adapter)| {
            let mut terms = vec![match (form, layer.weight.quantised()) {
                (Form::Rounded(x), Some(matrix)) => Term::Rounded { x, matrix },
                (Form::Exact(factor), _) => factor.term(layer.weight),
                _ => Term::Floats { x: values, matrix: layer.weight },
            }];
            if let Some((x, matrix)) = adapter {
                terms.push(Term::Floats { x, matrix });
            }
            terms
        })
        .collect();
    let terms: Vec<&[Term<'_>]> = terms.iter().map(Vec::as_slice).collect();
    let mut outs = several_sums(Orientation::Forward, &terms, rows).into_iter();
    let results = layers.each_ref().map(|layer| {
        let mut out = outs.next().unwrap_or_default();
        layer.finish(values, form, rows, &mut out);
        from_floats(out, &[rows, layer.weight.outputs()])
    });
    // An array of results becomes a result of an array.
    let results: Vec<Tensor> = results.into_iter().collect::<Result<_>>()?;
    results.try_into().map_err(|_| candle_core::Error::Msg("one result per layer".into()))
}

impl Layer<'_> {
    /// Adds the adapters of some rows, and the bias.
    fn finish(&self, x: &[f32], form: Form<'_>, rows: usize, out: &mut [f32]) {
        let (inputs, outputs) = (self.weight.inputs(), self.weight.outputs());
        if self.adapter_of_all(rows).is_none() {
            for (range, lora) in &self.adapted {
                let part = &mut out[range.start * outputs..range.end * outputs];
                let x = &x[range.start * inputs..range.end * inputs];
                let factor = matches!(form, Form::Exact(_)).then(|| Factor::new(x, inputs));
                for x in &project(&[*lora], x, factor.as_ref(), range.len()) {
                    let terms = [Term::Floats { x, matrix: &lora.b }];
                    add_products(Orientation::Forward, &terms, range.len(), part);
                }
            }
        }
        if let Some(bias) = self.bias {
            out.chunks_exact_mut(outputs).for_each(|row| add_row(row, bias));
        }
    }
}

simd::vectorised! {
    fn add_row(row: &mut [f32], other: &[f32]) {
        for (value, other) in row.iter_mut().zip(other) {
            *value += other;
        }
    }
}

/// What a layer sends back to its input: the gradient of its result, and the layer.
#[derive(Clone, Copy)]
pub(crate) struct Upstream<'a> {
    pub(crate) gradient: &'a Tensor,
    pub(crate) weight: &'a PackedMatrix,
    pub(crate) lora: Option<&'a PackedLora>,
}

/// The gradient of the common input of several layers, in one pass, and for each adapter the gradient of its `x A^T`.
pub(crate) fn linear_input_gradient(upstream: &[Upstream<'_>]) -> Result<(Tensor, Vec<Option<Vec<f32>>>)> {
    let Some(first) = upstream.first() else { candle_core::bail!("a gradient needs at least one layer") };
    let rows = first.gradient.dim(0)?;
    let gradients = upstream.iter().map(|part| floats(part.gradient)).collect::<Result<Vec<_>>>()?;
    let factors = upstream.iter().zip(&gradients).map(|(part, gradient)| Factor::new(gradient, part.weight.outputs()));
    let factors: Vec<Factor<'_>> = factors.collect();
    let inner = inner_gradients_of(upstream, &factors, rows);
    let mut terms = Vec::with_capacity(2 * upstream.len());
    for ((part, factor), inner) in upstream.iter().zip(&factors).zip(&inner) {
        terms.push(factor.term(part.weight));
        if let (Some(lora), Some(inner)) = (part.lora, inner)
            && lora.dropout.is_none()
        {
            terms.push(Term::Floats { x: inner, matrix: &lora.a });
        }
    }
    let mut out = sum_of_products(Orientation::Transposed, &terms, rows);
    for (part, inner) in upstream.iter().zip(&inner) {
        if let (Some(PackedLora { a, dropout: Some(dropout), .. }), Some(inner)) = (part.lora, inner) {
            add_into(&mut out, &dropout.apply(&a.multiply_transposed(inner, rows)));
        }
    }
    Ok((from_floats(out, &[rows, first.weight.inputs()])?, inner))
}

/// Adds the gradient of a bias: the sum of `gradient` over the tokens.
pub(crate) fn bias_gradient(gradient: &Tensor, sums: &mut [f32]) -> Result<()> {
    floats(gradient)?.chunks_exact(sums.len()).for_each(|row| add_row(sums, row));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{
        Dropout,
        finite_difference::{check, flat, normal},
        low_rank::{LowRankPart, low_rank_gradients},
        rms_norm, rms_norm_for,
    };
    use super::*;
    use crate::{
        BlockFormat,
        matrix::{OuterProduct, Target, add_outer_products},
    };

    fn linear(x: &Tensor, weight: &PackedMatrix, bias: Option<&[f32]>, adapted: &[AdaptedRows<'_>]) -> Result<Tensor> {
        let x = LinearInput::Floats(x.clone());
        let [out] = linears(&x, &[Layer { weight, bias, adapted: adapted.to_vec() }], Activations::Floats)?;
        Ok(out)
    }

    fn weight(outputs: usize, inputs: usize) -> PackedMatrix {
        PackedMatrix::new(&flat(&normal(5, &[outputs, inputs])), outputs, inputs)
    }

    #[test]
    fn backward_matches_finite_differences() {
        let weight = weight(19, 11);
        check(
            &[normal(1, &[4, 11]), normal(2, &[19])],
            |arguments| linear(&arguments[0], &weight, Some(&flat(&arguments[1])), &[]),
            |_, gradient| {
                let upstream = Upstream { gradient, weight: &weight, lora: None };
                let mut bias = vec![0.0; 19];
                bias_gradient(gradient, &mut bias)?;
                Ok(vec![linear_input_gradient(&[upstream])?.0, from_floats(bias, &[19])?])
            },
        );
    }

    #[test]
    fn weight_gradient_matches_finite_differences() {
        check(
            &[normal(1, &[4, 11]), normal(2, &[19, 11])],
            |arguments| linear(&arguments[0], &PackedMatrix::new(&flat(&arguments[1]), 19, 11), None, &[]),
            |arguments, gradient| {
                let weight = PackedMatrix::new(&flat(&arguments[1]), 19, 11);
                let mut weight_gradient = PackedMatrix::new(&[0.0; 19 * 11], 19, 11);
                let panels = weight_gradient.floats_mut().unwrap();
                let product = OuterProduct { right: &flat(gradient), target: Target::Panels(panels) };
                add_outer_products(&flat(&arguments[0]), 4, [product]);
                let upstream = Upstream { gradient, weight: &weight, lora: None };
                Ok(vec![linear_input_gradient(&[upstream])?.0, from_floats(weight_gradient.to_rows(), &[19, 11])?])
            },
        );
    }

    #[test]
    fn lora_backward_matches_finite_differences() {
        // Three layers on one input, one of them without an adapter.
        let outputs = [19, 5, 8];
        let weights = outputs.map(|outputs| weight(outputs, 11));
        let adapters = |arguments: &[Tensor], probability: f32| {
            let adapter = |layer: usize, rank: usize, a: usize| {
                let lora =
                    PackedLora::new(&flat(&arguments[a]), &flat(&arguments[a + 1]), outputs[layer], 11, rank, 0.5);
                let dropout = Dropout { probability, key: layer as u64 };
                if probability > 0.0 { lora.with_dropout(dropout) } else { lora }
            };
            [Some(adapter(0, 3, 1)), None, Some(adapter(2, 2, 3))]
        };
        for probability in [0.0, 0.3] {
            check(
                &[
                    normal(1, &[7, 11]),
                    normal(2, &[3, 11]),
                    normal(3, &[19, 3]),
                    normal(4, &[2, 11]),
                    normal(5, &[8, 2]),
                ],
                |arguments| {
                    let adapters = adapters(arguments, probability);
                    let layers = [0, 1, 2].map(|layer| {
                        let adapted = adapters[layer].iter().map(|lora| (0..7, lora)).collect();
                        Layer { weight: &weights[layer], bias: None, adapted }
                    });
                    Tensor::cat(&linears(&LinearInput::Floats(arguments[0].clone()), &layers, Activations::Floats)?, 1)
                },
                |arguments, gradient| {
                    let adapters = adapters(arguments, probability);
                    let gradients = [(0, 19), (19, 5), (24, 8)]
                        .map(|(first, count)| gradient.narrow(1, first, count).unwrap().contiguous().unwrap());
                    let upstream = [0, 1, 2].map(|layer| Upstream {
                        gradient: &gradients[layer],
                        weight: &weights[layer],
                        lora: adapters[layer].as_ref(),
                    });
                    let (x, inner) = linear_input_gradient(&upstream)?;
                    assert!(inner[1].is_none(), "a layer without an adapter has no inner product");
                    let (mut first, mut second) = ((vec![0.0; 33], vec![0.0; 57]), (vec![0.0; 22], vec![0.0; 16]));
                    let part = |layer: usize, (a, b)| {
                        let (lora, inner) = (adapters[layer].as_ref().unwrap(), inner[layer].as_ref().unwrap());
                        LowRankPart { lora, gradient: &gradients[layer], inner, a, b }
                    };
                    let mut parts = [part(0, (&mut first.0, &mut first.1)), part(2, (&mut second.0, &mut second.1))];
                    low_rank_gradients(&arguments[0], &mut parts)?;
                    Ok(vec![
                        x,
                        from_floats(first.0, &[3, 11])?,
                        from_floats(first.1, &[19, 3])?,
                        from_floats(second.0, &[2, 11])?,
                        from_floats(second.1, &[8, 2])?,
                    ])
                },
            );
        }
    }

    #[test]
    fn eight_bits_on_the_way_are_those_of_stored_values() {
        // More rows than a run of normalised ones, and a last run that is shorter.
        let (rows, outputs, inputs) = (150, 48, 64);
        let block = |block: usize| [0x00, 0x2C].into_iter().chain((0..32).map(move |at| (at * 7 + block * 13) as u8));
        let bytes: Vec<u8> = (0..outputs * inputs / 32).flat_map(block).collect();
        let weight = PackedMatrix::from_blocks(BlockFormat::Q8_0, &bytes, outputs, inputs).unwrap();
        let lora = PackedLora::new(&[0.1; 128], &[0.1; 96], outputs, inputs, 2, 0.5);
        let (x, norm) = (normal(1, &[rows, inputs]), flat(&normal(2, &[inputs])));
        let plain = [Layer { weight: &weight, bias: None, adapted: Vec::new() }];
        let adapted = [Layer { weight: &weight, bias: None, adapted: vec![(0..rows, &lora)] }];
        let stored = LinearInput::Floats(rms_norm(&x, &norm, 1e-5).unwrap());
        let direct = rms_norm_for(&plain, Activations::RoundedForBatches, &x, &norm, 1e-5).unwrap();
        assert!(matches!(direct, LinearInput::Rounded(_)), "nothing needs f32 here");
        let [expected] = linears(&stored, &plain, Activations::RoundedForBatches).unwrap();
        let [found] = linears(&direct, &plain, Activations::RoundedForBatches).unwrap();
        assert_eq!(flat(&found), flat(&expected));
        let kept = rms_norm_for(&adapted, Activations::RoundedForBatches, &x, &norm, 1e-5).unwrap();
        assert!(matches!(kept, LinearInput::Floats(_)), "an adapter multiplies f32");
        let exact = rms_norm_for(&plain, Activations::Floats, &x, &norm, 1e-5).unwrap();
        assert!(matches!(exact, LinearInput::Floats(_)), "f32 was asked for");
    }

    #[test]
    fn an_adapter_on_some_rows_gives_them_the_bits_it_gives_alone() {
        let weight = weight(19, 11);
        let x = normal(1, &[9, 11]);
        let [first, second] = [2, 3].map(|seed| {
            PackedLora::new(&flat(&normal(seed, &[3, 11])), &flat(&normal(seed + 9, &[19, 3])), 19, 11, 3, 0.5)
        });
        let mixed = linear(&x, &weight, None, &[(0..4, &first), (6..9, &second)]).unwrap().to_vec2::<f32>().unwrap();
        let alone = |adapted: &[AdaptedRows<'_>]| linear(&x, &weight, None, adapted).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(mixed[..4], alone(&[(0..9, &first)])[..4]);
        assert_eq!(mixed[4..6], alone(&[])[4..6]);
        assert_eq!(mixed[6..], alone(&[(0..9, &second)])[6..]);
    }
}
