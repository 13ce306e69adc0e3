//! The coordinator's side: a model whose calls are answered by workers.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use opencharacter_core::{
    BoxFuture, Completion, Generate, GenerateError, GenerateRequest, Score, ScoreRequest, TextSink,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    ClusterError, ClusterOptions,
    answers::{Answers, read, too_large},
    link::Link,
    names::{Names, key_of},
    pending::{Answer, Pending},
    setup,
    wire::{Call, Failure, Reply, WorkKey},
};

/// How soon a call that is waited for is looked after again; doubled each time, up to [`LOOK_AGAIN_AT_MOST`].
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// The pause after an exchange that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// Removals of answers under way at once.
const FORGETTING: usize = 32;
/// How long [`ClusterModel::close`] may take.
const CLOSING: Duration = Duration::from_secs(5);

/// A model whose calls are answered by the workers of a cluster.
///
/// Only another [`Generate`]: ledger, checks, retries and order stay with the caller. Call [`close`](Self::close) at the
/// end and when the run is interrupted.
pub struct ClusterModel {
    fingerprint: String,
    options: ClusterOptions,
    coordinator: Arc<Coordinator>,
    closed: watch::Sender<bool>,
    /// Answers the workers' question whether a call is wanted.
    answering: Mutex<Option<JoinHandle<()>>>,
    background: Vec<JoinHandle<()>>,
}

struct Coordinator {
    link: Link,
    names: Names,
    answers: Answers,
    pending: Pending,
    /// Answers that the caller has, and since when; oldest first.
    handed_over: Mutex<VecDeque<(Instant, u64)>>,
    /// When the streams were last made.
    made: tokio::sync::Mutex<Instant>,
}

impl ClusterModel {
    /// Joins the cluster at `url` (`nats://HOST:4222`, `tls://`, several separated by commas) as coordinator of calls
    /// of the model with this fingerprint.
    ///
    /// # Errors
    /// [`ClusterError::Connect`] when no server answers, [`ClusterError::Setup`] when it has no JetStream.
    pub async fn connect(url: &str, fingerprint: &str, options: ClusterOptions) -> Result<Self, ClusterError> {
        let link = Link::connect(url, "opencharacter coordinator").await?;
        let names = Names::of(fingerprint);
        setup::ensure(&link, &names, &options).await?;
        let answers = Answers::of(&link, &names).await?;
        let coordinator = Arc::new(Coordinator {
            link,
            names,
            answers,
            pending: Pending::default(),
            handed_over: Mutex::default(),
            made: tokio::sync::Mutex::new(Instant::now()),
        });
        let accepted = coordinator.subscribe(coordinator.names.accepted()).await?;
        let wanted = coordinator.subscribe(coordinator.names.wanted()).await?;
        let background = vec![
            tokio::spawn(Arc::clone(&coordinator).receive(accepted)),
            tokio::spawn(Arc::clone(&coordinator).tell_dropped()),
            tokio::spawn(Arc::clone(&coordinator).forget_in_time(options.forget_after())),
        ];
        let answering = Mutex::new(Some(tokio::spawn(Arc::clone(&coordinator).say_what_is_wanted(wanted))));
        let closed = watch::Sender::new(false);
        Ok(Self { fingerprint: fingerprint.to_owned(), options, coordinator, closed, answering, background })
    }

    /// Ends the run's part in the cluster: calls that are still waited for are dropped, workers stop those under way,
    /// and answers that were returned are removed from the server. Later calls fail.
    ///
    /// Takes 5 s at most. What it cannot remove ages out.
    pub async fn close(&self) {
        self.closed.send_replace(true);
        let answering = self.answering.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(answering) = answering {
            // From now on the server itself tells a worker that nobody wants a call.
            answering.abort();
            let _ = answering.await;
        }
        let coordinator = &self.coordinator;
        let _ = timeout(CLOSING, async {
            coordinator.pending.drop_all();
            coordinator.send_dropped().await;
            coordinator.forget(coordinator.take_handed_over(Duration::ZERO)).await;
            let _ = coordinator.link.client.flush().await;
        })
        .await;
    }

