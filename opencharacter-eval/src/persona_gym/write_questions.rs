use std::collections::{BTreeMap, HashSet};

use opencharacter_core::{Generate, Message};
use serde_json::{Value, json};

use super::{PersonaGymTask, PersonaQuestions, rubric::rubric};
use crate::{
    CallOutcome, EvalError, JudgeOptions, Progress,
    calls::{Errand, run_all},
    judge::{Asked, Asking, Miss, ask, json_object},
};

/// Writes `per_task` questions of each task for each of `personas`, in their order; one call for each task.
///
/// A persona for which the writer does not bring all of them in any attempt has none: a benchmark with holes would
/// compare characters on different tasks.
///
/// # Errors
/// [`EvalError::Model`] where the writer cannot be reached, [`EvalError::Duplicate`] for a persona given twice.
pub async fn write_questions(
    writer: &dyn Generate,
    personas: &[String],
    per_task: usize,
    options: &JudgeOptions,
    progress: &Progress<'_>,
) -> Result<Vec<CallOutcome<PersonaQuestions>>, EvalError> {
    let mut seen = HashSet::new();
    if let Some(twice) = personas.iter().find(|persona| !seen.insert(persona.to_lowercase())) {
        return Err(EvalError::Duplicate { what: "persona", id: twice.clone() });
    }
    let per_task = per_task.max(1);
    let wanted = personas.iter().flat_map(|persona| PersonaGymTask::ALL.map(|task| (persona, task)));
    let errands = wanted.map(|(persona, task)| -> Errand<'_, Asked<Vec<String>>> {
        let parse = move |reply: &str| parse(reply, per_task);
        let asked = async move { ask(writer, asking(persona, task, per_task), options, parse).await };
        (persona.clone(), Box::pin(asked))
    });
    let errands = errands.collect();
    let found = run_all(writer.concurrency(), "questions", errands, progress).await?;
    let mut found = found.into_iter();
    let of_persona = |persona: &String| {
        let of_tasks: Vec<_> = PersonaGymTask::ALL.into_iter().zip(found.by_ref()).collect();
        let questions: CallOutcome<BTreeMap<PersonaGymTask, Vec<String>>> = of_tasks
            .into_iter()
            .map(|(task, outcome)| match outcome {
                Ok(Asked { outcome: Ok(questions), .. }) => Ok((task, questions)),
                Ok(Asked { outcome: Err(Miss::Unreadable(reason) | Miss::Failed(reason)), .. }) | Err(reason) => {
                    Err(format!("{}: {reason}", task.name()))
                }
            })
            .collect();
        Ok(PersonaQuestions { persona: persona.clone(), questions: questions? })
    };
    Ok(personas.iter().map(of_persona).collect())
}

fn asking(persona: &str, task: PersonaGymTask, count: usize) -> Asking {
    let prompt = format!(
        "Write {count} different questions to a person, to be answered by them in conversation. Together they test one \
         thing, {}: {}\n\nThe person: {persona}\n\nEach question speaks to the person as \"you\", stands on its own, is set in \
         a situation that suits this person, differs in situation from the others, and takes one to three sentences. {}\n\n\
         Answer with a JSON object with the key `questions`, a list of {count} texts.",
        task.name(),
        rubric(task).aim,
        rubric(task).question,
    );
    let schema = json!({
        "type": "object",
        "properties": {"questions": {
            "type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count
        }},
        "required": ["questions"],
        "additionalProperties": false
    });
    let key = ["questions", persona, task.name()].map(str::to_owned).to_vec();
    Asking { key, messages: vec![Message::user(prompt)], schema: Some(schema) }
}

fn parse(reply: &str, count: usize) -> Result<Vec<String>, String> {
    let object = json_object(reply)?;
    let list = object.get("questions").and_then(Value::as_array).ok_or("`questions` is missing, expected a list")?;
    let questions: Vec<String> = list
        .iter()
        .filter_map(Value::as_str)
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .collect();
    let different: HashSet<String> = questions.iter().map(|text| text.to_lowercase()).collect();
    if list.len() == count && different.len() == count {
        Ok(questions)
    } else {
        Err(format!("`questions` holds {} different texts, expected {count}", different.len()))
    }
}
