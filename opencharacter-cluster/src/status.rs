use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a worker has done since it began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Calls under way.
    pub under_way: usize,
    /// Answers accepted.
    pub answered: usize,
    /// Calls that came to nothing and were recorded so.
    pub failed: usize,
    /// Answers given up because one was there: another worker's, or its own whose acceptance it did not hear of.
    pub superseded: usize,
    /// Calls stopped or not begun because nobody waits for them.
    pub dropped: usize,
    /// What keeps it from working, for as long as it does.
    pub trouble: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Status(Mutex<WorkerStatus>);

impl Status {
    pub(crate) fn snapshot(&self) -> WorkerStatus {
        self.lock().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut WorkerStatus)) {
        change(&mut self.lock());
    }

    pub(crate) fn trouble(&self, reason: String) {
        self.update(|status| status.trouble = Some(reason));
    }

    pub(crate) fn well(&self) {
        self.update(|status| status.trouble = None);
    }

    fn lock(&self) -> MutexGuard<'_, WorkerStatus> {
        // Figures for display: whatever a panic left is good enough.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