    async fn ask(&self, call: &Call) -> Result<Reply, GenerateError> {
        let key = call.key(&self.fingerprint);
        let payload = serde_json::to_vec(call).map_err(|error| self.unavailable(&error.to_string()))?;
        if let Err(limit) = self.coordinator.link.fits(payload.len()) {
            return Err(too_large("call", payload.len(), limit).into());
        }
        let mut closed = self.closed.subscribe();
        let closing = async move {
            // An error is a sender that is gone, which this model keeps.
            let _ = closed.wait_for(|closed| *closed).await;
        };
        let mut waiting = self.coordinator.pending.wait_for(key.clone());
        let answer = tokio::select! {
            biased;
            () = closing => None,
            answer = waiting.answer() => answer,
            reason = self.look_after(&key, &payload) => return Err(self.unavailable(&reason)),
        };
        let answer = answer.ok_or_else(|| self.unavailable("the run was ended"))?;
        self.coordinator.hand_over(&answer);
        Ok(answer.reply.clone())
    }

    /// Sees to it that a call is in the queue or answered, again and again. Ends when the server has been away for too
    /// long, and says what was wrong.
    async fn look_after(&self, key: &WorkKey, payload: &[u8]) -> String {
        let coordinator = &self.coordinator;
        let mut connected = coordinator.link.connected.clone();
        let mut fresh = true;
        let mut pause = LOOK_AGAIN;
        let mut failing_since = None;
        loop {
            connected.mark_unchanged();
            let begun = Instant::now();
            let offered = tokio::select! {
                offered = coordinator.offer(key, payload, &mut fresh) => Some(offered),
                Ok(()) = connected.changed() => None,
            };
            let offered = match offered {
                Some(offered) => offered,
                // What was sent over the connection before has no answer.
                None if coordinator.link.is_connected() => continue,
                None => Err("the connection broke".to_owned()),
            };
            let rest = match offered {
                Ok(()) => {
                    failing_since = None;
                    let longer = (pause * 2).min(LOOK_AGAIN_AT_MOST);
                    mem::replace(&mut pause, longer)
                }
                Err(reason) => {
                    let since = *failing_since.get_or_insert(begun);
                    if since.elapsed() >= self.options.patience {
                        let seconds = self.options.patience.as_secs();
                        return format!(
                            "the cluster's server `{}` is lost for {seconds} s: {reason}",
                            coordinator.link.url
                        );
                    }
                    coordinator.make_again(&self.options).await;
                    PAUSE
                }
            };
            tokio::select! {
                () = sleep(rest) => {}
                Ok(()) = connected.changed() => pause = LOOK_AGAIN,
            }
        }
    }

    fn unavailable(&self, reason: &str) -> GenerateError {
        GenerateError::Unavailable { model: self.fingerprint.clone(), reason: reason.to_owned() }
    }

    fn unexpected(&self) -> GenerateError {
        let reason = "its answer is of another kind than the call".to_owned();
        GenerateError::Failed { model: self.fingerprint.clone(), reason }
    }
}

impl Coordinator {
    async fn subscribe(&self, subject: String) -> Result<async_nats::Subscriber, ClusterError> {
        self.link.client.subscribe(subject).await.map_err(|error| self.link.unfit(&error))
    }

    /// Delivers the call's answer if there is one, else puts the call into the queue unless it is there.
    async fn offer(&self, key: &WorkKey, payload: &[u8], fresh: &mut bool) -> Result<(), String> {
        match self.answers.look(key).await? {
            // Of an earlier wait, whose caller was told or is gone: a failure is never an answer to a new call.
            Some(Answer { sequence, reply: Reply::Failure(_) }) if *fresh => self.answers.forget(sequence).await?,
            Some(answer) => {
                self.pending.deliver(key, answer);
                return Ok(());
            }
            None => {}
        }
        *fresh = false;
        self.link.create(self.names.call(key.as_str()), payload.to_vec()).await.map(|_| ())
    }

