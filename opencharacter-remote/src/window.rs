use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

/// How many calls an endpoint gets at once: learned, because few endpoints say what they bear.
///
/// Additive increase, multiplicative decrease as in TCP: until the first overload every answer adds a place (the window
/// doubles per round trip), afterwards a window's worth of answers adds one; an overload halves it, at most once per
/// round trip, since the calls already under way all tell the same news. It never falls below one place, so that
/// something always goes on.
#[derive(Debug)]
pub(crate) struct Window {
    places: Arc<Semaphore>,
    state: Mutex<State>,
    /// Calls under way and calls that wait.
    claims: AtomicUsize,
    most: usize,
}

#[derive(Debug)]
struct State {
    size: f64,
    /// Places that are to vanish when their calls come back.
    owed: usize,
    /// Still growing by one per answer.
    doubling: bool,
    /// No call starts before.
    paused_until: Option<Instant>,
    /// Calls that began before this know nothing new of an overload.
    reduced_at: Option<Instant>,
}

/// A call's place in a window.
pub(crate) struct Place {
    claim: Claim,
    permit: Option<OwnedSemaphorePermit>,
    began: Instant,
}

/// A call that is counted, for as long as it waits or is under way.
struct Claim(Arc<Window>);

impl Claim {
    fn new(window: &Arc<Window>) -> Self {
        window.claims.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(window))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.claims.fetch_sub(1, Ordering::Relaxed);
    }
}

/// About what a server with one GPU answers together.
const FIRST: usize = 64;

impl Window {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let size = FIRST.min(most);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(size)),
            state: Mutex::new(State {
                size: size as f64,
                owed: 0,
                doubling: true,
                paused_until: None,
                reduced_at: None,
            }),
            claims: AtomicUsize::new(0),
            most,
        })
    }

    /// Waits for a place. During a pause, the patient wait for its end, the others get no place and may ask elsewhere.
    pub(crate) async fn enter(self: &Arc<Self>, patient: bool) -> Option<Place> {
        let claim = Claim::new(self);
        // The semaphore is never closed.
        let permit = Arc::clone(&self.places).acquire_owned().await.ok();
        while let Some(until) = self.pause() {
            if !patient {
                return None;
            }
            sleep_until(until).await;
        }
        Some(Place { claim, permit, began: Instant::now() })
    }

    fn pause(&self) -> Option<Instant> {
        self.state().paused_until.filter(|until| *until > Instant::now())
    }

    /// Places now.
    pub(crate) fn size(&self) -> usize {
        self.state().size as usize
    }

    /// Calls per place, those that wait included, to choose between endpoints; infinite during a pause.
    pub(crate) fn load(&self) -> f64 {
        if self.is_paused() { f64::INFINITY } else { self.claims.load(Ordering::Relaxed) as f64 / self.state().size }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.pause().is_some()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self) {
        let mut state = self.state();
        let before = state.size as usize;
        state.size = (state.size + if state.doubling { 1.0 } else { 1.0 / state.size }).min(self.most as f64);
        let mut gained = state.size as usize - before;
        let kept = gained.min(state.owed);
        state.owed -= kept;
        gained -= kept;
        drop(state);
        self.places.add_permits(gained);
    }

    fn overloaded(&self, began: Instant, pause: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(pause) = pause {
            state.paused_until = state.paused_until.max(Some(now + pause));
        }
        if state.reduced_at.is_some_and(|at| began < at) {
            return;
        }
        state.reduced_at = Some(now);
        state.doubling = false;
        let before = state.size as usize;
        state.size = (state.size / 2.0).max(1.0);
        let mut lost = before - state.size as usize;
        // Places that nobody holds vanish now, the others when they come back.
        lost -= self.places.forget_permits(lost);
        state.owed += lost;
    }
}

impl Place {
    /// The endpoint answered.
    pub(crate) fn answered(self) {
        self.claim.0.answered();
    }

    /// The endpoint has too much to do; with `pause`, nobody asks again before it is over.
    pub(crate) fn overloaded(self, pause: Option<Duration>) {
        self.claim.0.overloaded(self.began, pause);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.claim.0.state();
        if state.owed > 0
            && let Some(permit) = self.permit.take()
        {
            state.owed -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn enter(window: &Arc<Window>, count: usize) -> Vec<Place> {
        let mut places = Vec::new();
        for _ in 0..count {
            places.push(window.enter(true).await.unwrap());
        }
        places
    }

    #[tokio::test(start_paused = true)]
    async fn it_grows_with_answers_and_halves_once_per_round_trip() {
        let window = Window::new(400);
        for expected in [128, 256, 400, 400] {
            let size = window.size();
            enter(&window, size).await.into_iter().for_each(Place::answered);
            assert_eq!(window.size(), expected);
        }
        let places = enter(&window, 400).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        for place in places {
            place.overloaded(None);
        }
        assert_eq!(window.size(), 200);
        // No more than that fit now, although twice as many places came back.
        let places = enter(&window, 200).await;
        assert!(tokio::time::timeout(Duration::from_secs(1), window.enter(true)).await.is_err());
        // From now on a whole window of answers adds one place.
        places.into_iter().for_each(Place::answered);
        assert!((200..=201).contains(&window.size()), "{}", window.size());
        for _ in 0..20 {
            tokio::time::advance(Duration::from_secs(1)).await;
            window.enter(true).await.unwrap().overloaded(None);
        }
        assert_eq!(window.size(), 1);
        assert_eq!(window.load(), 0.0);
        drop(window.enter(true).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_was_asked_for_is_kept() {
        let window = Window::new(4);
        window.enter(true).await.unwrap().overloaded(Some(Duration::from_secs(20)));
        assert_eq!(window.load(), f64::INFINITY);
        assert!(window.enter(false).await.is_none());
        let before = Instant::now();
        drop(window.enter(true).await.unwrap());
        assert!(before.elapsed() >= Duration::from_secs(20));
    }
}
