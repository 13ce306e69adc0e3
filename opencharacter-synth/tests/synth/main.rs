//! The surface of `opencharacter-synth`: files in, rows out.

#![expect(clippy::unwrap_used, reason = "a test that fails here should stop here")]

mod files;
mod synthesis;