    /// Makes streams that are gone, because the server lost its disk or another server took its place.
    async fn make_again(&self, options: &ClusterOptions) {
        if !self.link.is_connected() {
            return;
        }
        // One caller does it for all.
        let Ok(mut made) = self.made.try_lock() else { return };
        if made.elapsed() > PAUSE {
            // A failure shows again at the next exchange, which is counted.
            let _ = timeout(LOOK_AGAIN, setup::ensure(&self.link, &self.names, options)).await;
            *made = Instant::now();
        }
    }

    async fn receive(self: Arc<Self>, mut accepted: async_nats::Subscriber) {
        while let Some(message) = accepted.next().await {
            let key = key_of(&message.subject);
            if !self.pending.wants(&key) {
                continue;
            }
            let headers = message.headers.as_ref();
            let sequence = headers.and_then(|headers| headers.get("Nats-Sequence")?.as_str().parse().ok());
            // Without its place it could not be removed: the call finds it where it is stored.
            if let Some(sequence) = sequence {
                self.pending.deliver(&key, Answer { sequence, reply: read(&message.payload) });
            }
        }
    }

    /// Says yes to a worker that asks for a call which is waited for, and nothing to others: another coordinator may
    /// wait for theirs.
    async fn say_what_is_wanted(self: Arc<Self>, mut questions: async_nats::Subscriber) {
        while let Some(question) = questions.next().await {
            let key = String::from_utf8_lossy(&question.payload).into_owned();
            if let Some(reply) = question.reply.filter(|_| self.pending.wants(&WorkKey::from(key))) {
                // A worker that hears nothing asks again when the call is offered again.
                let _ = self.link.client.publish(reply, "yes".into()).await;
            }
        }
    }

    async fn tell_dropped(self: Arc<Self>) {
        loop {
            self.pending.some_dropped().await;
            self.send_dropped().await;
        }
    }

    async fn send_dropped(&self) {
        for key in self.pending.take_dropped() {
            // Lost, it costs the rest of a call under way; calls not begun are asked for before they begin.
            let _ = self.link.client.publish(self.names.dropped(), key.as_str().to_owned().into()).await;
        }
    }

    async fn forget_in_time(self: Arc<Self>, age: Duration) {
        let mut ticks = interval(age / 8);
        loop {
            ticks.tick().await;
            self.forget(self.take_handed_over(age)).await;
        }
    }

    async fn forget(&self, answers: Vec<u64>) {
        // What cannot be removed ages out.
        stream::iter(answers)
            .for_each_concurrent(FORGETTING, |sequence| async move {
                let _ = self.answers.forget(sequence).await;
            })
            .await;
    }

    fn hand_over(&self, answer: &Answer) {
        self.handed_over().push_back((Instant::now(), answer.sequence));
    }

    /// The answers that the caller has had for `age`.
    fn take_handed_over(&self, age: Duration) -> Vec<u64> {
        let mut handed_over = self.handed_over();
        let old = handed_over.partition_point(|(since, _)| since.elapsed() >= age);
        handed_over.drain(..old).map(|(_, sequence)| sequence).collect()
    }

    fn handed_over(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, u64)>> {
        self.handed_over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generate for ClusterModel {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn concurrency(&self) -> usize {
        self.options.calls_in_flight
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            match self.ask(&Call::Generate(request)).await? {
                Reply::Completion(completion) => Ok(completion),
                Reply::Failure(failure) => Err(failure.into()),
                Reply::Score(_) => Err(self.unexpected()),
            }
        })
    }

    fn stream(&self, request: GenerateRequest, mut sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            let completion = self.generate(request).await?;
            sink(&completion.text);
            Ok(completion)
        })
    }

    fn score(&self, request: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(async move {
            match self.ask(&Call::Score(request)).await? {
                Reply::Score(score) => Ok(score),
                Reply::Failure(failure) => Err(failure.into()),
                Reply::Completion(_) => Err(self.unexpected()),
            }
        })
    }
}

impl Drop for ClusterModel {
    fn drop(&mut self) {
        let answering = self.answering.get_mut().unwrap_or_else(PoisonError::into_inner);
        for task in self.background.iter().chain(answering.as_ref()) {
            task.abort();
        }
    }
}

impl Failure {
    /// Whether another worker, or this one later, may do better.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
