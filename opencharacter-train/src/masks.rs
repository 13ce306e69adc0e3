use std::fmt::Write as _;

use opencharacter_nn::{PackedBatch, Tokenizer};
use serde::Serialize;

use crate::Example;

/// A packed batch as the trainer sees it, for other programs: to be trained by a peer, or checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Masks<'a> {
    /// All tokens.
    pub tokens: &'a [u32],
    /// For each token, whether predicting it is trained; never true of a sequence's first.
    pub trained: Vec<bool>,
    /// Each token's position in its own sequence.
    pub positions: Vec<u32>,
    /// Sequence borders: 0, the end of the first sequence, ..., the number of tokens.
    pub cumulative_lengths: &'a [usize],
}

impl<'a> From<&'a PackedBatch> for Masks<'a> {
    fn from(batch: &'a PackedBatch) -> Self {
        let positions = batch.positions();
        let trained = batch.trained.iter().zip(&positions).map(|(&trained, &position)| trained && position > 0);
        Self {
            tokens: &batch.tokens,
            trained: trained.collect(),
            positions,
            cumulative_lengths: &batch.cumulative_lengths,
        }
    }
}

/// A packed batch token by token: place, segment, position, whether trained, and the token itself. What the trainer
/// sees, for a person to check.
pub fn show_masks(batch: &PackedBatch, tokenizer: &Tokenizer) -> String {
    let mut text = String::from("  place  segment  position  trained  token\n");
    let mut place = 0;
    for (segment, bounds) in batch.cumulative_lengths.windows(2).enumerate() {
        for position in 0..bounds[1] - bounds[0] {
            let token = batch.tokens[place];
            let shown = if tokenizer.is_special(token) {
                tokenizer.token_name(token)
            } else {
                format!("{:?}", String::from_utf8_lossy(tokenizer.token_bytes(token)))
            };
            let mark = if batch.trained[place] && position > 0 { "yes" } else { "-" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{place:>7}  {segment:>7}  {position:>8}  {mark:>7}  {shown}");
            place += 1;
        }
    }
    text
}

/// A piece of a dialogue's text, and whether predicting it is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MaskedPiece {
    /// A token's text, or that of several where a character is spread over them; a special token's name.
    pub text: String,
    /// Whether the first of its tokens is trained.
    pub trained: bool,
}

/// A dialogue token by token, for a person to look at.
pub fn masked_pieces(example: &Example, tokenizer: &Tokenizer) -> Vec<MaskedPiece> {
    /// A character has at most so many bytes, and tokens may be single bytes.
    const LONGEST: usize = 4;
    let mut pieces = Vec::new();
    let mut place = 0;
    while let Some(&token) = example.tokens.get(place) {
        let trained = example.trained[place] && place > 0;
        if tokenizer.is_special(token) {
            pieces.push(MaskedPiece { text: tokenizer.token_name(token), trained });
            place += 1;
            continue;
        }
        let ends = place + 1..=example.tokens.len().min(place + LONGEST);
        let bytes = |end: usize| -> Vec<u8> {
            example.tokens[place..end].iter().flat_map(|&token| tokenizer.token_bytes(token)).copied().collect()
        };
        let whole = ends.clone().find_map(|end| Some((end, String::from_utf8(bytes(end)).ok()?)));
        let (end, text) = whole.unwrap_or_else(|| (place + 1, String::from_utf8_lossy(&bytes(place + 1)).into_owned()));
        pieces.push(MaskedPiece { text, trained });
        place = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_what_the_trainer_trains() {
        let mut batch = PackedBatch::new();
        batch.push(&[7, 8, 9], &[true, false, true]);
        batch.push(&[5, 6], &[true, true]);
        let masks = Masks::from(&batch);
        assert_eq!(masks.positions, [0, 1, 2, 0, 1]);
        assert_eq!(masks.cumulative_lengths, [0, 3, 5]);
        let trained = masks.tokens.iter().zip(&masks.trained).filter(|(_, trained)| **trained);
        assert_eq!(trained.map(|(&token, _)| token).collect::<Vec<_>>(), batch.trained().1);
    }
}
