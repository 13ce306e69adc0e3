use jsonschema::Validator;
use opencharacter_core::{Completion, GenerateError, GenerateRequest, Message};

use crate::{extract, fault::Fault, quirks::Quirks, wire::Body};

/// A request on its way to an answer, however many tries that takes.
#[derive(Debug)]
pub(crate) struct Call {
    request: GenerateRequest,
    validator: Option<Validator>,
    /// An answer that broke its schema, and what was said of it.
    repairs: Vec<Message>,
    useless: usize,
}

/// Tries of a call whose answers cannot be used.
const USELESS_TRIES: usize = 3;

impl Call {
    /// # Errors
    /// [`GenerateError::Refused`] where no answer could be right: nothing is asked, or the schema is none.
    pub(crate) fn new(request: GenerateRequest) -> Result<Self, GenerateError> {
        request.check()?;
        let validator = request.schema.as_ref().map(jsonschema::validator_for).transpose().map_err(|error| {
            GenerateError::Refused { reason: format!("the JSON schema is none: {error}; correct it") }
        })?;
        Ok(Self { request, validator, repairs: Vec::new(), useless: 0 })
    }

    /// What to send.
    pub(crate) fn body<'a>(&'a self, model: &'a str, quirks: Quirks) -> Body<'a> {
        Body::new(model, &self.request, &self.repairs, quirks)
    }

    /// An answer that is what the request asked for.
    pub(crate) fn checked(&self, completion: Completion) -> Result<Completion, Fault> {
        let Some(validator) = &self.validator else { return Ok(completion) };
        match extract::checked(&completion.text, validator) {
            Ok(text) => Ok(Completion { text, ..completion }),
            Err(reason) => Err(Fault::BreaksSchema { answer: completion.text, reason }),
        }
    }

    /// Takes note of an answer that cannot be used; false when that was one too many.
    pub(crate) fn may_repair(&mut self, fault: &Fault) -> bool {
        self.useless += 1;
        if let Fault::BreaksSchema { answer, reason } = fault {
            self.repairs = extract::repair(answer, reason).into();
        }
        self.useless < USELESS_TRIES
    }
}

/// Why a call fails whose answers could not be used, the last one for `reason`.
pub(crate) fn useless(reason: &str) -> String {
    format!("{USELESS_TRIES} answers could not be used, the last one: {reason}")
}
