/// Why a cluster cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No NATS server answers.
    #[error(
        "the cluster's server `{url}` cannot be reached: {reason}. Start one with `nats-server -js -sd DIR`, or give its address as `nats://HOST:4222`"
    )]
    Connect {
        /// The address, without user and password.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The server answers, but does not keep what it is given.
    #[error(
        "the server `{url}` cannot hold the cluster's work: {reason}. It needs JetStream and room on disk: `nats-server -js -sd DIR`"
    )]
    Setup {
        /// The address, without user and password.
        url: String,
        /// What the server said.
        reason: String,
    },
}
