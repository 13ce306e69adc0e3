//! One call's way through a worker: is it wanted, what is the answer, is it accepted, and only then acknowledged.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{
    client::{Request, RequestErrorKind},
    jetstream::{AckKind, Message},
};
use futures_util::future::join;
use opencharacter_core::Generate;
use tokio::{
    sync::Notify,
    time::{Interval, MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    answers::Answers,
    link::{Created, Link, described},
    names::{Names, key_of},
    status::Status,
    wire::{Call, Failure, Reply, WorkKey},
};

/// How often a call is given to a worker before it counts as failed.
const DELIVERIES: i64 = 5;
/// How long to wait for somebody who wants a call. It costs nothing but a place: whoever wants it offers it again.
const QUESTION: Duration = Duration::from_secs(2);
/// The same when a call under way is to be stopped, which shall take less than a second.
const QUICK_QUESTION: Duration = Duration::from_millis(500);
/// The pause after an exchange that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// The pause before a call is tried a second time; doubled with each delivery.
const RETRY: Duration = Duration::from_millis(500);

/// What a call means for its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The model did its part.
    Answered,
    /// There was nothing to do.
    Nothing,
    /// The model is not to be had at present.
    ModelGone,
}

/// The calls of one model at one worker.
pub(crate) struct Errands<'a> {
    link: &'a Link,
    names: Names,
    answers: Answers,
    model: &'a dyn Generate,
    status: &'a Status,
    ack_wait: Duration,
    under_way: Mutex<HashMap<WorkKey, Arc<Notify>>>,
}

impl<'a> Errands<'a> {
    pub(crate) fn new(
        link: &'a Link,
        names: Names,
        answers: Answers,
        model: &'a dyn Generate,
        status: &'a Status,
        ack_wait: Duration,
    ) -> Self {
        Self { link, names, answers, model, status, ack_wait, under_way: Mutex::default() }
    }

    /// A coordinator no longer waits for a call: if it is under way here, does another one?
    pub(crate) fn ask_again(&self, key: &[u8]) {
        let key = WorkKey::from(String::from_utf8_lossy(key).into_owned());
        if let Some(doubt) = self.under_way().get(&key) {
            doubt.notify_one();
        }
    }

    /// Does what a delivered call asks for.
    pub(crate) async fn run(&self, message: Message) -> Outcome {
        let key = key_of(&message.subject);
        // Delivered again while it is under way here: the first delivery's acknowledgement serves both.
        let Some(place) = self.place(&key) else { return Outcome::Nothing };
        match self.is_needed(&key).await {
            Ok(true) => {}
            Ok(false) => {
                self.status.update(|status| status.dropped += 1);
                self.tell(&message, AckKind::Ack).await;
                return Outcome::Nothing;
            }
            Err(reason) => {
                self.status.trouble(reason);
                self.tell(&message, AckKind::Nak(Some(PAUSE))).await;
                return Outcome::Nothing;
            }
        }
        let delivery = Delivery::of(message, self.ack_wait);
        self.status.update(|status| status.under_way += 1);
        let outcome = self.work(&key, delivery, &place.doubt).await;
        self.status.update(|status| status.under_way -= 1);
        outcome
    }

    async fn work(&self, key: &WorkKey, mut delivery: Delivery, doubt: &Notify) -> Outcome {
        let reply = if delivery.number > DELIVERIES {
            Reply::Failure(self.given_up())
        } else if let Some(reply) = self.reply(key, &mut delivery, doubt).await {
            reply
        } else {
            self.status.update(|status| status.dropped += 1);
            self.tell(&delivery.message, AckKind::Ack).await;
            return Outcome::Nothing;
        };
        let gone = matches!(&reply, Reply::Failure(failure) if failure.may_pass());
        if let Reply::Failure(Failure::Unavailable { reason, .. }) = &reply {
            self.status.trouble(format!("the model is not available: {reason}"));
        }
        if gone && delivery.number < DELIVERIES {
            let pause = RETRY * 2_u32.pow((delivery.number - 1).clamp(0, DELIVERIES) as u32);
            self.tell(&delivery.message, AckKind::Nak(Some(pause))).await;
        } else {
            self.hand_in(key, &reply, &mut delivery).await;
            self.tell(&delivery.message, AckKind::Ack).await;
        }
        if gone { Outcome::ModelGone } else { Outcome::Answered }
    }

