//! Benchmarks against scripted models whose answers and verdicts are known.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where clippy only allows it in the tests themselves")]

mod arena;
mod bad_input;
mod conversation;
mod cost;
mod many;
mod persona_gym;
mod role_bench;
mod scripted;
mod sendable;
