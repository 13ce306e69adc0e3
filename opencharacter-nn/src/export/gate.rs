//! The export gate: what was written is read back with this crate's own readers, and must be the model that it came
//! from. Nothing is published that has not passed.
//!
//! In the order of the checks: the decoder's shape, the tokens of a text, rendered conversations, every weight, and the
//! logits, which the source computes on the trainer's path (base weights and adapter apart). Holding each weight to its
//! own rounding finds the single wrong row that the logits of a quantised model would hide; logits find what single
//! weights cannot show, an update that was merged wrongly above all.
//!
//! # Tolerances of the logits
//!
//! Measured with `opencharacter export` from SmolLM2-135M-Instruct (`Q4_1`) with a trained adapter of rank 16, over 64
//! positions:
//!
//! | type | relative error | mean KL divergence | refused above |
//! | --- | --- | --- | --- |
//! | f32 | 2.8e-6 | 4.1e-11 nats | relative error 1e-4 |
//! | f16 | 8.1e-4 | 2.8e-6 nats | relative error 1e-2 |
//! | bf16 | 7.3e-3 | 1.2e-4 nats | relative error 5e-2 |
//! | `q8_0` | 2.1e-2 | 1.6e-3 nats | mean KL 1e-2 nats |
//!
//! Leaving that adapter out is a relative error of 0.27 and a mean KL divergence of 5.4e-2 nats. The bounds lie between:
//! several times what was measured, since other models and adapters round differently, and well below that.

use opencharacter_core::Message;

use super::{Export, Format, WeightType, turn_end};
use crate::{
    Activations, Adapter, Decoder, DecoderConfig, LoraAdapter, Model, NnError, PackedAttend, rope_scaling::same_factors,
};

/// How close the export is to its source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateReport {
    /// Weights (tensors) that were compared.
    pub weights: usize,
    /// Positions at which logits were compared.
    pub positions: usize,
    /// `|found - expected| / |expected|` over all logits.
    pub relative_error: f64,
    /// Mean over positions of the Kullback-Leibler divergence of the export's next-token distribution from the
    /// source's, in nats.
    pub mean_divergence: f64,
}

/// What the logits of an export may differ by from its source's.
enum Bound {
    RelativeError(f64),
    MeanDivergence(f64),
}

/// Positions at which logits are compared; the gate's text is longer.
const POSITIONS: usize = 64;

/// Everyday text, then what tokenizers disagree on: digits, contractions, runs of space, code, scripts, emoji.
const TEXT: &str = "The lighthouse keeper hated the sea, and the sea had never asked him why. He lit the lamp at dusk, \
    trimmed the wick, and wrote in the log: \"Wind from the north-west, 27 knots; 3 ships passed, 1048 gulls did not.\" \
    They'd said he'd get used to it, but he didn't, he couldn't, and I'LL say no more.\n\n  let x = vec![1, 2_000];\t\
    // ünïcode: Смотритель маяка, 灯台守, منارة, φάρος, 👩‍🚀 🇳🇴 ❤️   \n";

/// Compares `exported`, which was read back, with what `export` says it is.
pub(super) fn check(export: &Export<'_>, format: Format, exported: &Model) -> Result<GateReport, NnError> {
    same_shape(export.decoder, &exported.decoder, format)?;
    same_tokens(export.model, exported)?;
    same_conversations(export.model, exported)?;
    let weights = same_weights(export, format, &exported.decoder)?;
    let report = GateReport { weights, ..compare_logits(export, &exported.decoder)? };
    within(report, export.weight_type)?;
    Ok(report)
}

fn refuse<T>(difference: String) -> Result<T, NnError> {
    Err(NnError::ExportGate { difference })
}

fn same_shape(expected: &Decoder, found: &Decoder, format: Format) -> Result<(), NnError> {
    let mut found = found.config().clone();
    let expected = expected.config();
    // A folder has the rule in place of the factors, which the source may have computed in fewer bits.
    if format == Format::Folder && same_factors(&found.rope_factors, &expected.rope_factors) {
        found.rope_factors.clone_from(&expected.rope_factors);
    }
    let fields = |config: &DecoderConfig| serde_json::to_value(config).unwrap_or_default();
    let (expected, found) = (fields(expected), fields(&found));
    let names = expected.as_object().into_iter().flat_map(|fields| fields.keys());
    match names.into_iter().find(|name| expected[*name] != found[*name]) {
        Some(name) => refuse(format!("`{name}` is {}, expected {}", found[name], expected[name])),
        None => Ok(()),
    }
}

fn same_tokens(source: &Model, exported: &Model) -> Result<(), NnError> {
    let (expected, found) = (source.tokenizer.encode(TEXT), exported.tokenizer.encode(TEXT));
    if let Some(index) = first_difference(&expected, &found) {
        let name = |model: &Model, tokens: &[u32]| match tokens.get(index) {
            Some(&token) => format!("{token} (`{}`)", model.tokenizer.token_name(token)),
            None => "missing".into(),
        };
        let (expected, found) = (name(source, &expected), name(exported, &found));
        return refuse(format!("token {index} of the gate's text is {found}, expected {expected}"));
    }
    // A GGUF file has room for two of them. What must not get lost is the one that ends an answer.
    let ends = exported.tokenizer.end_of_text();
    if let Some(&token) = ends.iter().find(|token| !source.tokenizer.end_of_text().contains(token)) {
        let name = exported.tokenizer.token_name(token);
        return refuse(format!("`{name}` ends a text, and did not before"));
    }
    match turn_end(source).filter(|token| !ends.contains(token)) {
        Some(token) => refuse(format!("`{}` no longer ends an answer", source.tokenizer.token_name(token))),
        None => Ok(()),
    }
}

