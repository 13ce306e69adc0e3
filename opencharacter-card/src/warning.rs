use std::fmt;

use serde::Serialize;

use crate::limits;

/// Something that a person should know of and that stops nobody: the card was read or written all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The field, chunk or asset.
    pub place: String,
    /// What is wrong, and what was done instead.
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.problem)
    }
}

/// Gathers warnings, of a hostile file no more than [`limits::WARNINGS`].
#[derive(Debug, Default)]
pub(crate) struct Warnings(Vec<Warning>);

impl Warnings {
    pub(crate) fn add(&mut self, place: impl Into<String>, problem: impl Into<String>) {
        if self.0.len() < limits::WARNINGS {
            self.0.push(Warning { place: place.into(), problem: problem.into() });
        } else if self.0.len() == limits::WARNINGS {
            self.0.push(Warning { place: "...".into(), problem: "there are more".into() });
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Warning> {
        self.0
    }
}
