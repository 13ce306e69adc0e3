//! PersonaGym (Samuel et al., arXiv 2407.18416): five tasks, answers judged from 1 to 5.
//!
//! [`PersonaGymSet::items`] makes the questions, [`crate::answer_items`] has them answered, [`judge_persona_gym`] judges
//! in one of three modes ([`PersonaGymMode`]). Two modes on the same answers, compared by [`crate::compare`], show how
//! much the way of judging alone moves the score.

mod checked;
mod paper;
mod paper_format;
mod planted;
mod questions;
mod rubric;
mod set;
mod task;
mod upstream;
mod write_questions;

use opencharacter_core::Generate;

pub use planted::{JudgeTrial, JudgeTrialOptions, PlantedCase, PlantedKind, Retest, try_judges};
pub use questions::PersonaQuestions;
pub use set::{PersonaGymOptions, PersonaGymSet};
pub use task::PersonaGymTask;
pub use upstream::UpstreamTexts;
pub use write_questions::write_questions;

use crate::{EvalError, EvalItem, Judge, JudgeOptions, Progress};

/// How answers are judged.
#[derive(Debug, Clone, Copy)]
pub enum PersonaGymMode<'a> {
    /// Done right: every sample answer reaches the judge whole, a verdict is a JSON document read strictly and asked
    /// for again where it cannot be read, and one that is still missing is counted and never a zero.
    Checked {
        /// Answers judged in one call: 1, or up to 5 as upstream.
        questions_per_call: usize,
    },
    /// What the paper describes, with upstream's texts: whole sample answers, five answers per call, scores read from
    /// the final sentence in any spelling. No retry; a missing score is left out.
    PaperText(&'a UpstreamTexts),
    /// What the reference code computes (commit 536f705), as far as it computes anything: of the sample answers the
    /// judge sees one letter, a reply that does not match the phrase to the letter scores 0 and is dropped, a batch of
    /// such replies scores 0, and a batch's mean counts for all its answers.
    ///
    /// Two things are not reproduced: an answer or a verdict whose call failed leaves its batch without a score (the
    /// reference judges the word "Error", or counts 0), and so does a batch at which the reference ends in an exception.
    PaperCode(&'a UpstreamTexts),
}

impl PersonaGymMode<'_> {
    /// The mode's name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Checked { .. } => "checked",
            Self::PaperText(_) => "paper-text",
            Self::PaperCode(_) => "paper-code",
        }
    }
}

/// Who judges.
#[derive(Clone)]
pub struct Panel<'a> {
    /// Writes the sample answers for each score.
    pub exemplar_writer: &'a dyn Generate,
    /// The judges, whose scores are averaged.
    pub judges: Vec<Judge<'a>>,
}

/// Has the answers of `items` judged; verdicts, sample answers and values are stored in them. What they held of an
/// earlier judging is replaced.
///
/// # Errors
/// [`EvalError::Model`] where a judge cannot be reached; [`EvalError::Empty`] without a judge;
/// [`EvalError::Duplicate`] where two judges share a name; [`EvalError::UnknownTask`] for items of another benchmark.
pub async fn judge_persona_gym(
    items: &mut [EvalItem],
    panel: &Panel<'_>,
    mode: PersonaGymMode<'_>,
    options: &JudgeOptions,
    progress: &Progress<'_>,
) -> Result<(), EvalError> {
    check_panel(panel)?;
    for item in items.iter_mut() {
        (item.exemplars, item.verdicts, item.value, item.weight) = (Vec::new(), Vec::new(), None, 1.0);
    }
    match mode {
        PersonaGymMode::Checked { questions_per_call } => {
            checked::judge(items, panel, questions_per_call, options, progress).await
        }
        PersonaGymMode::PaperText(texts) => {
            paper::judge(items, panel, texts, paper::Way::Text, options, progress).await
        }
        PersonaGymMode::PaperCode(texts) => {
            paper::judge(items, panel, texts, paper::Way::Code, options, progress).await
        }
    }
}

fn check_panel(panel: &Panel<'_>) -> Result<(), EvalError> {
    if panel.judges.is_empty() {
        return Err(EvalError::Empty { what: "judges" });
    }
    for (place, judge) in panel.judges.iter().enumerate() {
        if panel.judges[..place].iter().any(|other| other.name == judge.name) {
            return Err(EvalError::Duplicate { what: "judge", id: judge.name.to_owned() });
        }
    }
    Ok(())
}

/// An answer to be judged.
#[derive(Debug, Clone)]
struct Case {
    item_id: String,
    task: PersonaGymTask,
    /// What the judge is told of the character.
    description: String,
    question: String,
    answer: String,
    exemplars: Vec<String>,
    /// Show the sample answers from 5 to 1.
    best_first: bool,
}

/// The places of items that are asked together: up to `size` of one character, task and epoch, in their order.
fn batches(items: &[EvalItem], size: usize) -> Vec<Vec<usize>> {
    let mut open: std::collections::HashMap<(&str, &str, u32), usize> = std::collections::HashMap::new();
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for (place, item) in items.iter().enumerate() {
        let key = (item.character_id.as_str(), item.task.as_str(), item.epoch);
        match open.get(&key) {
            Some(&batch) if batches[batch].len() < size.max(1) => batches[batch].push(place),
            _ => {
                open.insert(key, batches.len());
                batches.push(vec![place]);
            }
        }
    }
    batches
}
