use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// A circuit breaker for one model: when nobody gets an answer, one call in a while asks and the others wait; when that
/// goes on for too long, all are told that the model is gone.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: Mutex<State>,
    down_after: Duration,
    /// Why the model is gone, while it is: those who wait for something else are woken by it.
    gone: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    /// Since the last answer.
    failures: usize,
    /// The first failure since the last answer.
    failing_since: Option<Instant>,
    /// When the next probe may go, while the breaker is open.
    probe_at: Option<Instant>,
    probes: u32,
    last_reason: String,
}

/// What a call may do.
#[derive(Debug, PartialEq)]
pub(crate) enum Gate {
    /// Ask.
    Go,
    /// The model is gone, and why.
    Gone(String),
}

/// So many failures in a row, without an answer between, open the breaker.
const TOLERATED: usize = 20;
/// So many without an answer for long enough, and the model is gone: one call's own tries come to that.
const HOPELESS: usize = 5;
const FIRST_PROBE: Duration = Duration::from_secs(2);
const LAST_PROBE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

impl Breaker {
    pub(crate) fn new(down_after: Duration) -> Self {
        Self { state: Mutex::default(), down_after, gone: watch::Sender::new(None) }
    }

    /// Waits while the breaker is open, unless it is this call's turn to probe.
    pub(crate) async fn pass(&self) -> Gate {
        loop {
            match self.look(Instant::now()) {
                Some(gate) => return gate,
                None => sleep(LOOK).await,
            }
        }
    }

    /// Ends when the model is gone, with the reason; else never.
    pub(crate) async fn gone(&self) -> String {
        let mut gone = self.gone.subscribe();
        // The sender is never dropped before its breaker.
        let reason = gone.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    fn look(&self, now: Instant) -> Option<Gate> {
        let mut state = self.state();
        let Some(probe_at) = state.probe_at else { return Some(Gate::Go) };
        if now < probe_at {
            // Who is gone is asked again now and then: it may come back while this program runs.
            return self.is_gone(&state, now).then(|| Gate::Gone(state.last_reason.clone()));
        }
        // The turn passes to this call; the next one waits longer.
        state.probes += 1;
        state.probe_at = Some(now + (FIRST_PROBE * 2_u32.saturating_pow(state.probes)).min(LAST_PROBE));
        Some(Gate::Go)
    }

    fn is_gone(&self, state: &State, now: Instant) -> bool {
        state.failures >= HOPELESS && state.failing_since.is_some_and(|since| now - since >= self.down_after)
    }

    /// An answer came.
    pub(crate) fn answered(&self) {
        let mut state = self.state();
        if state.failures > 0 {
            *state = State::default();
            self.gone.send_if_modified(|gone| gone.take().is_some());
        }
    }

    /// A try failed; true when this opened the breaker.
    pub(crate) fn failed(&self, reason: &str) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        state.failures += 1;
        state.failing_since.get_or_insert(now);
        reason.clone_into(&mut state.last_reason);
        let opens = state.failures >= TOLERATED && state.probe_at.is_none();
        if opens {
            state.probe_at = Some(now + FIRST_PROBE);
        }
        if self.is_gone(&state, now) {
            state.probe_at.get_or_insert(now + FIRST_PROBE);
            self.gone.send_replace(Some(reason.to_owned()));
        }
        opens
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_probes_and_gives_up() {
        let breaker = Breaker::new(Duration::from_mins(1));
        let opened: Vec<bool> = (0..TOLERATED).map(|_| breaker.failed("connection refused")).collect();
        assert!(opened[TOLERATED - 1] && !opened[..TOLERATED - 1].contains(&true));
        // Nobody passes at once; after a while one does, and only one.
        let before = Instant::now();
        assert_eq!(breaker.pass().await, Gate::Go);
        assert!(before.elapsed() >= FIRST_PROBE);
        assert_eq!(breaker.look(Instant::now()), None);
        breaker.answered();
        assert_eq!(breaker.look(Instant::now()), Some(Gate::Go));
        for _ in 0..TOLERATED {
            breaker.failed("connection refused");
        }
        assert!(tokio::time::timeout(Duration::from_secs(1), breaker.gone()).await.is_err());
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(breaker.look(Instant::now()), Some(Gate::Go), "a probe is due");
        breaker.failed("connection refused");
        assert_eq!(breaker.look(Instant::now()), Some(Gate::Gone("connection refused".into())));
        assert_eq!(breaker.gone().await, "connection refused");
        breaker.answered();
        assert_eq!(breaker.look(Instant::now()), Some(Gate::Go));
        assert!(tokio::time::timeout(Duration::from_secs(1), breaker.gone()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn few_failures_open_nothing_and_an_answer_forgets_them() {
        let breaker = Breaker::new(Duration::from_mins(1));
        for _ in 0..100 {
            for _ in 1..TOLERATED {
                assert!(!breaker.failed("HTTP 500"));
            }
            breaker.answered();
            tokio::time::advance(Duration::from_secs(30)).await;
        }
        assert_eq!(breaker.look(Instant::now()), Some(Gate::Go));
    }
}
