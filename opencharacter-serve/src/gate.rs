//! How many answers may be under way.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// Lets so many in, and turns the others away at once: a queue without end only makes everybody wait for answers that
/// nobody wants any more. Those who are in wait for the model in its own order.
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    /// A place for one answer, given back when it is dropped.
    pub(crate) fn enter(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| ApiError::busy())
    }
}
