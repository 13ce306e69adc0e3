use std::time::Duration;

/// How a coordinator uses its cluster. The defaults suit calls of seconds to minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Calls in flight over the whole cluster, however many workers there are; calls that this coordinator waits for at
    /// a time.
    pub calls_in_flight: usize,
    /// How long a worker may be silent before its calls are given to others. Workers report three times as often.
    pub ack_wait: Duration,
    /// How long the server may be away before calls fail and the run stops, to be resumed.
    pub patience: Duration,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { calls_in_flight: 1024, ack_wait: Duration::from_secs(10), patience: Duration::from_mins(1) }
    }
}

impl ClusterOptions {
    /// How long an answer stays on the server after it was returned. Long enough for the caller's ledger to have it,
    /// and for a worker that is given the call once more to find it.
    pub(crate) fn forget_after(&self) -> Duration {
        (self.ack_wait * 3).max(Duration::from_secs(30))
    }
}
