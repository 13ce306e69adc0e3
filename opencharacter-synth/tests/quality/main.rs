//! Rows judged by `opencharacter_synth::quality`.

mod answers;
mod characters;
mod overlaps;
