//! What is said when there is nothing to join.

use opencharacter_cluster::{ClusterError, ClusterModel, ClusterOptions, Worker};

use crate::support::server::Server;

#[tokio::test]
async fn an_address_without_a_server_is_named_with_the_remedy() {
    for url in ["nats://me:secret@127.0.0.1:9", "http://127.0.0.1:9", "nats://"] {
        let failed = ClusterModel::connect(url, "mock", ClusterOptions::default()).await.err();
        let message = failed.map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains("nats-server -js") && !message.contains("secret"), "{url}: {message}");
        assert!(matches!(Worker::connect(url).await, Err(ClusterError::Connect { .. })), "{url}");
    }
}

#[tokio::test]
async fn a_server_that_keeps_nothing_is_refused() {
    let server = Server::start_without_jetstream();
    let failed = ClusterModel::connect(&server.url(), "mock", ClusterOptions::default()).await.err();
    assert!(matches!(failed, Some(ClusterError::Setup { .. })), "{failed:?}");
}
