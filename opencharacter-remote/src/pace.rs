use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::header::HeaderMap;
use tokio::time::{Instant, sleep};

/// How many requests and tokens an endpoint gets per minute: stated in its replies' headers, or learned.
///
/// A window of calls at once does not hold back a fast endpoint with a small allowance per minute: a single place can
/// send hundreds of requests a minute. Two allowances are kept, requests and tokens. Where a reply states its limit
/// (`x-ratelimit-limit-requests`, `-tokens`), that is the rate. Otherwise, when a good part ([`MANY`]) of what was sent of
/// late was refused, the rate of requests becomes [`KEPT`] of what was not, and from then on it grows by [`GAIN`] of it per second
/// until the next time: additive increase, multiplicative decrease. Fewer refusals are the window's business.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: Allowance,
    tokens: Allowance,
    /// When the requests of the last [`OBSERVED`] were sent.
    sent: VecDeque<Instant>,
    /// When those of them that were refused came back.
    refused: VecDeque<Instant>,
    /// The last decrease: what was sent before it tells nothing new.
    decreased_at: Option<Instant>,
    /// Mean of tokens per answered request, prompt and answer.
    tokens_per_request: f64,
}

/// A bucket that fills at a rate and never holds more than [`BURST`] of it.
#[derive(Debug, Default)]
struct Allowance {
    /// Per second; none is known while nothing limits.
    rate: Option<Rate>,
    level: f64,
    filled_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Rate {
    /// As the endpoint says.
    Stated(f64),
    /// After an overload, growing since.
    Learned { start: f64, since: Instant },
}

impl Rate {
    fn at(self, now: Instant) -> f64 {
        match self {
            Self::Stated(rate) => rate,
            Self::Learned { start, since } => start * (1.0 + GAIN * now.duration_since(since).as_secs_f64()),
        }
    }
}

/// What of the answered rate is kept after an overload.
const KEPT: f64 = 0.8;
/// What it grows by, per second.
const GAIN: f64 = 0.1;
/// The share of refused requests that speaks of a rate.
const MANY: f64 = 0.2;
/// A rate is measured over so long.
const OBSERVED: Duration = Duration::from_secs(5);
/// Seconds of a rate that may be sent at once after a rest.
const BURST: f64 = 1.0;
/// A learned rate that has grown to so much of where it began has not been limiting anything.
const FORGOTTEN: f64 = 4.0;
/// More are not remembered: above this rate no allowance per minute is at work.
const MOST_SENT: usize = 4096;

impl Allowance {
    fn fill(&mut self, now: Instant) -> Option<f64> {
        let rate = self.rate?.at(now);
        let most = (rate * BURST).max(1.0);
        let passed = self.filled_at.map_or(BURST, |at| now.duration_since(at).as_secs_f64());
        self.level = (self.level + rate * passed).min(most);
        self.filled_at = Some(now);
        Some(rate)
    }

    /// How long until the bucket is no longer in debt; nothing when `cost` was taken.
    ///
    /// A request may be larger than the bucket: it goes when the bucket is full, and those after it pay off the debt.
    fn wait(&mut self, cost: f64, now: Instant) -> Option<Duration> {
        let rate = self.fill(now)?;
        let needed = cost.min((rate * BURST).max(1.0));
        (self.level < needed).then(|| Duration::from_secs_f64(((needed - self.level) / rate).clamp(0.001, 60.0)))
    }

    fn take(&mut self, cost: f64) {
        if self.rate.is_some() {
            self.level -= cost;
        }
    }
}

impl Pace {
    /// Waits until one more request may be sent, and counts it.
    pub(crate) async fn enter(&self) {
        while let Some(wait) = self.try_enter(Instant::now()) {
            sleep(wait).await;
        }
    }

    fn try_enter(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        let state = &mut *state;
        let tokens = state.tokens_per_request;
        let wait = state.requests.wait(1.0, now).max(state.tokens.wait(tokens, now));
        if wait.is_some() {
            return wait;
        }
        state.requests.take(1.0);
        state.tokens.take(tokens);
        if state.sent.len() == MOST_SENT {
            state.sent.pop_front();
        }
        state.sent.push_back(now);
        None
    }

