//! Direct preference optimisation (Rafailov et al., 2023): of two answers to one question, make the chosen one likelier
//! against the rejected one than the model that training started from finds it.
//!
//! With `r` the log-ratio `log p(chosen) - log p(rejected)` of the model in training and `r0` that of the reference, the
//! loss of a pair is `-log sigmoid(beta (r - r0))`. Only `r0` is needed of the reference, one number per pair, and it is
//! computed once before the first step ([`crate::train`]).

use opencharacter_core::{Character, PreferencePair};
use opencharacter_nn::{Model, PackedBatch};

use crate::{
    Example, Examples, TrainError,
    example::{ExampleBuilder, ExampleOptions},
};

/// One question with two answers, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferenceExample {
    /// The pair's id.
    pub id: String,
    /// The conversation with the answer to prefer.
    pub chosen: Example,
    /// The same with the answer to avoid.
    pub rejected: Example,
}

/// Turns pairs into examples; what is too long, or has no character, is left out and named as in
/// [`crate::build_examples`].
pub fn build_preferences(
    model: &Model,
    pairs: &[PreferencePair],
    characters: &[Character],
    options: ExampleOptions<'_>,
) -> Result<Examples<PreferenceExample>, TrainError> {
    let builder = ExampleBuilder::new(model, characters, options);
    let conversation = |pair: &PreferencePair, answer: &[_]| {
        builder.build(&pair.pair_id, &pair.character_id, [&pair.prompt, answer].concat())
    };
    Examples::of(
        pairs,
        |pair| &pair.pair_id,
        |pair| {
            let chosen = conversation(pair, &pair.chosen)?;
            let rejected = conversation(pair, &pair.rejected)?;
            Ok(match (chosen, rejected) {
                (Ok(chosen), Ok(rejected)) => differing(pair, chosen, rejected),
                (Err(reason), _) => Err(format!("chosen answer: {reason}")),
                (_, Err(reason)) => Err(format!("rejected answer: {reason}")),
            })
        },
    )
}

/// Trains only what comes after the common beginning, whose log-probability cancels in the log-ratio: earlier answers
/// of the conversation, and first words that both share.
fn differing(pair: &PreferencePair, mut chosen: Example, mut rejected: Example) -> Result<PreferenceExample, String> {
    let shared = chosen.tokens.iter().zip(&rejected.tokens).take_while(|(left, right)| left == right).count();
    chosen.trained[..shared].fill(false);
    rejected.trained[..shared].fill(false);
    if chosen.trained_tokens() == 0 || rejected.trained_tokens() == 0 {
        return Err("the chosen and the rejected answer are the same".into());
    }
    Ok(PreferenceExample { id: pair.pair_id.clone(), chosen, rejected })
}

/// Trained tokens of each sequence of a batch.
fn trained_counts(batch: &PackedBatch) -> impl Iterator<Item = usize> {
    // A sequence's first token has nothing before it to be predicted from.
    batch
        .cumulative_lengths
        .windows(2)
        .map(|bounds| batch.trained[bounds[0]..bounds[1]].iter().skip(1).filter(|trained| **trained).count())
}

/// `log p(chosen) - log p(rejected)` of each pair of a batch, from its trained tokens' negative log-likelihoods.
pub(crate) fn log_ratios(batch: &PackedBatch, losses: &[f32]) -> Vec<f64> {
    let mut losses = losses.iter();
    let sums: Vec<f64> =
        trained_counts(batch).map(|count| losses.by_ref().take(count).map(|&loss| f64::from(loss)).sum()).collect();
    sums.chunks_exact(2).map(|pair| pair[1] - pair[0]).collect()
}

/// `-log sigmoid(margin)`, without overflow.
pub(crate) fn pair_loss(margin: f64) -> f64 {
    (-margin).max(0.0) + (-margin.abs()).exp().ln_1p()
}

