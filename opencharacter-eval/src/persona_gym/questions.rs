use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::PersonaGymTask;
use crate::EvalError;

/// The questions to one persona: a line of a questions file, keys `persona` and `questions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PersonaQuestions {
    /// The one-line persona.
    pub persona: String,
    /// For each of the five tasks at least one question.
    pub questions: BTreeMap<PersonaGymTask, Vec<String>>,
}

impl PersonaQuestions {
    /// Reads a line with the keys `persona` and `questions`; `place` names it in messages.
    ///
    /// # Errors
    /// [`EvalError::Questions`] where it is no such line, lacks a task, or has an empty one.
    pub fn from_line(place: &str, line: &str) -> Result<Self, EvalError> {
        let row: Value = serde_json::from_str(line).map_err(|error| broken(place, format!("is no JSON: {error}")))?;
        let persona = row.get("persona").and_then(Value::as_str).map(str::trim).filter(|persona| !persona.is_empty());
        let persona = persona.ok_or_else(|| broken(place, "lacks `persona`, a text".into()))?;
        let questions = row.get("questions").ok_or_else(|| broken(place, "lacks `questions`, an object".into()))?;
        Self::new(place, persona, questions)
    }

    /// Reads one of upstream's files, whose name without `.json` is the persona and whose content are the questions.
    ///
    /// # Errors
    /// [`EvalError::Questions`], as for [`PersonaQuestions::from_line`].
    pub fn from_upstream_file(file_name: &str, content: &str) -> Result<Self, EvalError> {
        let questions: Value =
            serde_json::from_str(content).map_err(|error| broken(file_name, format!("is no JSON: {error}")))?;
        Self::new(file_name, file_name.strip_suffix(".json").unwrap_or(file_name).trim(), &questions)
    }

    fn new(place: &str, persona: &str, questions: &Value) -> Result<Self, EvalError> {
        let Value::Object(by_name) = questions else {
            return Err(broken(place, "`questions` must be an object of lists by task".into()));
        };
        let mut by_task = BTreeMap::new();
        for (name, list) in by_name {
            let task = PersonaGymTask::from_name(name)
                .ok_or_else(|| broken(place, format!("has the unknown task `{name}`; {}", expected())))?;
            let texts: Option<Vec<String>> = list.as_array().and_then(|list| list.iter().map(question).collect());
            let texts = texts.filter(|texts| !texts.is_empty()).ok_or_else(|| {
                broken(place, format!("has in task `{name}` no list of questions, each a text that is not blank"))
            })?;
            by_task.insert(task, texts);
        }
        match PersonaGymTask::ALL.into_iter().find(|task| !by_task.contains_key(task)) {
            Some(missing) => Err(broken(place, format!("lacks the task `{}`; {}", missing.name(), expected()))),
            None => Ok(Self { persona: persona.to_owned(), questions: by_task }),
        }
    }
}

fn question(value: &Value) -> Option<String> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn expected() -> String {
    let names: Vec<String> = PersonaGymTask::ALL.into_iter().map(|task| format!("`{}`", task.name())).collect();
    format!("expected {}", names.join(", "))
}

fn broken(place: &str, what: String) -> EvalError {
    EvalError::Questions { place: place.to_owned(), what }
}
