//! One call per key at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::CallKey;

type Gates = HashMap<CallKey, Arc<tokio::sync::Mutex<()>>>;

/// The calls under way.
#[derive(Default)]
pub(crate) struct Flights(Mutex<Gates>);

impl Flights {
    /// Waits until no other call with `key` is under way, and keeps others waiting until the guard is dropped.
    pub(crate) async fn fly(&self, key: CallKey) -> Flight<'_> {
        let gate = Arc::clone(self.gates().entry(key).or_default());
        let guard = Arc::clone(&gate).lock_owned().await;
        Flight { flights: self, key, _guard: guard }
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way.
pub(crate) struct Flight<'a> {
    flights: &'a Flights,
    key: CallKey,
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut gates = self.flights.gates();
        // Two holders, the map and this guard: nobody waits, so the entry can go.
        if gates.get(&self.key).is_some_and(|gate| Arc::strong_count(gate) <= 2) {
            gates.remove(&self.key);
        }
    }
}
