//! A server, a model that counts its calls, and a job: what the tests and the examples share.
#![allow(dead_code, reason = "each program that includes this uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a fault here shall end the test")]

pub mod job;
pub mod mock;
pub mod process;
pub mod server;

use std::time::{Duration, Instant};

/// Waits until `condition` holds; panics with `what` after ten seconds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
