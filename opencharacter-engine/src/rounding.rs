use opencharacter_nn::{Activations, CacheFormat, Decoder};

use crate::EngineOptions;

/// What an engine rounds, and to what. It follows from the model, the machine and what the engine was made for, never from
/// how many requests it happens to have: a request's text does not depend on its company.
///
/// A quantised model's activations are rounded as well. Its weights' rounding is coarser, and dot products of bytes are
/// three times as fast as those of floats. Over 100 answers of RoleBench (7,773 tokens, SmolLM2-135M in `Q4_1`) 8 bits and
/// keys and values in 8 bits together moved the mean negative log-likelihood from 2.3824 to 2.3903 nats, and single answers
/// by 0.0146 nats per token. With keys and values in f16 it was 2.3883, with a standard error of 0.0016 for the difference,
/// and 0.0125 for single answers; with activations in blocks of 32 in place of 64 besides, 2.3811 and 0.0106, and a
/// quarter more time in products of bytes.
///
/// With f32 weights nothing is rounded, and the engine's arithmetic is the trainer's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounding {
    /// Of tokens that a request brings: many at a time.
    pub(crate) prompts: Activations,
    /// Of tokens that it was answered with: one at a time, in company where the engine is made for any. Where that is the
    /// other way of rounding, a conversation's next request computes the last answer again, as a part of its prompt.
    pub(crate) answers: Activations,
    pub(crate) cache: CacheFormat,
}

impl Rounding {
    pub(crate) fn new(decoder: &Decoder, options: &EngineOptions) -> Self {
        let alone = options.max_sequences <= 1;
        let answers = if alone { Activations::EightBits } else { Activations::RoundedForBatches };
        Self { prompts: Activations::RoundedForBatches, answers, cache: cache_format(decoder) }
    }

    /// Whether an answer's keys and values are those that its tokens would have in a prompt.
    pub(crate) fn answers_as_prompts(self) -> bool {
        // Weights that are not quantised are multiplied in f32, whatever is said here.
        self.cache == CacheFormat::Floats || self.prompts.description() == self.answers.description()
    }

    /// In words; nothing where nothing is rounded.
    pub(crate) fn description(self) -> Option<String> {
        let cache = match self.cache {
            CacheFormat::Floats => return None,
            CacheFormat::Halves => "keys and values in f16",
            CacheFormat::Bytes => "keys and values in 8 bits by token and head",
        };
        let [prompts, answers] = [self.prompts, self.answers].map(Activations::description);
        Some(if self.answers_as_prompts() {
            format!("{prompts}, {cache}")
        } else {
            format!("{prompts} in prompts, {answers} in answers, {cache}")
        })
    }
}

/// Keys and values are kept about as precisely as the weights: exactly beside exact ones, and in 8 bits beside quantised
/// ones. Where keys have a bias (Qwen2), some of their inputs are known to be far larger than the others, which 8 bits
/// with one scale for all would round away: those are kept in f16.
fn cache_format(decoder: &Decoder) -> CacheFormat {
    match (decoder.is_quantised(), decoder.has_key_bias()) {
        (false, _) => CacheFormat::Floats,
        (true, true) => CacheFormat::Halves,
        (true, false) => CacheFormat::Bytes,
    }
}
