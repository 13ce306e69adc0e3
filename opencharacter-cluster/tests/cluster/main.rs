//! The whole, against a real server.

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod dying;
mod ending;
mod joining;
