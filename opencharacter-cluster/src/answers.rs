//! The accepted answers: at most one per call, whoever brings it first.

use async_nats::jetstream::stream::Stream;

use crate::{
    ClusterError,
    link::{Created, Link, bounded, described},
    names::Names,
    pending::Answer,
    wire::{Failure, Reply, WorkKey},
};

/// The stream of accepted answers of one model.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    link: Link,
    names: Names,
    stream: Stream<()>,
}

impl Answers {
    pub(crate) async fn of(link: &Link, names: &Names) -> Result<Self, ClusterError> {
        let stream = link.stream(&names.answers_stream()).await?;
        Ok(Self { link: link.clone(), names: names.clone(), stream })
    }

    /// Accepts a reply, unless one was accepted before.
    pub(crate) async fn accept(&self, key: &WorkKey, reply: &Reply) -> Result<Created, String> {
        let payload = serde_json::to_vec(reply).map_err(|error| error.to_string())?;
        let payload = match self.link.fits(payload.len()) {
            Ok(()) => payload,
            Err(limit) => serde_json::to_vec(&Reply::Failure(too_large("answer", payload.len(), limit)))
                .map_err(|error| error.to_string())?,
        };
        self.link.create(self.names.answer(key.as_str()), payload).await
    }

    /// The accepted reply.
    pub(crate) async fn look(&self, key: &WorkKey) -> Result<Option<Answer>, String> {
        let found = self.link.read(&self.stream, self.names.answer(key.as_str())).await?;
        Ok(found.map(|(sequence, payload)| Answer { sequence, reply: read(&payload) }))
    }

    /// Removes an accepted reply that nobody needs any more; its key can be accepted again.
    pub(crate) async fn forget(&self, sequence: u64) -> Result<(), String> {
        match bounded(self.stream.delete_message(sequence)).await? {
            Ok(_) => Ok(()),
            // Another coordinator forgot it, or it was too old.
            Err(error) if error.to_string().contains("no message found") => Ok(()),
            Err(error) => Err(described(&error)),
        }
    }
}

/// A reply as it was sent. What cannot be read fails its call and no other.
pub(crate) fn read(payload: &[u8]) -> Reply {
    serde_json::from_slice(payload).unwrap_or_else(|error| {
        let reason = format!("its answer is not as this version writes it ({error}): use one version everywhere");
        Reply::Failure(Failure::Failed { model: "cluster".into(), reason })
    })
}

/// The refusal of something that the server does not take.
pub(crate) fn too_large(what: &str, bytes: usize, limit: usize) -> Failure {
    Failure::Refused {
        reason: format!(
            "the {what} has {bytes} bytes and the cluster's server takes {limit}: shorten it, or raise `max_payload` \
             in the server's configuration"
        ),
    }
}
