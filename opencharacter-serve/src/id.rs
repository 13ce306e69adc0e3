//! Ids that nobody guesses.

use std::hash::{BuildHasher as _, RandomState};

/// 128 random bits in hexadecimal digits: for sessions and answers.
pub(crate) fn random_id() -> String {
    // Keyed by the system's random numbers, once per thread and then counted up: two of them are never the same.
    let half = || RandomState::new().hash_one(std::time::SystemTime::now());
    format!("{:016x}{:016x}", half(), half())
}
