//! One batch, from its file to its answers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::{
    backoff::Backoff,
    batch::{
        api::{Api, BatchObject, Status},
        outcome::{Outcome, outcomes},
        record::{Record, Records},
        request_line::CustomId,
    },
    fault::Fault,
    notice::{Notice, Notices},
};

/// The provider's clock may differ from ours by so many seconds.
const CLOCKS_DIFFER: u64 = 3600;

/// What every batch of a model needs.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) api: Api,
    pub(crate) records: Records,
    pub(crate) notices: Notices,
    pub(crate) first_poll: Duration,
    pub(crate) longest_poll: Duration,
    pub(crate) down_after: Duration,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Job {
    /// Submit a file.
    Submit { ids: Vec<CustomId>, lines: Bytes, left_out: Vec<String> },
    /// Wait for what was submitted, or about to be.
    Attend(Record),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The batch is over. The record holds the requests that were answered, and is gone where there are none.
    Over { record: Record, outcomes: Vec<(CustomId, Outcome)> },
    /// What the endpoint has of it cannot be known now; the record stays.
    Unresolved { record: Record, reason: String },
    /// There is no such batch.
    NotSubmitted { ids: Vec<CustomId>, reason: String },
}

/// Why a batch did not come to its end.
enum Stop {
    NotSubmitted(String),
    Unresolved(String),
}

impl Runner {
    /// Does a job; `number` tells jobs apart, and is given back.
    pub(crate) async fn run(self: Arc<Self>, number: usize, job: Job) -> (usize, Ending) {
        let (mut record, doubtful) = match job {
            Job::Submit { ids, lines, left_out } => match self.upload(lines, number).await {
                Ok(file_id) => (self.records.record(file_id, left_out, ids), false),
                Err(reason) => return (number, Ending::NotSubmitted { ids, reason }),
            },
            Job::Attend(record) => (record, true),
        };
        let ending = match self.attend(&mut record, doubtful, number).await {
            Ok((batch, found)) => self.over(record, &batch, found),
            Err(Stop::Unresolved(reason)) => Ending::Unresolved { record, reason },
            Err(Stop::NotSubmitted(reason)) => {
                self.records.remove(&record);
                Ending::NotSubmitted { ids: record.custom_ids, reason }
            }
        };
        (number, ending)
    }

    async fn upload(&self, lines: Bytes, number: usize) -> Result<String, String> {
        let mut patience = Patience::new(self, "uploading a batch's file", number);
        loop {
            match self.api.upload(lines.clone()).await {
                Ok(file_id) => return Ok(file_id),
                Err(fault) => patience.endure(&fault).await?,
            }
        }
    }

    /// The end of a record's batch and what its files say. `doubtful`: it may have been submitted.
    async fn attend(
        &self,
        record: &mut Record,
        doubtful: bool,
        number: usize,
    ) -> Result<(BatchObject, HashMap<CustomId, Outcome>), Stop> {
        let requests = record.custom_ids.len();
        let batch_id = if let Some(id) = &record.batch_id {
            self.notices.tell(Notice::BatchFound { batch: id.clone(), requests });
            id.clone()
        } else {
            // Written before the batch is made: whatever kills this process, the next one knows where to look.
            self.records.write(record).map_err(|error| {
                let path = self.records.path(record);
                Stop::NotSubmitted(format!(
                    "cannot write `{}`: {error}; free space or choose another folder. Nothing was submitted",
                    path.display()
                ))
            })?;
            let id = self.make(record, doubtful, number).await?;
            record.batch_id = Some(id.clone());
            // Without it, the batch is looked for by its file's id.
            let _ = self.records.write(record);
            self.notices.tell(Notice::BatchSubmitted { batch: id.clone(), requests });
            id
        };
        let unresolved = |reason: String| {
            let path = self.records.path(record);
            Stop::Unresolved(format!(
                "{reason}. Run again to fetch the answers of batch `{batch_id}`, with the key that it was submitted \
                 with; where it no longer exists, remove `{}`",
                path.display()
            ))
        };
        let batch = self.end_of(&batch_id, number).await.map_err(unresolved)?;
        let found = self.collect(&batch, &record.custom_ids, number).await.map_err(unresolved)?;
        Ok((batch, found))
    }