    /// The model's reply, or nothing if all who wanted it have gone.
    async fn reply(&self, key: &WorkKey, delivery: &mut Delivery, doubt: &Notify) -> Option<Reply> {
        let call = match serde_json::from_slice::<Call>(&delivery.message.payload) {
            Ok(call) if call.key(self.model.fingerprint()) == *key => call,
            _ => {
                let reason = "the worker does not read the call as it was asked: use one version everywhere".into();
                return Some(Reply::Failure(Failure::Refused { reason }));
            }
        };
        let mut answer = pin!(call.answer_with(self.model));
        loop {
            tokio::select! {
                reply = &mut answer => return Some(reply),
                () = delivery.report() => self.tell(&delivery.message, AckKind::Progress).await,
                () = doubt.notified() => {
                    // An unclear answer stops nothing that is paid for.
                    if matches!(self.is_wanted(key, QUICK_QUESTION).await, Ok(false)) {
                        return None;
                    }
                }
            }
        }
    }

    /// Brings a reply to the server, for as long as it takes: it is paid for.
    async fn hand_in(&self, key: &WorkKey, reply: &Reply, delivery: &mut Delivery) {
        let mut connected = self.link.connected.clone();
        loop {
            connected.mark_unchanged();
            let accepted = tokio::select! {
                accepted = self.answers.accept(key, reply) => Some(accepted),
                Ok(()) = connected.changed() => None,
            };
            let accepted = match accepted {
                Some(accepted) => accepted,
                // What was sent over the connection before has no answer.
                None if self.link.is_connected() => continue,
                None => Err("the connection broke".to_owned()),
            };
            match accepted {
                Ok(created) => {
                    self.status.update(|status| match (created, reply) {
                        (Created::Already, _) => status.superseded += 1,
                        (Created::First, Reply::Failure(_)) => status.failed += 1,
                        (Created::First, _) => {
                            status.answered += 1;
                            status.trouble = None;
                        }
                    });
                    return;
                }
                Err(reason) => self.status.trouble(format!("an answer cannot be handed in yet: {reason}")),
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = delivery.report() => self.tell(&delivery.message, AckKind::Progress).await,
            }
        }
    }

    /// Whether a call is waited for and has no answer yet.
    async fn is_needed(&self, key: &WorkKey) -> Result<bool, String> {
        let (wanted, answer) = join(self.is_wanted(key, QUESTION), self.answers.look(key)).await;
        Ok(wanted? && answer?.is_none())
    }

    /// Whether a coordinator says within `patience` that it waits for a call.
    async fn is_wanted(&self, key: &WorkKey, patience: Duration) -> Result<bool, String> {
        let question = Request::new().payload(key.as_str().to_owned().into()).timeout(Some(patience));
        // The question's own limit does not count the time until it can be sent.
        let asked = timeout(patience * 2, self.link.client.send_request(self.names.wanted(), question)).await;
        match asked.map_err(|_| "the server is away".to_owned())? {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(false),
            Err(error) if error.kind() == RequestErrorKind::TimedOut && self.link.is_connected() => Ok(false),
            Err(error) => Err(described(&error)),
        }
    }

    async fn tell(&self, message: &Message, kind: AckKind) {
        // Unheard, the call is delivered again, and its answer found.
        let _ = timeout(PAUSE, message.ack_with(kind)).await;
    }

    fn given_up(&self) -> Failure {
        let reason = format!("it was given to workers {DELIVERIES} times, and none of them came back with an answer");
        Failure::Failed { model: self.model.fingerprint().to_owned(), reason }
    }

    fn place(&self, key: &WorkKey) -> Option<Place<'_>> {
        let mut under_way = self.under_way();
        if under_way.contains_key(key) {
            return None;
        }
        let doubt = Arc::new(Notify::new());
        under_way.insert(key.clone(), Arc::clone(&doubt));
        Some(Place { under_way: &self.under_way, key: key.clone(), doubt })
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, HashMap<WorkKey, Arc<Notify>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's entry among those under way.
struct Place<'a> {
    under_way: &'a Mutex<HashMap<WorkKey, Arc<Notify>>>,
    key: WorkKey,
    doubt: Arc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// A delivered call.
struct Delivery {
    message: Message,
    /// 1 for the first.
    number: i64,
    reports: Interval,
}

impl Delivery {
    fn of(message: Message, ack_wait: Duration) -> Self {
        let number = message.info().map_or(1, |info| info.delivered);
        let mut reports = interval((ack_wait / 3).max(Duration::from_millis(1)));
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is immediate, and the server knows.
        reports.reset();
        Self { message, number, reports }
    }

    /// Waits until it is time to report that the call is still under way.
    async fn report(&mut self) {
        self.reports.tick().await;
    }
}
