use std::{collections::BTreeMap, path::Path};

use super::PersonaGymTask;
use crate::EvalError;

/// Upstream's rubrics and prompts, read from a checkout of PersonaGym; they are not part of this repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTexts {
    pub(super) rubrics: BTreeMap<PersonaGymTask, String>,
    pub(super) grading: String,
    pub(super) grading_system: String,
    pub(super) exemplars_of_one: String,
    pub(super) exemplars_of_several: String,
}

impl UpstreamTexts {
    /// Reads `rubrics/TASK.txt`, `prompts/rubric_grading/` and `prompts/score_examples/` under `folder`.
    ///
    /// # Errors
    /// [`EvalError::UpstreamFile`] where one cannot be read or lacks a placeholder.
    pub fn read(folder: &Path) -> Result<Self, EvalError> {
        let read = |name: &str, placeholders: &[&str]| -> Result<String, EvalError> {
            let path = folder.join(name);
            let fail = |what: String| EvalError::UpstreamFile { path: path.display().to_string(), what };
            let text = std::fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
            let text = text.replace("\r\n", "\n");
            match placeholders.iter().find(|name| !text.contains(&format!("{{{name}}}"))) {
                Some(missing) => Err(fail(format!("the placeholder `{{{missing}}}` is missing"))),
                None => Ok(text),
            }
        };
        let rubric = |task: PersonaGymTask| {
            let name = format!("rubrics/{}.txt", task.name());
            Ok((task, read(&name, &["score_example", "persona", "question", "response"])?))
        };
        Ok(Self {
            rubrics: PersonaGymTask::ALL.into_iter().map(rubric).collect::<Result<_, EvalError>>()?,
            grading: read("prompts/rubric_grading/prompt.txt", &["rubrics"])?,
            grading_system: read("prompts/rubric_grading/sys_prompt.txt", &[])?,
            exemplars_of_one: read("prompts/score_examples/prompt.txt", &["persona", "question", "rubric"])?,
            exemplars_of_several: read("prompts/score_examples/parallel_examples.txt", &["rubrics"])?,
        })
    }

    pub(super) fn rubric(&self, task: PersonaGymTask) -> &str {
        self.rubrics.get(&task).map_or("", String::as_str)
    }
}
