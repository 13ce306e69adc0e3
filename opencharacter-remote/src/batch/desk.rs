//! Where calls wait: gathers their requests into files and hands out the answers.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    backoff::Backoff,
    batch::{
        config::BatchConfig,
        outcome::Outcome,
        record::Record,
        request_line::{CustomId, RequestLine},
        run::{Ending, Job, Runner},
    },
    fault::Fault,
    quirks::LearnedQuirks,
};

/// A record stays so long after its last answer was handed out: until whoever got that has kept it.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// A queue that is full for so long is never going to have room.
const FULL_AT_MOST: Duration = Duration::from_hours(24);

/// What a call says to the desk.
#[derive(Debug)]
pub(crate) enum Letter {
    /// It wants an answer.
    Ask { line: RequestLine, reply: oneshot::Sender<Delivery> },
    /// It has taken the outcome that a batch brought.
    Taken { id: CustomId, batch: usize },
}

/// What a call gets.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) batch: usize,
    pub(crate) outcome: Outcome,
}

/// A request that somebody asked for, or that an earlier run submitted.
#[derive(Debug)]
struct Request {
    waiting: Vec<oneshot::Sender<Delivery>>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// In no batch yet.
    Gathered,
    /// In a batch that is not over.
    Batch(usize),
    /// Its outcome came, and nobody has taken it yet.
    Ready(usize, Outcome),
}

pub(crate) struct Desk {
    runner: Arc<Runner>,
    quirks: Arc<LearnedQuirks>,
    config: BatchConfig,
    requests: HashMap<CustomId, Request>,
    gathered: VecDeque<RequestLine>,
    gathered_bytes: usize,
    /// When the last one was added.
    gathered_at: Instant,
    /// Batches so far; the next one's number.
    batches: usize,
    /// Batches that nobody attends: from an earlier run, or given up on for now.
    dormant: HashMap<usize, Record>,
    running: FuturesUnordered<BoxFuture<'static, (usize, Ending)>>,
    /// Records of batches that are over, and how many of their outcomes nobody has taken.
    untaken: HashMap<usize, (Record, usize)>,
    /// Records to be removed, and when.
    leaving: VecDeque<(Instant, Record)>,
    /// Requests per batch: halved when the endpoint has no room, doubled by a batch that it took.
    limit: usize,
    full: Option<Full>,
}

/// The endpoint takes no more for now.
struct Full {
    since: Instant,
    until: Instant,
    pauses: Backoff,
}

impl Desk {
    /// `records` are those of earlier runs, the oldest first.
    pub(crate) fn new(
        runner: Arc<Runner>,
        quirks: Arc<LearnedQuirks>,
        config: BatchConfig,
        records: Vec<Record>,
    ) -> Self {
        let mut requests = HashMap::new();
        for (number, record) in records.iter().enumerate() {
            for id in &record.custom_ids {
                // The newest batch counts: the older one's outcome was of no use.
                requests.insert(id.clone(), Request { waiting: Vec::new(), place: Place::Batch(number) });
            }
        }
        Self {
            runner,
            quirks,
            requests,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            gathered_at: Instant::now(),
            batches: records.len(),
            dormant: records.into_iter().enumerate().collect(),
            running: FuturesUnordered::new(),
            untaken: HashMap::new(),
            leaving: VecDeque::new(),
            limit: config.max_requests,
            full: None,
            config,
        }
    }

    /// Works until nobody can ask any more.
    pub(crate) async fn work(mut self, mut letters: mpsc::UnboundedReceiver<Letter>) {
        loop {
            while let Some(job) = self.due_file() {
                self.start(self.batches, job);
                self.batches += 1;
            }
            self.remove_what_was_kept_long_enough();
            let alarm = self.alarm();
            tokio::select! {
                letter = letters.recv() => match letter {
                    None => return,
                    Some(Letter::Ask { line, reply }) => self.ask(line, reply),
                    Some(Letter::Taken { id, batch }) => self.taken(&id, batch),
                },
                Some((number, ending)) = self.running.next() => self.ended(number, ending),
                () = until(alarm) => {}
            }
        }
    }

    fn start(&mut self, number: usize, job: Job) {
        self.running.push(Box::pin(Arc::clone(&self.runner).run(number, job)));
    }

    fn ask(&mut self, line: RequestLine, reply: oneshot::Sender<Delivery>) {
        let Some(request) = self.requests.get_mut(&line.id) else {
            let request = Request { waiting: vec![reply], place: Place::Gathered };
            self.requests.insert(line.id.clone(), request);
            self.gathered_bytes += line.bytes.len();
            self.gathered_at = Instant::now();
            self.gathered.push_back(line);
            return;
        };
        match &request.place {
            Place::Ready(batch, outcome) => {
                // Who no longer waits loses nothing: the outcome stays until it is taken.
                let _ = reply.send(Delivery { batch: *batch, outcome: outcome.clone() });
            }
            Place::Gathered => request.waiting.push(reply),
            Place::Batch(number) => {
                request.waiting.push(reply);
                let number = *number;
                if let Some(record) = self.dormant.remove(&number) {
                    self.start(number, Job::Attend(record));
                }
            }
        }
    }

    fn taken(&mut self, id: &CustomId, batch: usize) {
        let ready = |request: &Request| matches!(request.place, Place::Ready(number, _) if number == batch);
        if !self.requests.get(id).is_some_and(ready) {
            return;
        }
        self.requests.remove(id);
        if let Some((_, count)) = self.untaken.get_mut(&batch) {
            *count -= 1;
        }
        self.let_go(batch);
    }

