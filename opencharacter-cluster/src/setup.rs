//! The two streams of a model, and how they are kept.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    stream::{Config, Republish, RetentionPolicy, StorageType},
};

use crate::{ClusterError, ClusterOptions, link::Link, names::CONSUMER, names::Names};

/// A call that nobody took for so long is no longer offered. Whoever still waits for it offers it again.
const CALLS_KEPT: Duration = Duration::from_hours(24);
/// How long an answer waits for a coordinator that was killed and not yet run again.
const ANSWERS_KEPT: Duration = Duration::from_hours(7 * 24);
/// Requests for calls that the server keeps for all workers together, at most one per call that they could take.
const MAX_WAITING: i64 = 16_384;

/// Makes what is missing; what is there stays, but for the limits of `options`.
pub(crate) async fn ensure(link: &Link, names: &Names, options: &ClusterOptions) -> Result<(), ClusterError> {
    let calls = Config {
        name: names.calls_stream(),
        subjects: vec![names.call(">")],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        max_age: CALLS_KEPT,
        ..Config::default()
    };
    let answers = Config {
        name: names.answers_stream(),
        subjects: vec![names.answer(">")],
        storage: StorageType::File,
        max_age: ANSWERS_KEPT,
        allow_direct: true,
        republish: Some(Republish { source: names.answer(">"), destination: names.accepted(), headers_only: false }),
        ..Config::default()
    };
    for config in [calls, answers] {
        link.jetstream.get_or_create_stream(config).await.map_err(|error| link.unfit(&error))?;
    }
    let consumer = pull::Config {
        durable_name: Some(CONSUMER.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: options.ack_wait,
        max_ack_pending: options.calls_in_flight as i64,
        // Workers bound how often a call is tried: the server would merely leave it in the queue, and nobody told.
        max_deliver: -1,
        max_waiting: MAX_WAITING,
        ..pull::Config::default()
    };
    let made = link.jetstream.create_consumer_on_stream(consumer, names.calls_stream()).await;
    made.map_err(|error| link.unfit(&error)).map(|_| ())
}
