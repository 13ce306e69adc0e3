//! Trying the judges: planted bad answers, and the same answers again.

use std::collections::BTreeSet;

use opencharacter_core::KeyedRandom;
use serde::{Deserialize, Serialize};

use super::{
    Case, Panel, PersonaGymTask, check_panel,
    checked::{case, task, verdicts, write_exemplars},
};
use crate::{EvalError, EvalItem, JudgeOptions, Progress, Verdict};

/// An answer in the voice of an assistant that fits every question and no character.
const GENERIC_ANSWER: &str = "As an AI language model, I don't have personal experiences or opinions, but I can offer some \
     general information. There are many factors to consider here, and the best approach depends on the circumstances. It \
     is important to weigh the options carefully, communicate clearly, and seek professional advice where needed. Let me \
     know if you would like to hear more about any of these points!";

/// How many answers the judges are tried on, and which.
#[derive(Debug, Clone, Copy)]
pub struct JudgeTrialOptions {
    /// Draws the answers.
    pub seed: u64,
    /// Answers drawn; each costs a judge five verdicts.
    pub answers: usize,
}

impl Default for JudgeTrialOptions {
    fn default() -> Self {
        Self { seed: 0, answers: 24 }
    }
}

/// What is wrong with a planted answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlantedKind {
    /// It is another character's answer to another question of the task.
    WrongCharacter,
    /// It is an assistant's answer to no question in particular.
    GenericAssistant,
    /// It is empty.
    Empty,
}

impl PlantedKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::WrongCharacter, Self::GenericAssistant, Self::Empty];

    /// A name for readers.
    pub fn title(self) -> &'static str {
        match self {
            Self::WrongCharacter => "another character's answer",
            Self::GenericAssistant => "a generic assistant's answer",
            Self::Empty => "an empty answer",
        }
    }
}

/// A planted answer, and what the judges said of it and of the real one in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlantedCase {
    /// The item whose answer was replaced.
    pub item_id: String,
    /// Its cluster.
    pub cluster: String,
    /// What is wrong with the planted answer.
    pub kind: PlantedKind,
    /// The planted answer.
    pub text: String,
    /// Verdicts on the real answer.
    pub real: Vec<Verdict>,
    /// Verdicts on the planted one.
    pub planted: Vec<Verdict>,
}

/// The same answer judged twice; the second time the sample answers come from best to worst, and other random numbers
/// are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retest {
    /// The item.
    pub item_id: String,
    /// Its cluster.
    pub cluster: String,
    /// Verdicts at first.
    pub first: Vec<Verdict>,
    /// Verdicts again.
    pub second: Vec<Verdict>,
}

/// What a trial of the judges brought.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgeTrial {
    /// Planted answers.
    pub planted: Vec<PlantedCase>,
    /// Answers judged twice.
    pub retests: Vec<Retest>,
}

/// Tries the judges on some of the answers of `items`, whatever they were judged by, in the default mode with one
/// answer per call.
///
/// Toxicity is left out: a civil answer by the wrong character, or none, deserves its 5 there.
///
/// # Errors
/// As [`super::judge_persona_gym`].
pub async fn try_judges(
    items: &[EvalItem],
    panel: &Panel<'_>,
    trial: JudgeTrialOptions,
    options: &JudgeOptions,
    progress: &Progress<'_>,
) -> Result<JudgeTrial, EvalError> {
    check_panel(panel)?;
    let mut chosen = drawn(items, trial)?;
    write_exemplars(&mut chosen, panel.exemplar_writer, options, progress).await?;
    let real = chosen.iter().map(case).collect::<Result<Vec<Option<Case>>, EvalError>>()?;
    let again: Vec<Option<Case>> =
        real.iter().map(|case| case.clone().map(|case| Case { best_first: true, ..case })).collect();
    let first = verdicts(&real, &singly(real.len()), panel, "", options, progress).await?;
    let second = verdicts(&again, &singly(again.len()), panel, "again", options, progress).await?;
    let mut found = JudgeTrial::default();
    for ((item, first), second) in chosen.iter().zip(&first).zip(second).filter(|((_, first), _)| !first.is_empty()) {
        let (item_id, cluster) = (item.item_id.clone(), item.cluster.clone());
        found.retests.push(Retest { item_id, cluster, first: first.clone(), second });
    }
    for kind in PlantedKind::ALL {
        let texts: Vec<Option<String>> = chosen.iter().map(|item| planted(kind, item, items, trial.seed)).collect();
        let cases: Vec<Option<Case>> =
            real.iter().zip(&texts).map(|(case, text)| Some(Case { answer: text.clone()?, ..case.clone()? })).collect();
        let occasion = kind.title();
        let judged = verdicts(&cases, &singly(cases.len()), panel, occasion, options, progress).await?;
        for (((item, text), real), planted) in chosen.iter().zip(texts).zip(&first).zip(judged) {
            if let (Some(text), false) = (text, planted.is_empty()) {
                let (item_id, cluster) = (item.item_id.clone(), item.cluster.clone());
                found.planted.push(PlantedCase { item_id, cluster, kind, text, real: real.clone(), planted });
            }
        }
    }
    Ok(found)
}

fn singly(count: usize) -> Vec<Vec<usize>> {
    (0..count).map(|place| vec![place]).collect()
}

/// Answered items with the smallest keyed draws, their earlier judging removed; as many characters as possible.
fn drawn(items: &[EvalItem], trial: JudgeTrialOptions) -> Result<Vec<EvalItem>, EvalError> {
    let mut ranked: Vec<(u64, &EvalItem)> = Vec::new();
    for item in items {
        if task(item)? != PersonaGymTask::Toxicity && item.answer_text().is_some_and(|text| !text.trim().is_empty()) {
            ranked.push((KeyedRandom::new(trial.seed, &["eval", "trial", &item.item_id]).next_u64(), item));
        }
    }
    ranked.sort_by_key(|(draw, _)| *draw);
    let mut seen = BTreeSet::new();
    let (first_of_theirs, others): (Vec<&EvalItem>, Vec<&EvalItem>) =
        ranked.into_iter().map(|(_, item)| item).partition(|item| seen.insert(item.cluster.as_str()));
    let chosen = first_of_theirs.into_iter().chain(others).take(trial.answers);
    let bare = |item: &EvalItem| EvalItem { exemplars: Vec::new(), verdicts: Vec::new(), ..item.clone() };
    Ok(chosen.map(bare).collect())
}

/// The planted answer; `None` where there is no other character.
fn planted(kind: PlantedKind, item: &EvalItem, items: &[EvalItem], seed: u64) -> Option<String> {
    match kind {
        PlantedKind::GenericAssistant => Some(GENERIC_ANSWER.to_owned()),
        PlantedKind::Empty => Some(String::new()),
        PlantedKind::WrongCharacter => {
            let others = items.iter().filter(|other| other.task == item.task && other.cluster != item.cluster);
            let with_text = others.filter_map(|other| {
                let text = other.answer_text().filter(|text| !text.trim().is_empty())?;
                Some((KeyedRandom::new(seed, &["eval", "planted", &item.item_id, &other.item_id]).next_u64(), text))
            });
            with_text.min_by_key(|(draw, _)| *draw).map(|(_, text)| text.to_owned())
        }
    }
}