/// How much each trained token's negative log-likelihood counts in the gradient of the sum of the pairs' losses.
///
/// `d loss / d nll` is `beta sigmoid(-margin)` for the chosen answer's tokens and its negative for the rejected one's.
pub(crate) fn token_weights(batch: &PackedBatch, losses: &[f32], reference: &[f64], beta: f64) -> Vec<f32> {
    let ratios = log_ratios(batch, losses);
    let pull = ratios.iter().zip(reference).map(|(ratio, reference)| {
        let margin = beta * (ratio - reference);
        beta / (1.0 + margin.exp())
    });
    let signed = pull.flat_map(|pull| [pull, -pull]);
    signed.zip(trained_counts(batch)).flat_map(|(weight, count)| std::iter::repeat_n(weight as f32, count)).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use opencharacter_fixtures::fixture;
    use opencharacter_nn::{
        Decoder, LoraAdapter, PassOptions, SafetensorsFolder, TokenWeights, Trainable, loss_and_gradients,
    };

    use super::*;

    /// Two pairs; the first sequence has two trained tokens, the others one each.
    fn batch() -> PackedBatch {
        let mut batch = PackedBatch::new();
        batch.push(&[1, 2, 3], &[true, true, true]);
        batch.push(&[1, 4], &[false, true]);
        batch.push(&[5, 6], &[false, true]);
        batch.push(&[5, 7], &[false, true]);
        batch
    }

    fn loss(losses: &[f32], reference: &[f64], beta: f64) -> f64 {
        let ratios = log_ratios(&batch(), losses);
        ratios.iter().zip(reference).map(|(ratio, reference)| pair_loss(beta * (ratio - reference))).sum()
    }

    #[test]
    fn ratios_are_sums_over_answers() {
        assert_eq!(log_ratios(&batch(), &[1.0, 2.0, 5.0, 0.5, 0.25]), [2.0, -0.25]);
    }

    #[test]
    fn weights_are_the_slope_of_the_loss() {
        let (reference, beta) = ([0.7, -1.5], 0.3);
        let losses = [1.0_f32, 2.0, 2.5, 0.5, 3.0];
        let weights = token_weights(&batch(), &losses, &reference, beta);
        for place in 0..losses.len() {
            let step = 1e-2_f32;
            let mut moved = [losses, losses];
            moved[0][place] += step;
            moved[1][place] -= step;
            let slope = (loss(&moved[0], &reference, beta) - loss(&moved[1], &reference, beta)) / f64::from(2.0 * step);
            assert!((slope - f64::from(weights[place])).abs() < 1e-4, "{place}: {slope} against {}", weights[place]);
        }
    }

    #[test]
    fn loss_and_gradients_match_pytorch() {
        let folder = fixture("small_llama");
        let golden = candle_core::safetensors::load(folder.join("preference.safetensors"), &Device::Cpu).unwrap();
        let floats = |name: &str| golden[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let integers = |name: String| golden[&name].to_vec1::<i64>().unwrap();
        let mut batch = PackedBatch::new();
        for index in 0..4 {
            let tokens: Vec<u32> = integers(format!("tokens_{index}")).iter().map(|&token| token as u32).collect();
            let trained: Vec<bool> = integers(format!("trained_{index}")).iter().map(|&mark| mark == 1).collect();
            batch.push(&tokens, &trained);
        }
        let reference: Vec<f64> = floats("reference").into_iter().map(f64::from).collect();
        let beta = f64::from(floats("beta")[0]);
        let mut weights = SafetensorsFolder::open(&folder).unwrap();
        let decoder = Decoder::load(weights.config().unwrap(), &mut weights).unwrap();
        let adapter = LoraAdapter::load(&folder.join("adapter"), decoder.config()).unwrap();
        let mut gradients = adapter.gradients();
        let weigh = |losses: &[f32]| token_weights(&batch, losses, &reference, beta);
        let (trainable, weights) = (Trainable::Lora(&adapter), TokenWeights::FromLosses(&weigh));
        let losses =
            loss_and_gradients(&decoder, trainable, &batch, weights, PassOptions::default(), &mut gradients).unwrap();
        let ratios = log_ratios(&batch, &losses);
        let loss: f64 =
            ratios.iter().zip(&reference).map(|(ratio, reference)| pair_loss(beta * (ratio - reference))).sum();
        let expected = f64::from(floats("loss")[0]);
        assert!((loss - expected).abs() < 1e-5 * expected, "{loss} against {expected}");
        for (parameter, found) in gradients.iter() {
            let expected = floats(&format!("gradient.{}", parameter.name()));
            let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let error = found.iter().zip(&expected).fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
            assert!(error < 1e-4 * largest, "{}: {error} of {largest}", parameter.name());
        }
    }

    #[test]
    fn a_far_margin_is_no_overflow() {
        assert_eq!(pair_loss(1e4), 0.0);
        assert_eq!(pair_loss(-1e4), 1e4);
        assert!((pair_loss(0.0) - 2.0_f64.ln()).abs() < 1e-12);
        let weights = token_weights(&batch(), &[1e4, 1e4, 0.0, 0.0, 1e5], &[0.0, 0.0], 1.0);
        assert_eq!(weights, [1.0, 1.0, -1.0, 0.0, 0.0]);
    }
}
