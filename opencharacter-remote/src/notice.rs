use std::{fmt, sync::Arc};

/// Something that a person who waits may want to know. Nothing needs to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An endpoint does not take a request field; its requests go on without.
    FieldLeftOut {
        /// Where.
        endpoint: String,
        /// The field.
        field: &'static str,
        /// What the endpoint said.
        reason: String,
    },
    /// Nobody gets an answer any more.
    NothingAnswers {
        /// What happened last.
        reason: String,
    },
    /// A batch was submitted.
    BatchSubmitted {
        /// Its id at the endpoint.
        batch: String,
        /// Requests in it.
        requests: usize,
    },
    /// A batch that an earlier run submitted is waited for.
    BatchFound {
        /// Its id at the endpoint.
        batch: String,
        /// Requests in it.
        requests: usize,
    },
    /// A batch came to its end.
    BatchEnded {
        /// Its id at the endpoint.
        batch: String,
        /// How it ended, in the endpoint's words.
        status: String,
        /// Requests that were answered.
        answered: usize,
        /// Requests in it.
        requests: usize,
    },
    /// An exchange about batches failed and is tried again.
    TriedAgain {
        /// What was tried.
        what: String,
        /// What happened.
        reason: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FieldLeftOut { endpoint, field, reason } => {
                write!(formatter, "{endpoint} does not take `{field}` ({reason}); going on without")
            }
            Self::NothingAnswers { reason } => {
                write!(formatter, "{reason}; nothing answers any more, so calls wait while one in a while asks again")
            }
            Self::BatchSubmitted { batch, requests } => {
                write!(formatter, "batch `{batch}` of {requests} requests submitted; answers can take a day")
            }
            Self::BatchFound { batch, requests } => {
                write!(
                    formatter,
                    "batch `{batch}` of {requests} requests was submitted before; waiting for its answers"
                )
            }
            Self::BatchEnded { batch, status, answered, requests } => {
                write!(formatter, "batch `{batch}` is {status}: {answered} of {requests} requests were answered")
            }
            Self::TriedAgain { what, reason } => write!(formatter, "{what} failed ({reason}); trying again"),
        }
    }
}

/// Whom notices are told. It is called in the midst of work and should return soon.
#[derive(Clone)]
pub(crate) struct Notices(Arc<dyn Fn(Notice) + Send + Sync>);

impl Notices {
    pub(crate) fn new(told: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(crate) fn tell(&self, notice: Notice) {
        (self.0)(notice);
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Notices")
    }
}
