//! Loss and gradients of a packed batch, block by block.
//!
//! The forward pass keeps each block's [tape](crate::decoder::BlockTape), the backward pass walks the blocks from last
//! to first and drops each tape after use. With `recompute`, only the blocks' inputs are kept and each block is run
//! once more on the way back: memory for one forward pass of time.
//!
//! Where every weight is trained, a batch passes in parts of whole sequences. The tapes of the part in hand are then all
//! that is kept, which leaves room to keep them whole. Gradients are sums over the tokens in their order, so the parts
//! give the bits of the whole batch, but for an embedding that is the head too: its two sums then alternate. (Where the
//! machine multiplies with integer tiles, sums are rounded once per part, and gradients differ in the last bits.) What parts
//! cost is that all weights and gradients stream through the caches once more for each.

use candle_core::Tensor;

use crate::{
    Activations, Decoder, Gradients, LoraAdapter, NnError, PackedBatch,
    adapter::{Adapter, PackedAdapter},
    decoder::PackedAttend,
    ops,
};

/// Where every weight is trained, a part of a batch has at most so many tokens, or is one longer sequence. Each part takes
/// all weights and gradients through memory once more, and its tapes are kept whole; of a longer sequence two products per
/// block are computed again: a third less memory for a twentieth more time.
pub const PART_TOKENS: usize = 512;

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub enum Trainable<'a> {
    /// An adapter on frozen weights.
    Lora(&'a LoraAdapter),
    /// Every weight, which must be f32 ([`Decoder::thaw`]).
    Weights,
}

/// How a pass through the model for gradients differs from one for answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PassOptions {
    /// Keep only the blocks' inputs and run each block again on the way back.
    pub recompute: bool,
    /// Noise on the embeddings (`NEFTune`); 0 adds none.
    pub neftune_alpha: f32,
    /// Share of an adapter's inputs that are dropped; 0 drops none.
    pub lora_dropout: f32,
    /// Decides every draw of this pass.
    pub key: u64,
}

/// How much each trained token's loss counts.
#[derive(Clone, Copy)]
pub enum TokenWeights<'a> {
    /// Once.
    Equal,
    /// As much as this says, given each trained token's loss in the batch's order: preference training looks at the
    /// losses of whole answers first.
    FromLosses(&'a dyn Fn(&[f32]) -> Vec<f32>),
}

/// Each trained token's negative log-likelihood, in the batch's order, without gradients.
pub fn token_losses(decoder: &Decoder, batch: &PackedBatch, adapter: Adapter<'_>) -> Result<Vec<f32>, NnError> {
    let (rows, targets) = batch.trained();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut attention = PackedAttend::new(decoder.config(), &batch.cumulative_lengths);
    let positions = batch.positions();
    let hidden = decoder.forward(&batch.tokens, &positions, adapter, &mut attention, Activations::Floats, &rows)?;
    Ok(ops::head_cross_entropy(&hidden, decoder.head(), &targets, Activations::Floats)?.per_row)
}

/// Log-probabilities of `targets` given rows of normed hidden states, without gradients; one per row.
pub fn head_log_probs(
    decoder: &Decoder,
    hidden: &Tensor,
    rows: &[u32],
    targets: &[u32],
    activations: Activations,
) -> Result<Vec<f32>, NnError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let hidden = ops::select_rows(hidden, rows)?;
    let losses = ops::head_cross_entropy(&hidden, decoder.head(), targets, activations)?.per_row;
    Ok(losses.into_iter().map(|loss| -loss).collect())
}

/// Each trained token's negative log-likelihood, in nats and in the batch's order. The gradients of their weighted sum
/// are added to `gradients`, for the parameters that are in there.
pub fn loss_and_gradients(
    decoder: &Decoder,
    trainable: Trainable<'_>,
    batch: &PackedBatch,
    weights: TokenWeights<'_>,
    options: PassOptions,
    gradients: &mut Gradients,
) -> Result<Vec<f32>, NnError> {
    let (Trainable::Weights, TokenWeights::Equal) = (trainable, weights) else {
        // An adapter's batch is whole for its dropout's draws, and a preference compares sequences with each other.
        return pass(decoder, trainable, batch, 0, weights, options, gradients);
    };
    let mut losses = Vec::with_capacity(batch.tokens.len());
    for (first_token, part) in batch.parts(PART_TOKENS) {
        losses.extend(pass(decoder, trainable, &part, first_token, weights, options, gradients)?);
    }
    Ok(losses)
}