    /// Learns from an answer of so many tokens.
    pub(crate) fn answered(&self, tokens: usize) {
        let mut state = self.state();
        let mean = state.tokens_per_request;
        state.tokens_per_request = if mean == 0.0 { tokens as f64 } else { mean + (tokens as f64 - mean) / 32.0 };
        let outgrown = match state.requests.rate {
            Some(Rate::Learned { start, since }) => {
                Rate::Learned { start, since }.at(Instant::now()) > FORGOTTEN * start
            }
            _ => false,
        };
        if outgrown {
            state.requests.rate = None;
        }
    }

    /// Learns from the headers of any reply.
    pub(crate) fn heard(&self, headers: &HeaderMap) {
        let per_minute = |name: &str| {
            let stated = headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok()?;
            (stated >= 1.0).then_some(Rate::Stated(stated / 60.0))
        };
        let requests = per_minute("x-ratelimit-limit-requests");
        let tokens = per_minute("x-ratelimit-limit-tokens");
        if requests.is_none() && tokens.is_none() {
            return;
        }
        let mut state = self.state();
        state.requests.rate = requests.or(state.requests.rate);
        state.tokens.rate = tokens.or(state.tokens.rate);
    }

    /// Learns from an overload.
    pub(crate) fn overloaded(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let state = &mut *state;
        state.refused.push_back(now);
        for times in [&mut state.sent, &mut state.refused] {
            while times.len() > MOST_SENT || times.front().is_some_and(|at| now.duration_since(*at) > OBSERVED) {
                times.pop_front();
            }
        }
        if state.decreased_at.is_some_and(|at| now.duration_since(at) < OBSERVED)
            || matches!(state.requests.rate, Some(Rate::Stated(_)))
        {
            return;
        }
        let many = state.refused.len() as f64 >= MANY * state.sent.len() as f64;
        // Too few tell nothing of a rate; so many at once are no matter of minutes.
        let Some(first) = state.sent.front().filter(|_| many && (8..MOST_SENT).contains(&state.sent.len())) else {
            return;
        };
        let seconds = now.duration_since(*first).as_secs_f64().max(1.0);
        let answered = state.sent.len().saturating_sub(state.refused.len()).max(1);
        let start = KEPT * answered as f64 / seconds;
        state.requests.rate = Some(Rate::Learned { start, since: now });
        state.requests.level = 0.0;
        state.requests.filled_at = Some(now);
        state.decreased_at = Some(now);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent_in(pace: &Pace, duration: Duration) -> usize {
        let end = Instant::now() + duration;
        let mut count = 0;
        while Instant::now() < end {
            pace.enter().await;
            count += 1;
            // Two milliseconds per call: 500 a second where nothing limits.
            sleep(Duration::from_millis(2)).await;
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_reply_states_is_kept() {
        let pace = Pace::default();
        assert!(sent_in(&pace, Duration::from_secs(1)).await > 450, "nothing limits yet");
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-limit-requests", "600".parse().unwrap());
        headers.insert("x-ratelimit-limit-tokens", "60000".parse().unwrap());
        pace.heard(&headers);
        pace.answered(50);
        let count = sent_in(&pace, Duration::from_mins(1)).await;
        assert!((590..=612).contains(&count), "{count} requests of 600");
        // Answers that grow make tokens the tighter limit: 60,000 / 400 = 150.
        (0..1000).for_each(|_| pace.answered(400));
        let count = sent_in(&pace, Duration::from_mins(1)).await;
        assert!((140..=156).contains(&count), "{count} requests of 150");
    }

    /// An endpoint that takes 120 requests a minute and says nothing of it but 429.
    #[tokio::test(start_paused = true)]
    async fn a_silent_limit_is_found() {
        let pace = Pace::default();
        let (mut level, mut filled_at) = (2.0_f64, Instant::now());
        let (mut taken, mut refused) = (0, 0);
        let end = Instant::now() + Duration::from_mins(10);
        while Instant::now() < end {
            pace.enter().await;
            level = (level + 2.0 * filled_at.elapsed().as_secs_f64()).min(2.0);
            filled_at = Instant::now();
            if level >= 1.0 {
                level -= 1.0;
                taken += 1;
                pace.answered(10);
            } else {
                refused += 1;
                pace.overloaded();
                sleep(Duration::from_millis(500)).await;
            }
            sleep(Duration::from_millis(2)).await;
        }
        assert!(taken > 900, "{taken} of 1200 that were allowed");
        assert!(refused * 4 < taken, "{refused} refused, {taken} taken");
    }
}