    /// Lets a record go whose outcomes were all taken.
    fn let_go(&mut self, batch: usize) {
        if self.untaken.get(&batch).is_some_and(|(_, count)| *count == 0)
            && let Some((record, _)) = self.untaken.remove(&batch)
        {
            self.leaving.push_back((Instant::now() + KEPT_FOR, record));
        }
    }

    fn remove_what_was_kept_long_enough(&mut self) {
        while let Some((_, record)) = self.leaving.pop_front_if(|(when, _)| *when <= Instant::now()) {
            self.runner.records.remove(&record);
        }
    }

    /// When there is something to do, even if nobody says anything.
    fn alarm(&self) -> Option<Instant> {
        let removal = self.leaving.front().map(|(when, _)| *when);
        // While the endpoint is full, the end of a batch says that it may have room.
        let waits_for_room = self.full.is_some() && !self.running.is_empty();
        let quiet = (!self.gathered.is_empty() && !waits_for_room).then(|| {
            let quiet = self.gathered_at + self.config.quiet;
            self.full.as_ref().map_or(quiet, |full| quiet.max(full.until))
        });
        removal.into_iter().chain(quiet).min()
    }

    /// The next file, when it is time for one.
    fn due_file(&mut self) -> Option<Job> {
        let now = Instant::now();
        if let Some(full) = &self.full
            && (now < full.until || !self.running.is_empty())
        {
            return None;
        }
        let due = self.gathered.len() >= self.limit
            || self.gathered_bytes >= self.config.max_bytes
            || self.gathered_at + self.config.quiet <= now;
        // What nobody waits for any more makes files shorter, and may leave none.
        while due && !self.gathered.is_empty() {
            let file = self.file();
            if file.is_some() {
                return file;
            }
        }
        None
    }

    fn file(&mut self) -> Option<Job> {
        let (mut ids, mut lines) = (Vec::new(), Vec::new());
        while ids.len() < self.limit {
            let fits = |line: &mut RequestLine| lines.len() + line.bytes.len() <= self.config.max_bytes;
            let Some(line) = self.gathered.pop_front_if(fits) else { break };
            self.gathered_bytes -= line.bytes.len();
            let Some(request) = self.requests.get_mut(&line.id) else { continue };
            request.waiting.retain(|reply| !reply.is_closed());
            if request.waiting.is_empty() {
                self.requests.remove(&line.id);
                continue;
            }
            request.place = Place::Batch(self.batches);
            lines.extend_from_slice(&line.bytes);
            ids.push(line.id);
        }
        let left_out = self.quirks.now().left_out().map(str::to_owned).collect();
        (!ids.is_empty()).then(|| Job::Submit { ids, lines: Bytes::from(lines), left_out })
    }

    fn ended(&mut self, number: usize, ending: Ending) {
        match ending {
            Ending::Over { record, mut outcomes } => {
                self.learn_room(&mut outcomes);
                let mut count = 0;
                for (id, outcome) in outcomes {
                    count += usize::from(self.settle(number, &id, outcome));
                }
                if !record.custom_ids.is_empty() {
                    self.untaken.insert(number, (record, count));
                    self.let_go(number);
                }
            }
            Ending::Unresolved { record, reason } => {
                for id in &record.custom_ids {
                    self.fail(number, id, &reason);
                }
                self.dormant.insert(number, record);
            }
            Ending::NotSubmitted { ids, reason } => {
                for id in &ids {
                    self.fail(number, id, &reason);
                    self.requests.remove(id);
                }
            }
        }
    }

    /// Gives those who wait what came; false where the request waits for a newer batch.
    fn settle(&mut self, number: usize, id: &CustomId, outcome: Outcome) -> bool {
        let Some(request) = self.requests.get_mut(id) else { return false };
        if !matches!(request.place, Place::Batch(batch) if batch == number) {
            return false;
        }
        for reply in request.waiting.drain(..) {
            let _ = reply.send(Delivery { batch: number, outcome: outcome.clone() });
        }
        request.place = Place::Ready(number, outcome);
        true
    }

    /// Tells those who wait that it makes no sense now; the request stays where it is.
    fn fail(&mut self, number: usize, id: &CustomId, reason: &str) {
        let Some(request) = self.requests.get_mut(id) else { return };
        if matches!(request.place, Place::Batch(batch) if batch == number) {
            for reply in request.waiting.drain(..) {
                let outcome = Outcome::Fault(Fault::Unusable(reason.to_owned()));
                let _ = reply.send(Delivery { batch: number, outcome });
            }
        }
    }

    /// Learns from a batch's end how much the endpoint takes at once.
    fn learn_room(&mut self, outcomes: &mut [(CustomId, Outcome)]) {
        if !outcomes.iter().any(|(_, outcome)| *outcome == Outcome::NotBegun) {
            self.limit = self.limit.saturating_mul(2).min(self.config.max_requests);
            self.full = None;
            return;
        }
        self.limit = (outcomes.len() / 2).clamp(1, self.limit);
        let now = Instant::now();
        let full = self.full.get_or_insert_with(|| {
            let pauses = Backoff::between(self.config.first_poll, self.config.longest_poll, 0);
            Full { since: now, until: now, pauses }
        });
        full.until = now + full.pauses.pause(None);
        if full.since.elapsed() > FULL_AT_MOST {
            let reason = "the endpoint has had no room for a batch for a day; wait for other batches to end, or ask \
                          the provider for a larger queue";
            for (_, outcome) in outcomes {
                *outcome = Outcome::Fault(Fault::Unusable(reason.into()));
            }
        }
    }
}

async fn until(alarm: Option<Instant>) {
    match alarm {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}
