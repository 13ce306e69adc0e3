//! The thread beside a ledger: syncs once a second, seals full segments.

use std::{
    sync::{Arc, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{LedgerError, segments::Segments};

/// `fsync` costs milliseconds. A second is what a power cut, not a killed process, may lose.
const SYNC_EVERY: Duration = Duration::from_secs(1);

enum Work {
    Seal,
    Sync,
    Retire,
    Nothing,
}

/// Starts the thread; it ends when the ledger is closing and every segment is sealed.
pub(crate) fn start(segments: Arc<Segments>) -> Result<JoinHandle<()>, LedgerError> {
    let directory = segments.directory.clone();
    thread::Builder::new()
        .name("ledger".into())
        .spawn(move || keep(&segments))
        .map_err(|source| LedgerError::io(&directory, source))
}

fn keep(segments: &Segments) {
    loop {
        match next(segments) {
            Work::Seal => segments.seal_retired(),
            Work::Retire => segments.retire(),
            Work::Sync => {
                if let Err(error) = segments.sync() {
                    segments.state().trouble = Some(error);
                }
            }
            Work::Nothing => return,
        }
    }
}

/// Waits until there is something to do.
fn next(segments: &Segments) -> Work {
    let mut state = segments.state();
    loop {
        let now = Instant::now();
        if !state.retired.is_empty() {
            return Work::Seal;
        }
        if state.is_closing {
            return if state.active.is_some() { Work::Retire } else { Work::Nothing };
        }
        let sync = state.unsynced_since().map(|since| since + SYNC_EVERY);
        if sync.is_some_and(|due| due <= now) {
            return Work::Sync;
        }
        let seal = segments.limits.age.and_then(|age| state.active.as_ref().map(|active| active.created + age));
        if seal.is_some_and(|due| due <= now) {
            return Work::Retire;
        }
        state = match sync.into_iter().chain(seal).min() {
            None => segments.wait(state),
            Some(due) => {
                let waited = segments.changed.wait_timeout(state, due.saturating_duration_since(now));
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}
