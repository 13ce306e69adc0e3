//! The worker's side: takes calls as long as its model has room for them.

use std::{pin::pin, time::Duration};

use async_nats::{
    Subscriber,
    jetstream::{
        Message,
        consumer::{Consumer, pull},
    },
};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream, FuturesUnordered, SelectAll},
};
use opencharacter_core::Generate;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    ClusterError,
    answers::Answers,
    errand::{Errands, Outcome},
    link::{Link, bounded, described},
    names::{CONSUMER, Names},
    status::{Status, WorkerStatus},
};

/// How long a request for calls stands at the server.
const REQUEST: Duration = Duration::from_secs(5);
/// How long to wait before asking again for something that is not there.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause of a worker whose model does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A worker of a cluster. It needs no disk and no configuration but its models.
pub struct Worker {
    link: Link,
    status: Status,
}

impl Worker {
    /// Joins the cluster at `url` (`nats://HOST:4222`, `tls://`, several separated by commas).
    ///
    /// # Errors
    /// [`ClusterError::Connect`] when no server answers.
    pub async fn connect(url: &str) -> Result<Self, ClusterError> {
        Ok(Self { link: Link::connect(url, "opencharacter worker").await?, status: Status::default() })
    }

    /// What it has done and what troubles it.
    pub fn status(&self) -> WorkerStatus {
        let mut status = self.status.snapshot();
        if !self.link.is_connected() {
            status.trouble = Some(format!("the cluster's server `{}` is away", self.link.url));
        }
        status
    }

    /// Answers calls of `model` until `stop` is ready; then finishes those under way, because they are paid for.
    ///
    /// Waits as long as there is no work, no run, no server. Several models can be served at the same time.
    ///
    /// # Errors
    /// [`ClusterError::Setup`] when the connection was closed for good.
    pub async fn run(&self, model: &dyn Generate, stop: impl Future<Output = ()>) -> Result<(), ClusterError> {
        let mut stop = pin!(stop);
        let names = Names::of(model.fingerprint());
        let dropped = self.link.client.subscribe(names.dropped()).await.map_err(|error| self.link.unfit(&error))?;
        let answers = Answers::of(&self.link, &names).await?;
        let consumer = tokio::select! {
            consumer = self.consumer(&names) => consumer,
            () = &mut stop => return Ok(()),
        };
        let ack_wait = consumer.cached_info().config.ack_wait;
        let errands = Errands::new(&self.link, names, answers, model, &self.status, ack_wait);
        Shift::new(self, &consumer, &errands, model.concurrency().max(1)).work(dropped, stop.as_mut()).await;
        Ok(())
    }

    /// The queue that a coordinator made; there is none before the first run of the model.
    async fn consumer(&self, names: &Names) -> Consumer<pull::Config> {
        loop {
            let found = bounded(self.link.jetstream.get_consumer_from_stream(CONSUMER, names.calls_stream())).await;
            match found.and_then(|consumer| consumer.map_err(|error| described(&error))) {
                Ok(consumer) => {
                    self.status.well();
                    return consumer;
                }
                Err(reason) => self.status.trouble(format!("no run has asked for this model yet ({reason})")),
            }
            sleep(PAUSE).await;
        }
    }
}

/// A request for calls, as what comes of it.
enum Pulled {
    Call(Box<Message>),
    /// The request has ended; so many places were not filled.
    Ended {
        unfilled: usize,
        trouble: Option<String>,
    },
}

/// The places of one model: each is free, reserved by a request for calls, or taken by a call.
struct Shift<'a> {
    worker: &'a Worker,
    consumer: &'a Consumer<pull::Config>,
    errands: &'a Errands<'a>,
    places: usize,
    reserved: usize,
    requests: SelectAll<BoxStream<'a, Pulled>>,
    /// No requests before this.
    resume: Instant,
    /// The next pause of a worker whose model does not answer.
    pause: Duration,
}

impl<'a> Shift<'a> {
    fn new(worker: &'a Worker, consumer: &'a Consumer<pull::Config>, errands: &'a Errands<'a>, places: usize) -> Self {
        let requests = SelectAll::new();
        Self { worker, consumer, errands, places, reserved: 0, requests, resume: Instant::now(), pause: PAUSE }
    }

    async fn work(mut self, mut dropped: Subscriber, mut stop: impl Future<Output = ()> + Unpin) {
        let mut calls = FuturesUnordered::new();
        let mut connected = self.worker.link.connected.clone();
        let mut stopping = false;
        loop {
            if !stopping {
                self.request(calls.len());
            } else if calls.is_empty() {
                return;
            }
            tokio::select! {
                () = &mut stop, if !stopping => {
                    stopping = true;
                    self.withdraw();
                }
                Some(pulled) = self.requests.next() => match pulled {
                    Pulled::Call(message) => {
                        self.reserved -= 1;
                        calls.push(self.errands.run(*message));
                    }
                    Pulled::Ended { unfilled, trouble } => self.ended(unfilled, trouble),
                },
                Some(outcome) = calls.next() => self.finished(outcome),
                Some(message) = dropped.next() => self.errands.ask_again(&message.payload),
                // Requests do not outlive the server that they stood at.
                Ok(()) = connected.changed() => self.withdraw(),
                () = sleep_until(self.resume), if self.resume > Instant::now() => {}
            }
        }
    }

    /// Asks for as many calls as there are free places, not for each place by itself.
    fn request(&mut self, taken: usize) {
        let free = self.places.saturating_sub(taken + self.reserved);
        let worthwhile = if self.reserved == 0 { 1 } else { self.places.div_ceil(4) };
        if free >= worthwhile && self.resume <= Instant::now() {
            self.reserved += free;
            self.requests.push(pulled(self.consumer, free));
        }
    }

    fn ended(&mut self, unfilled: usize, trouble: Option<String>) {
        self.reserved -= unfilled;
        if let Some(reason) = trouble {
            self.worker.status.trouble(reason);
            self.resume = Instant::now() + PAUSE;
        }
    }

    fn finished(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answered => self.pause = PAUSE,
            Outcome::Nothing => {}
            // Others shall have the calls: one that fails at once would take most of them.
            Outcome::ModelGone => {
                self.resume = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.withdraw();
            }
        }
    }

    fn withdraw(&mut self) {
        self.requests.clear();
        self.reserved = 0;
    }
}

/// Asks the server for up to `count` calls.
fn pulled(consumer: &Consumer<pull::Config>, count: usize) -> BoxStream<'_, Pulled> {
    enum State {
        New,
        Open(Box<pull::Batch>),
        Ended,
    }
    stream::unfold((State::New, count), move |(state, left)| async move {
        let ended = |trouble| Some((Pulled::Ended { unfilled: left, trouble }, (State::Ended, 0)));
        let mut batch = match state {
            State::Ended => return None,
            State::Open(batch) => batch,
            State::New => {
                let request = consumer.batch().max_messages(left).expires(REQUEST).messages();
                match bounded(request).await.and_then(|batch| batch.map_err(|error| described(&error))) {
                    Ok(batch) => Box::new(batch),
                    Err(reason) => return ended(Some(reason)),
                }
            }
        };
        match batch.next().await {
            Some(Ok(message)) => Some((Pulled::Call(Box::new(message)), (State::Open(batch), left - 1))),
            Some(Err(error)) => ended(Some(error.to_string())),
            None => ended(None),
        }
    })
    .boxed()
}
