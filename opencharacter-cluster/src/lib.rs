//! Generate over NATS JetStream.