fn same_conversations(source: &Model, exported: &Model) -> Result<(), NnError> {
    let system = Message::system("You are Ada Holm, a lighthouse keeper.");
    let talk = [Message::user(" Why? "), Message::assistant("Because it's <wet>."), Message::user("And \"now\"?\n")];
    let with_system = [std::slice::from_ref(&system), &talk].concat();
    for (messages, answer_next) in [(&talk[..], true), (&talk[..2], false), (&with_system[..], true)] {
        // A template may refuse a system message; then both must.
        let render = |model: &Model| model.template.render(messages, answer_next).map_err(|error| error.to_string());
        let (expected, found) = (render(source), render(exported));
        if expected != found {
            return refuse(format!("the chat template renders {found:?}, expected {expected:?}"));
        }
        if let Ok(text) = &expected
            && source.tokenizer.encode(text) != exported.tokenizer.encode(text)
        {
            return refuse(format!("the tokens of the rendered conversation {text:?}"));
        }
    }
    Ok(())
}

/// How many weights there are, all of them equal up to the rounding of their type.
fn same_weights(export: &Export<'_>, format: Format, exported: &Decoder) -> Result<usize, NnError> {
    let (mut count, mut found) = (0, exported.weights().into_iter());
    for expected in export.weights() {
        let name = expected.parameter.name();
        let Some((parameter, weight)) = found.next() else { return refuse(format!("`{name}` is missing")) };
        if parameter != expected.parameter {
            return refuse(format!("`{}` is where `{name}` is expected", parameter.name()));
        }
        let shape = expected.shape();
        let stored = format.weight_type(export.weight_type, &shape);
        let (expected, found) = (expected.values(), weight.to_rows());
        if let Some(index) = stored.first_difference(&expected, &found) {
            let row = index / shape.last().copied().unwrap_or(1).max(1);
            let value = |values: &[f32]| values.get(index).map_or_else(|| "missing".into(), f32::to_string);
            return refuse(format!(
                "`{name}` of shape {shape:?}, element {index} (row {row}) is {}, expected {} within the rounding of {}",
                value(&found),
                value(&expected),
                stored.as_str()
            ));
        }
        count += 1;
    }
    match found.next() {
        Some((parameter, _)) => refuse(format!("`{}` belongs to no weight of the source", parameter.name())),
        None => Ok(count),
    }
}

pub(super) fn compare_logits(export: &Export<'_>, exported: &Decoder) -> Result<GateReport, NnError> {
    let config = export.decoder.config();
    let mut tokens = export.model.tokenizer.encode(TEXT);
    tokens.retain(|&token| (token as usize) < config.vocab_size);
    tokens.truncate(POSITIONS.min(config.max_position_embeddings));
    if tokens.is_empty() {
        return refuse("the tokenizer finds no token in the gate's text, so that nothing can be compared".into());
    }
    let packed = export.adapter.map(LoraAdapter::pack);
    let adapter = packed.as_ref().map_or(Adapter::Base, Adapter::Packed);
    let expected = logits(export.decoder, adapter, &tokens)?;
    let found = logits(exported, Adapter::Base, &tokens)?;
    Ok(GateReport {
        weights: 0,
        positions: tokens.len(),
        relative_error: relative_error(&found, &expected),
        mean_divergence: mean_divergence(&found, &expected, config.vocab_size),
    })
}

/// `[tokens * vocab]`.
fn logits(decoder: &Decoder, adapter: Adapter<'_>, tokens: &[u32]) -> Result<Vec<f32>, NnError> {
    let positions: Vec<u32> = (0..tokens.len() as u32).collect();
    let mut attention = PackedAttend::new(decoder.config(), &[0, tokens.len()]);
    let hidden = decoder.forward(tokens, &positions, adapter, &mut attention, Activations::Floats, &positions)?;
    Ok(decoder.logits(&hidden, &positions, Activations::Floats)?)
}

pub(super) fn within(report: GateReport, weight_type: WeightType) -> Result<(), NnError> {
    let bound = match weight_type {
        WeightType::F32 => Bound::RelativeError(1e-4),
        WeightType::F16 => Bound::RelativeError(1e-2),
        WeightType::Bf16 => Bound::RelativeError(5e-2),
        WeightType::Q8_0 => Bound::MeanDivergence(1e-2),
    };
    let (what, found, bound) = match bound {
        Bound::RelativeError(bound) => ("the logits' relative error", report.relative_error, bound),
        Bound::MeanDivergence(bound) => ("the mean KL divergence of the next token", report.mean_divergence, bound),
    };
    // Written so that what is not a number is refused.
    if found <= bound {
        return Ok(());
    }
    refuse(format!("{what} is {found:.2e}, and may be {bound:.0e} in {}", weight_type.as_str()))
}

fn first_difference(expected: &[u32], found: &[u32]) -> Option<usize> {
    let common = expected.len().min(found.len());
    let different = (0..common).find(|&index| expected[index] != found[index]);
    different.or((expected.len() != found.len()).then_some(common))
}

pub(super) fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(found, expected)| square(found - expected)).sum();
    let size: f64 = expected.iter().map(|&expected| square(expected)).sum();
    (difference / size).sqrt()
}

/// Mean over rows of `sum p (log p - log q)`, `p` of `expected` and `q` of `found`.
fn mean_divergence(found: &[f32], expected: &[f32], vocabulary: usize) -> f64 {
    let rows = found.chunks_exact(vocabulary).zip(expected.chunks_exact(vocabulary));
    let (mut sum, mut count) = (0.0, 0);
    for (found, expected) in rows {
        let (q, p) = (log_softmax(found), log_softmax(expected));
        sum += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        count += 1;
    }
    sum / f64::from(count)
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let normaliser = largest + logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|&x| f64::from(x) - normaliser).collect()
}
