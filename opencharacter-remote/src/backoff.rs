use std::time::Duration;

use opencharacter_core::KeyedRandom;

/// Growing pauses between the tries of one call, each drawn between half and the whole of its length so that calls that
/// failed together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    random: KeyedRandom,
    next: Duration,
    longest: Duration,
}

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

impl Backoff {
    /// `key` tells calls apart.
    pub(crate) fn new(key: u64) -> Self {
        Self::between(FIRST, LONGEST, key)
    }

    /// Pauses that begin with `first` and are never longer than `longest`.
    pub(crate) fn between(first: Duration, longest: Duration, key: u64) -> Self {
        Self { random: KeyedRandom::new(key, &["backoff"]), next: first.min(longest), longest }
    }

    /// How long to wait before the next try; at least `asked`, where the endpoint asked for a pause.
    pub(crate) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
        let drawn = whole.mul_f64(0.5 + 0.5 * self.random.uniform());
        // A little later than asked, and not all at that very moment.
        asked.map_or(drawn, |asked| asked + drawn.min(asked / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ_between_calls() {
        let pauses = |key| {
            let mut backoff = Backoff::new(key);
            (0..12).map(|_| backoff.pause(None)).collect::<Vec<_>>()
        };
        let (one, other) = (pauses(1), pauses(2));
        assert_ne!(one, other);
        for (place, pause) in one.iter().enumerate() {
            let whole = (FIRST * (1 << place.min(10))).min(LONGEST);
            assert!((whole / 2..=whole).contains(pause), "{place}: {pause:?}");
        }
        assert!(Backoff::new(1).pause(Some(Duration::from_secs(8))) >= Duration::from_secs(8));
    }
}
