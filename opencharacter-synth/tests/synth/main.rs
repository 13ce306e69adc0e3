//! The surface of `opencharacter-synth`: files in, rows out, and what the ledger promises in between.

#![expect(clippy::unwrap_used, reason = "a test that fails here should stop here")]

mod files;
mod ledger;
mod scripted;
mod synthesis;