/// [`loss_and_gradients`] of a part that begins at token `first_token` of its batch.
fn pass(
    decoder: &Decoder,
    trainable: Trainable<'_>,
    batch: &PackedBatch,
    first_token: usize,
    weights: TokenWeights<'_>,
    options: PassOptions,
    gradients: &mut Gradients,
) -> Result<Vec<f32>, NnError> {
    let (rows, targets) = batch.trained();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let packed = match trainable {
        Trainable::Lora(adapter) => Some(adapter.pack_with_dropout(options.lora_dropout, options.key)),
        Trainable::Weights => None,
    };
    let adapter = packed.as_ref().map_or(Adapter::Base, Adapter::Packed);
    let layers = decoder.config().num_hidden_layers;
    let rotation = decoder.rotation(&batch.positions());
    let mut attention = PackedAttend::new(decoder.config(), &batch.cumulative_lengths);

    let mut hidden = decoder.embed(&batch.tokens)?;
    if options.neftune_alpha > 0.0 {
        hidden = add_noise(&hidden, &batch.cumulative_lengths, first_token, options)?;
    }
    let mut kept = Vec::with_capacity(layers);
    for layer in 0..layers {
        let (output, tape) = decoder.block(layer, &hidden, &rotation, adapter, &mut attention, Activations::Floats)?;
        let tape = match trainable {
            Trainable::Weights if batch.tokens.len() > PART_TOKENS => tape.lightened(),
            _ => tape,
        };
        kept.push((hidden, (!options.recompute).then_some(tape)));
        hidden = output;
    }

    let (losses, mut upstream) = head(decoder, &hidden, &rows, &targets, weights, gradients)?;
    drop(hidden);
    while let Some((input, tape)) = kept.pop() {
        let layer = kept.len();
        let tape = match tape {
            Some(tape) => tape,
            None => decoder.block(layer, &input, &rotation, adapter, &mut attention, Activations::Floats)?.1,
        };
        // Below the first block there is only the embedding.
        let to_input = layer > 0 || packed.is_none();
        let packed: Option<&PackedAdapter> = packed.as_ref();
        let input =
            decoder.block_backward(layer, &tape, &upstream, &rotation, packed, &attention, gradients, to_input)?;
        match input {
            Some(input) => upstream = input,
            None => return Ok(losses),
        }
    }
    decoder.embed_backward(&batch.tokens, &upstream, gradients)?;
    Ok(losses)
}

/// `NEFTune`: uniform noise of up to `alpha / sqrt(tokens * hidden)` on each sequence's embeddings.
fn add_noise(
    hidden: &Tensor,
    cumulative_lengths: &[usize],
    first_token: usize,
    options: PassOptions,
) -> Result<Tensor, NnError> {
    let width = hidden.dim(1)?;
    let mut values = ops::floats(hidden)?.to_vec();
    for bounds in cumulative_lengths.windows(2) {
        let part = &mut values[bounds[0] * width..bounds[1] * width];
        let bound = options.neftune_alpha / (part.len() as f32).sqrt();
        for (place, value) in part.iter_mut().enumerate() {
            let draw = ops::keyed_uniform(options.key, ((first_token + bounds[0]) * width + place) as u64);
            *value += bound * (2.0 * draw - 1.0);
        }
    }
    Ok(ops::from_floats(values, hidden.dims())?)
}

