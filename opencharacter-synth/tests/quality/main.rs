//! Rows judged by `opencharacter_synth::quality`.

#![expect(clippy::unwrap_used, reason = "a test that fails here should stop here")]

mod answers;
mod characters;
mod overlaps;
