//! Who waits for what.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

use crate::wire::{Reply, WorkKey};

/// An accepted reply, and its place in the stream of answers.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) sequence: u64,
    pub(crate) reply: Reply,
}

/// The calls that a coordinator waits for: as many as are under way.
#[derive(Default)]
pub(crate) struct Pending {
    waiting: Mutex<HashMap<WorkKey, watch::Sender<Option<Arc<Answer>>>>>,
    dropped: Mutex<Vec<WorkKey>>,
    has_dropped: Notify,
}

impl Pending {
    /// Registers a wait; it ends when the guard is dropped. Two for the same call share its answer.
    pub(crate) fn wait_for(&self, key: WorkKey) -> Waiting<'_> {
        let receiver = lock(&self.waiting).entry(key.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        Waiting { pending: self, key, receiver: Some(receiver) }
    }

    /// Whether anybody waits for `key`.
    pub(crate) fn wants(&self, key: &WorkKey) -> bool {
        lock(&self.waiting).contains_key(key)
    }

    /// Hands an answer to all who wait for it.
    pub(crate) fn deliver(&self, key: &WorkKey, answer: Answer) {
        if let Some(sender) = lock(&self.waiting).remove(key) {
            sender.send_replace(Some(Arc::new(answer)));
        }
    }

    /// Waits until somebody has stopped waiting for a call that has no answer.
    pub(crate) async fn some_dropped(&self) {
        self.has_dropped.notified().await;
    }

    /// The calls that nobody waits for any more, each told once.
    pub(crate) fn take_dropped(&self) -> Vec<WorkKey> {
        mem::take(&mut *lock(&self.dropped))
    }

    /// Gives up on all calls.
    pub(crate) fn drop_all(&self) {
        let keys: Vec<WorkKey> = lock(&self.waiting).drain().map(|(key, _)| key).collect();
        lock(&self.dropped).extend(keys);
        self.has_dropped.notify_one();
    }
}

/// A wait for one call's answer.
pub(crate) struct Waiting<'a> {
    pending: &'a Pending,
    key: WorkKey,
    receiver: Option<watch::Receiver<Option<Arc<Answer>>>>,
}

impl Waiting<'_> {
    /// The answer; `None` when all waits were given up.
    pub(crate) async fn answer(&mut self) -> Option<Arc<Answer>> {
        let receiver = self.receiver.as_mut()?;
        receiver.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.receiver = None;
        let mut waiting = lock(&self.pending.waiting);
        // An answered call has left the map, and an entry with receivers is another's wait for the same call.
        if waiting.get(&self.key).is_some_and(|sender| sender.receiver_count() == 0) {
            waiting.remove(&self.key);
            lock(&self.pending.dropped).push(self.key.clone());
            self.pending.has_dropped.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one insertion or removal: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use opencharacter_core::Score;

    use super::*;

    fn answer() -> Answer {
        Answer { sequence: 7, reply: Reply::Score(Score { tokens: 1, log_prob: -1.0, prompt_tokens: 2 }) }
    }

    fn key(text: &str) -> WorkKey {
        WorkKey::from(text.to_owned())
    }

    #[tokio::test]
    async fn all_who_wait_get_the_answer_and_nothing_is_kept() {
        let pending = Pending::default();
        let (mut first, mut second) = (pending.wait_for(key("a")), pending.wait_for(key("a")));
        assert!(pending.wants(&key("a")) && !pending.wants(&key("b")));
        pending.deliver(&key("b"), answer());
        pending.deliver(&key("a"), answer());
        assert_eq!(first.answer().await.as_deref(), Some(&answer()));
        assert_eq!(second.answer().await.as_deref(), Some(&answer()));
        assert!(!pending.wants(&key("a")));
        // A later wait for the same call is another one, which the end of the earlier ones does not end.
        let _later = pending.wait_for(key("a"));
        drop((first, second));
        assert!(pending.wants(&key("a")));
        assert!(pending.take_dropped().is_empty());
    }

    #[tokio::test]
    async fn a_call_is_dropped_with_its_last_wait() {
        let pending = Pending::default();
        let (first, second) = (pending.wait_for(key("a")), pending.wait_for(key("a")));
        drop(first);
        assert!(pending.wants(&key("a")) && pending.take_dropped().is_empty());
        drop(second);
        pending.some_dropped().await;
        assert!(!pending.wants(&key("a")));
        assert_eq!(pending.take_dropped(), [key("a")]);

        let mut third = pending.wait_for(key("b"));
        pending.drop_all();
        assert_eq!(third.answer().await, None);
        drop(third);
        assert_eq!(pending.take_dropped(), [key("b")]);
    }
}