/// Losses of the trained rows, and the gradient of all rows of `hidden`.
fn head(
    decoder: &Decoder,
    hidden: &Tensor,
    rows: &[u32],
    targets: &[u32],
    weights: TokenWeights<'_>,
    gradients: &mut Gradients,
) -> Result<(Vec<f32>, Tensor), NnError> {
    let selected = ops::select_rows(hidden, rows)?;
    let normed = decoder.final_norm(&selected)?;
    let weights = match weights {
        TokenWeights::Equal => vec![1.0; rows.len()],
        TokenWeights::FromLosses(weigh) => {
            weigh(&ops::head_cross_entropy(&normed, decoder.head(), targets, Activations::Floats)?.per_row)
        }
    };
    let head_gradient = gradients.get_mut(decoder.head_parameter());
    let loss = ops::head_gradient(&normed, decoder.head(), targets, &weights, head_gradient)?;
    let Some(gradient) = loss.gradient else {
        return Err(NnError::Tensor(candle_core::Error::Msg("the head gave no gradient".into())));
    };
    let gradient = decoder.final_norm_backward(&selected, &gradient, gradients)?;
    let (tokens, width) = hidden.dims2()?;
    let mut all = vec![0.0; tokens * width];
    for (&row, values) in rows.iter().zip(ops::floats(&gradient)?.chunks_exact(width)) {
        all[row as usize * width..(row as usize + 1) * width].copy_from_slice(values);
    }
    Ok((loss.per_row, ops::from_floats(all, &[tokens, width])?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opencharacter_fixtures::fixture;

    use super::*;
    use crate::{SafetensorsFolder, team::Team};

    fn small() -> (Decoder, LoraAdapter) {
        let path = fixture("small_qwen3");
        let mut folder = SafetensorsFolder::open(&path).unwrap();
        let config = folder.config().unwrap();
        let adapter = LoraAdapter::load(&path.join("adapter"), &config).unwrap();
        (Decoder::load(config, &mut folder).unwrap(), adapter)
    }

    fn batch() -> PackedBatch {
        let mut batch = PackedBatch::new();
        for length in [70, 9, 33] {
            let tokens: Vec<u32> = (0..length).map(|place| (place * 37 + length) % 64).collect();
            batch.push(&tokens, &vec![true; tokens.len()]);
        }
        batch
    }

    #[test]
    fn losses_and_gradients_do_not_depend_on_threads() {
        let (mut decoder, adapter) = small();
        let options = PassOptions { neftune_alpha: 5.0, lora_dropout: 0.1, key: 3, ..PassOptions::default() };
        let batch = batch();
        let bits = |decoder: &Decoder, trainable: Trainable<'_>, mut gradients: Gradients| {
            let weights = TokenWeights::Equal;
            let mut all = loss_and_gradients(decoder, trainable, &batch, weights, options, &mut gradients).unwrap();
            for (_, values) in gradients.iter() {
                assert!(values.iter().any(|value| *value != 0.0));
                all.extend(values);
            }
            all.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        let teams = [1, 2, 7].map(Team::new);
        let lora = || bits(&decoder, Trainable::Lora(&adapter), adapter.gradients());
        let [one, two, seven] = teams.each_ref().map(|team| team.install(lora));
        assert!(one == two && one == seven);
        decoder.thaw();
        let lengths: Vec<(crate::Parameter, usize)> = decoder
            .parameters_mut()
            .unwrap()
            .into_iter()
            .map(|(parameter, values)| (parameter, values.len()))
            .collect();
        let full = || bits(&decoder, Trainable::Weights, Gradients::zeros(lengths.iter().copied()));
        let [one, two, seven] = teams.each_ref().map(|team| team.install(full));
        assert!(one == two && one == seven);
    }

    #[test]
    fn noise_fills_its_bound_in_each_sequence() {
        let (decoder, _) = small();
        let batch = batch();
        let hidden = decoder.embed(&batch.tokens).unwrap();
        let options = PassOptions { neftune_alpha: 5.0, key: 1, ..PassOptions::default() };
        let noisy = add_noise(&hidden, &batch.cumulative_lengths, 0, options).unwrap();
        let width = decoder.config().hidden_size;
        let (before, after) = (ops::floats(&hidden).unwrap(), ops::floats(&noisy).unwrap());
        for bounds in batch.cumulative_lengths.windows(2) {
            let place = bounds[0] * width..bounds[1] * width;
            let noise: Vec<f64> =
                before[place.clone()].iter().zip(&after[place]).map(|(x, y)| f64::from(y - x)).collect();
            // Jain et al., 2023: uniform, scaled by alpha / sqrt(L d).
            let count = noise.len() as f64;
            let bound = 5.0 / count.sqrt();
            let largest = noise.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
            assert!((0.97..1.001).contains(&(largest / bound)), "{largest} of {bound}");
            let mean = noise.iter().sum::<f64>() / count;
            let deviation = bound / 3.0_f64.sqrt();
            assert!(mean.abs() < 4.0 * deviation / count.sqrt(), "{mean}");
            let found = (noise.iter().map(|x| x * x).sum::<f64>() / count).sqrt();
            assert!((found / deviation - 1.0).abs() < 0.1, "{found} of {deviation}");
        }
    }
}
