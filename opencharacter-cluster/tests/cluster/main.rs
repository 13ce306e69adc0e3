//! The whole, against a real server.

#![allow(clippy::unwrap_used, reason = "a test that fails here should stop here")]

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod dying;
mod ending;
mod joining;
