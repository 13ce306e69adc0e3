//! Loss and gradients of a packed batch, block by block.
//!
//! Each block is its own small graph: the forward pass cuts the chain at every block's input, the backward pass walks
//! the blocks from last to first, hands each the gradient of its output, and drops its graph. A whole-model graph
//! would keep every activation until the end, and candle's traversal of it is recursive. With `recompute`, only the
//! blocks' inputs are kept and each block is run once more on the way back: memory for one forward pass of time.

use std::sync::Arc;

use candle_core::{Tensor, Var};

use crate::{
    Decoder, LoraAdapter, NnError, PackedBatch,
    adapter::Adapter,
    decoder::PackedAttend,
    ops::{self, head_cross_entropy},
};

/// What one batch says about the trained parameters.
#[derive(Debug)]
pub struct LossAndGradients {
    /// Sum of the trained tokens' negative log-likelihoods, in nats.
    pub loss_sum: f64,
    /// How many tokens were trained.
    pub trained_tokens: usize,
    /// The gradient of `loss_sum`, in the order of [`LoraAdapter::variables`].
    pub gradients: Vec<Tensor>,
}

/// Each trained token's negative log-likelihood, in the batch's order, without gradients.
pub fn token_losses(decoder: &Decoder, batch: &PackedBatch, adapter: Adapter<'_>) -> Result<Vec<f32>, NnError> {
    let (rows, targets) = batch.trained();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let positions = Arc::new(batch.positions());
    let hidden = decoder.forward(&batch.tokens, &positions, adapter, &mut attend(decoder, batch))?;
    Ok(head_log_probs(decoder, &hidden, &rows, &targets)?.into_iter().map(|log_prob| -log_prob).collect())
}

/// Log-probabilities of `targets` given rows of normed hidden states, without gradients; one per row.
pub fn head_log_probs(decoder: &Decoder, hidden: &Tensor, rows: &[u32], targets: &[u32]) -> Result<Vec<f32>, NnError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let losses = head_cross_entropy(&select_rows(hidden, rows)?.detach(), decoder.head(), targets)?.per_row;
    Ok(losses.into_iter().map(|loss| -loss).collect())
}

/// Loss and gradients of `batch` with respect to `adapter`'s factors.
pub fn loss_and_gradients(
    decoder: &Decoder,
    adapter: &LoraAdapter,
    batch: &PackedBatch,
    recompute: bool,
) -> Result<LossAndGradients, NnError> {
    let layers = decoder.config().num_hidden_layers;
    let positions = Arc::new(batch.positions());
    let mut attention = attend(decoder, batch);
    let (rows, targets) = batch.trained();
    let mut gradients: Vec<Option<Tensor>> = adapter.variables().iter().map(|_| None).collect();

    let mut hidden = decoder.embed(&batch.tokens)?;
    let mut kept = Vec::with_capacity(layers);
    for layer in 0..layers {
        let input = Var::from_tensor(&hidden)?;
        if recompute {
            hidden = decoder.block(layer, &hidden, &positions, adapter.trainable(), &mut attention)?.detach();
            kept.push((input, None));
        } else {
            let output = decoder.block(layer, input.as_tensor(), &positions, adapter.trainable(), &mut attention)?;
            hidden = output.detach();
            kept.push((input, Some(output)));
        }
    }

    let last = Var::from_tensor(&hidden)?;
    let loss =
        head_cross_entropy(&decoder.final_norm(&select_rows(last.as_tensor(), &rows)?)?, decoder.head(), &targets)?;
    let loss_sum = loss.per_row.iter().map(|&loss| f64::from(loss)).sum();
    let mut upstream = gradient_of(&loss.sum.backward()?, &last)?;
    drop(loss);

    for layer in (0..layers).rev() {
        let Some((input, output)) = kept.pop() else { unreachable!("one entry was kept per block") };
        let output = match output {
            Some(output) => output,
            None => decoder.block(layer, input.as_tensor(), &positions, adapter.trainable(), &mut attention)?,
        };
        let store = ops::seed_gradient(&output, &upstream)?.backward()?;
        for (index, variable) in adapter.block_variables(layer) {
            gradients[index] = Some(gradient_of(&store, variable)?);
        }
        upstream = gradient_of(&store, &input)?;
    }
    let gradients = gradients.into_iter().flatten().collect();
    Ok(LossAndGradients { loss_sum, trained_tokens: targets.len(), gradients })
}

fn attend(decoder: &Decoder, batch: &PackedBatch) -> PackedAttend {
    PackedAttend { head_dim: decoder.config().head_dim, cumulative_lengths: Arc::new(batch.cumulative_lengths.clone()) }
}

/// The gradient of `variable`, cut from the graph. A missing one is an error: candle's optimiser would skip it in
/// silence.
fn gradient_of(store: &candle_core::backprop::GradStore, variable: &Var) -> Result<Tensor, NnError> {
    match store.get(variable) {
        Some(gradient) => Ok(gradient.detach()),
        None => Err(NnError::Tensor(candle_core::Error::Msg("a trainable parameter received no gradient".into()))),
    }
}

fn select_rows(hidden: &Tensor, rows: &[u32]) -> candle_core::Result<Tensor> {
    hidden.index_select(&Tensor::from_slice(rows, rows.len(), hidden.device())?, 0)
}
