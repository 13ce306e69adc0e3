//! [`Generate`](opencharacter_core::Generate) over NATS JetStream: calls are work items that any number of machines
//! answer.
//!
//! A [`ClusterModel`] (the *coordinator's* side) puts calls into a queue on the server and waits for their answers. A
//! [`Worker`] takes calls as long as its own model has room, and brings the answers. Whatever makes a call a result
//! (ledger, checks, further attempts, order of rows) stays with whoever calls the `ClusterModel`: it is only another
//! model. Nothing here is specific to one run; runs of the same model share workers and answers.
//!
//! ```no_run
//! # async fn doc(model: &dyn opencharacter_core::Generate) -> Result<(), opencharacter_cluster::ClusterError> {
//! use opencharacter_cluster::{ClusterModel, ClusterOptions, Worker};
//! // On one machine:
//! let teacher = ClusterModel::connect("nats://host:4222", model.fingerprint(), ClusterOptions::default()).await?;
//! // On any number of others:
//! Worker::connect("nats://host:4222").await?.run(model, std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # On the server
//!
//! Names contain a hash of the protocol's version and of the model's fingerprint, HASH: workers only get calls that
//! their model can answer, and wait when there are none. KEY is the ledger's key of a call, a hash of everything that
//! is asked.
//!
//! | name | what |
//! | --- | --- |
//! | stream `opencharacter-HASH-calls`, subjects `opencharacter.HASH.call.KEY` | The queue: an item per call (the request as JSON), removed when it is acknowledged. On file, for at most a day. |
//! | its consumer `workers` | Explicit acknowledgement; `max_ack_pending` bounds the calls in flight over all workers. |
//! | stream `opencharacter-HASH-answers`, subjects `opencharacter.HASH.answer.KEY` | Accepted answers (and final failures) as JSON. On file, for at most a week. |
//! | subject `opencharacter.HASH.accepted.KEY` | Each accepted answer once more, from the server, for those who wait now. |
//! | subject `opencharacter.HASH.wanted` | A worker's question: does anybody wait for KEY? |
//! | subject `opencharacter.HASH.dropped` | A coordinator's remark: I no longer wait for KEY. |
//!
//! **Both streams are only ever created into**: each message says that its subject must be empty
//! (`Nats-Expected-Last-Subject-Sequence: 0`), and the server decides. So a call is in the queue once, however often it
//! is offered, and of two answers to one call only the first is accepted. (The deduplication window of message ids
//! would forget after minutes.)
//!
//! # A call's way
//!
//! 1. The coordinator looks among the accepted answers, and puts the call into the queue if there is none. It looks
//!    and offers again after 5 to 30 s and after each reconnection, for as long as it waits: whatever got lost on the
//!    way (a notice, an item, the server's disk) is found or made again.
//! 2. A worker is given the call and asks whether it is still **wanted**, and whether it has an answer. Only a yes and a
//!    no begin the call.
//! 3. While the call runs, the worker reports progress three times per `ack_wait`; when it falls silent, the call goes
//!    to another.
//! 4. The answer is created among the accepted ones, for as long as that takes, and then the item is acknowledged.
//! 5. The coordinator hears of the answer, returns it, and removes it from the server after half a minute or more: by
//!    then its caller's ledger has it, and nobody is given the item any more. [`ClusterModel::close`] removes the rest.
//!
//! A refusal of this very request is final, and so is a call that failed while others are answered. A model that is not
//! available gives its calls back after a pause and takes none for a while; only the fifth delivery makes it final, and
//! stops the run, to be resumed. Workers count deliveries, not the server, which would leave the item where it is and
//! tell nobody. A failure is never an answer to a later call.
//!
//! # What survives what
//!
//! - **A worker dies**: its calls go to others after `ack_wait` (10 s).
//! - **The server dies**: calls under way go on, and answers wait in the workers; all reconnect within a second of its
//!   return. If it stays away for longer than `patience` (60 s), the coordinator's calls fail as unavailable.
//! - **The coordinator dies**: calls under way are finished, because they are all but paid for, and their answers kept
//!   for a week; calls not begun are not begun, because nobody wants them. Run again, it finds those answers and offers
//!   the rest.
//! - **The run is cancelled** ([`ClusterModel::close`]) or a call's future is dropped: no call begins any more, and those
//!   under way are dropped within a second, unless another coordinator wants them.
//!
//! In each case the calls made twice are at most those that were in flight.

mod answers;
mod errand;
mod error;
mod link;
mod model;
mod names;
mod options;
mod pending;
mod setup;
mod status;
mod wire;
mod worker;

pub use error::ClusterError;
pub use model::ClusterModel;
pub use options::ClusterOptions;
pub use status::WorkerStatus;
pub use worker::Worker;
