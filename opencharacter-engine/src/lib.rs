//! Continuous batching over the decoder: many requests share every forward pass.
//!
//! A request joins between two steps and leaves as soon as it is done; prompts are prefilled in chunks beside the
//! sequences that already speak; a beginning that several requests share (the same system prompt) is computed once.
//! The work happens on one thread that owns the scheduler ([`Engine`] only holds its mailbox), so no lock is held
//! while a model runs, and dropping a request's future is enough to cancel it.
//!
//! # Why a request's text does not depend on its company
//!
//! Users compare runs, and the ledger reuses completions by key: both need the same request to give the same text
//! alone and in a crowd. Every product in `opencharacter-nn` computes each row by itself in a fixed order, attention
//! reads one sequence's keys in their order, and each request draws from its own counter-based stream. Nothing in
//! this crate may mix rows.

mod constraint;
mod engine;
mod log_probs;
mod prefix;
mod rounding;
mod sampler;
mod scheduler;
mod sequence;
mod text;

pub use engine::{Engine, EngineOptions};
