use std::fmt::Write as _;

use opencharacter_nn::{PackedBatch, Tokenizer};

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
