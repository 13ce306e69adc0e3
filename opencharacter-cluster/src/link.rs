//! The connection to the server, which mends itself, and the one write that everything rests on: create, never replace.

use std::time::Duration;

use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{
        self,
        context::PublishErrorKind,
        message::PublishMessage,
        stream::{DirectGetErrorKind, Stream},
    },
};
use opencharacter_core::without_credentials;
use tokio::{sync::watch, time::timeout};

use crate::ClusterError;

/// How long one exchange with the server may take; longer, and it is tried again.
const EXCHANGE: Duration = Duration::from_secs(5);
/// A server that vanished without closing the connection is missed after two of these.
const PING: Duration = Duration::from_secs(10);
/// Room for a message's headers within the server's limit on its size.
const HEADERS: usize = 1024;

/// A connection that reconnects by itself for as long as it takes.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
    /// Whether the server is there, as far as is known.
    pub(crate) connected: watch::Receiver<bool>,
    /// The address as it may be shown.
    pub(crate) url: String,
}

/// What came of creating a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Created {
    /// It is the only one on its subject.
    First,
    /// Its subject had one; that one stays.
    Already,
}

impl Link {
    /// Connects to `url`; `role` is what the server's own monitoring shows.
    pub(crate) async fn connect(url: &str, role: &str) -> Result<Self, ClusterError> {
        let (heard, mut connected) = watch::channel(false);
        let options = ConnectOptions::new()
            .name(role)
            .ping_interval(PING)
            .reconnect_delay_callback(|attempts| Duration::from_millis(100).saturating_mul(attempts.min(10) as u32))
            .event_callback(move |event| {
                if matches!(event, Event::Connected | Event::Disconnected) {
                    heard.send_replace(event == Event::Connected);
                }
                async {}
            });
        let url_shown = shown(url);
        let client = options
            .connect(url)
            .await
            .map_err(|error| ClusterError::Connect { url: url_shown.clone(), reason: described(&error) })?;
        let jetstream = jetstream::new(client.clone());
        // The connection just made is no news to those who watch.
        let _ = timeout(EXCHANGE, connected.wait_for(|connected| *connected)).await;
        Ok(Self { client, jetstream, connected, url: url_shown })
    }

    /// Whether the server is there, as far as is known.
    pub(crate) fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Whether a message with a payload of so many bytes fits; the server's limit if not.
    pub(crate) fn fits(&self, bytes: usize) -> Result<(), usize> {
        let limit = self.client.max_payload();
        if bytes.saturating_add(HEADERS) <= limit { Ok(()) } else { Err(limit) }
    }

    /// Stores a message on a subject that has none. When this returns, the server has it on disk or had one before.
    pub(crate) async fn create(&self, subject: String, payload: Vec<u8>) -> Result<Created, String> {
        let message = PublishMessage::build().payload(payload.into()).expected_last_subject_sequence(0);
        let published = bounded(async {
            match self.jetstream.send_publish(subject, message).await {
                Ok(acknowledgement) => acknowledgement.await,
                Err(error) => Err(error),
            }
        })
        .await?;
        match published {
            Ok(_) => Ok(Created::First),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(Created::Already),
            Err(error) => Err(described(&error)),
        }
    }

    /// The message on a subject of a stream: its place and payload.
    pub(crate) async fn read(&self, stream: &Stream<()>, subject: String) -> Result<Option<(u64, Vec<u8>)>, String> {
        match bounded(stream.direct_get_last_for_subject(subject)).await? {
            Ok(message) => Ok(Some((message.sequence, message.payload.into()))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(described(&error)),
        }
    }

    /// A stream by name, which need not be there.
    pub(crate) async fn stream(&self, name: &str) -> Result<Stream<()>, ClusterError> {
        self.jetstream.get_stream_no_info(name).await.map_err(|error| self.unfit(&error))
    }

    pub(crate) fn unfit(&self, error: &dyn std::error::Error) -> ClusterError {
        ClusterError::Setup { url: self.url.clone(), reason: described(error) }
    }
}

/// Gives up on an exchange that takes too long; it may have taken effect.
pub(crate) async fn bounded<T>(exchange: impl Future<Output = T>) -> Result<T, String> {
    timeout(EXCHANGE, exchange).await.map_err(|_| format!("no answer from the server within {} s", EXCHANGE.as_secs()))
}

/// An error with its causes.
pub(crate) fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let source_text = source.to_string();
        // The client repeats its cause in its own message.
        if !text.contains(&source_text) {
            text = format!("{text}: {source_text}");
        }
        cause = source.source();
    }
    text
}

/// Addresses as they may be shown.
fn shown(urls: &str) -> String {
    urls.split(',').map(without_credentials).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn no_password_is_shown() {
        assert_eq!(shown("nats://me:se@cret@host:4222,tls://token@other"), "nats://host:4222,tls://other");
        assert_eq!(shown("me:secret@host"), "host");
        assert_eq!(shown("nats://host:4222"), "nats://host:4222");
    }
}