    /// Makes the batch of an uploaded file, once.
    ///
    /// A try whose reply got lost may have made it; so before another one, the endpoint's batches are looked through.
    async fn make(&self, record: &Record, mut doubtful: bool, number: usize) -> Result<String, Stop> {
        let mut patience = Patience::new(self, "submitting a batch", number);
        loop {
            let made = if doubtful {
                let since = record.submitted_at.saturating_sub(CLOCKS_DIFFER);
                self.api.made_of(&record.input_file_id, since).await
            } else {
                Ok(None)
            };
            let unknown = made.is_err();
            let fault = match made {
                Ok(Some(batch)) => return Ok(batch.id),
                Ok(None) => match self.api.create(&record.input_file_id).await {
                    Ok(batch) => return Ok(batch.id),
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            // An overloaded endpoint has made nothing.
            doubtful = unknown || !matches!(fault, Fault::Overloaded { .. });
            patience.endure(&fault).await.map_err(|reason| match fault {
                Fault::Rejected { .. } | Fault::Unusable(_) if !unknown => Stop::NotSubmitted(reason),
                _ => Stop::Unresolved(format!("{reason}. Run again to find out whether the batch was submitted")),
            })?;
        }
    }

    async fn end_of(&self, batch_id: &str, number: usize) -> Result<BatchObject, String> {
        let mut pauses = Backoff::between(self.first_poll, self.longest_poll, number as u64);
        loop {
            let mut patience = Patience::new(self, "asking for a batch", number);
            sleep(pauses.pause(None)).await;
            let batch = loop {
                match self.api.look_at(batch_id).await {
                    Ok(batch) => break batch,
                    Err(fault) => patience.endure(&fault).await?,
                }
            };
            if batch.status != Status::Working {
                return Ok(batch);
            }
        }
    }

    async fn collect(
        &self,
        batch: &BatchObject,
        ids: &[CustomId],
        number: usize,
    ) -> Result<HashMap<CustomId, Outcome>, String> {
        let wanted: HashSet<&CustomId> = ids.iter().collect();
        let mut found = HashMap::new();
        for file_id in batch.files() {
            let mut patience = Patience::new(self, "fetching a batch's answers", number);
            loop {
                let take = |line: crate::batch::outcome::OutputLine| {
                    let id = line.custom_id.clone();
                    if let Some(outcome) = line.outcome().filter(|_| wanted.contains(&id)) {
                        // The output file comes first, and an answer is worth more than an error.
                        found.entry(id).or_insert(outcome);
                    }
                };
                match self.api.read(file_id, take).await {
                    Ok(()) => break,
                    Err(fault) => patience.endure(&fault).await?,
                }
            }
        }
        Ok(found)
    }

    /// What a record protects is answers that were paid for; the rest may be submitted again by whoever comes.
    fn over(&self, mut record: Record, batch: &BatchObject, found: HashMap<CustomId, Outcome>) -> Ending {
        let requests = record.custom_ids.len();
        let outcomes = outcomes(batch, &record.custom_ids, found);
        let answered = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Answer(_)));
        record.custom_ids = answered.map(|(id, _)| id.clone()).collect();
        let (batch, status, answered) = (batch.id.clone(), batch.status.to_string(), record.custom_ids.len());
        self.notices.tell(Notice::BatchEnded { batch, status, answered, requests });
        if answered == 0 {
            self.records.remove(&record);
        } else if answered < requests {
            // A record that holds too much makes the next run look once more, and nothing worse.
            let _ = self.records.write(&record);
        }
        Ending::Over { record, outcomes }
    }
}

/// Bears with one exchange, as long as it may still succeed.
struct Patience<'a> {
    runner: &'a Runner,
    what: &'static str,
    backoff: Backoff,
    failing_since: Option<Instant>,
}

impl<'a> Patience<'a> {
    fn new(runner: &'a Runner, what: &'static str, number: usize) -> Self {
        Self { runner, what, backoff: Backoff::new(number as u64), failing_since: None }
    }

    /// Waits before the next try; an error where there is no point in one.
    async fn endure(&mut self, fault: &Fault) -> Result<(), String> {
        let reason = format!("{} at {}: {}", self.what, self.runner.api.address(), fault.reason());
        let asked = match fault {
            Fault::Rejected { .. } | Fault::Unusable(_) => return Err(reason),
            Fault::Overloaded { retry_after, .. } => *retry_after,
            Fault::Transient(_) | Fault::Malformed(_) | Fault::BreaksSchema { .. } => None,
        };
        if self.failing_since.is_none() {
            let (what, reason) = (self.what.to_owned(), fault.reason().to_owned());
            self.runner.notices.tell(Notice::TriedAgain { what, reason });
        }
        let failing_for = self.failing_since.get_or_insert_with(Instant::now).elapsed();
        let pause = self.backoff.pause(asked);
        if failing_for + pause > self.runner.down_after {
            return Err(format!("tried for {:.0} s, the last time {reason}", failing_for.as_secs_f64()));
        }
        sleep(pause).await;
        Ok(())
    }
}
