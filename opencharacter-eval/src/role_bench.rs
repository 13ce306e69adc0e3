use std::collections::HashMap;

use opencharacter_core::{Character, Sampling, SystemPrompt, short_id};
use serde::Deserialize;

use crate::{EvalError, EvalItem, PromptKind, best_rouge_l};

/// A row of RoleBench (arXiv 2310.00746).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleBenchRow {
    /// Who is asked.
    pub role: String,
    /// What.
    pub question: String,
    /// Reference answers, at least one.
    pub references: Vec<String>,
    /// What the row tests.
    pub kind: RoleBenchKind,
}

/// What a row of RoleBench tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleBenchKind {
    /// A general instruction, answered in the role's style (CUS).
    General,
    /// A question about the role's own story, from its script.
    ScriptBased,
    /// A question to the role that its script does not answer.
    ScriptAgnostic,
}

impl RoleBenchKind {
    /// The task's name in scores.
    pub fn name(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::ScriptBased => "role-specific, script-based",
            Self::ScriptAgnostic => "role-specific, script-agnostic",
        }
    }
}

/// What a split of RoleBench generalizes to; the rows do not say, their file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleBenchSplit {
    /// Roles that training never saw.
    RoleGeneralization,
    /// Known roles, new instructions.
    InstructionGeneralization,
}

impl RoleBenchSplit {
    /// The split's name in scores.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoleGeneralization => "role generalization",
            Self::InstructionGeneralization => "instruction generalization",
        }
    }
}

/// A row as it stands in the file.
#[derive(Deserialize)]
struct Line {
    role: String,
    question: String,
    generated: Vec<String>,
    /// A text or a list of texts; absent for general instructions.
    #[serde(default, rename = "type")]
    kind: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl RoleBenchRow {
    /// Reads a line; `place` names it in messages. A row of both types counts as script-based.
    ///
    /// # Errors
    /// [`EvalError::Row`] where it is no row of RoleBench, or lacks role, question or references.
    pub fn from_line(place: &str, line: &str) -> Result<Self, EvalError> {
        let broken = |what: String| EvalError::Row { place: place.to_owned(), what };
        let row: Line = serde_json::from_str(line).map_err(|error| {
            broken(format!("expected an object with `role`, `question` and `generated`, a list of texts: {error}"))
        })?;
        let kinds = match row.kind {
            None => Vec::new(),
            Some(OneOrMany::One(kind)) => vec![kind],
            Some(OneOrMany::Many(kinds)) => kinds,
        };
        let mut known = Vec::new();
        for kind in &kinds {
            known.push(match kind.as_str() {
                "script_based" => RoleBenchKind::ScriptBased,
                "script_agnostic" => RoleBenchKind::ScriptAgnostic,
                other => {
                    return Err(broken(format!(
                        "has the type `{other}`, expected `script_based` or `script_agnostic`"
                    )));
                }
            });
        }
        let kind = match known.as_slice() {
            [] => RoleBenchKind::General,
            kinds if kinds.contains(&RoleBenchKind::ScriptBased) => RoleBenchKind::ScriptBased,
            _ => RoleBenchKind::ScriptAgnostic,
        };
        if let Some((name, _)) =
            [("role", &row.role), ("question", &row.question)].into_iter().find(|(_, text)| text.trim().is_empty())
        {
            return Err(broken(format!("`{name}` is blank")));
        }
        if row.generated.is_empty() {
            return Err(broken("`generated` is empty: expected at least one reference answer".to_owned()));
        }
        Ok(Self { role: row.role.trim().to_owned(), question: row.question, references: row.generated, kind })
    }
}

/// How answers to RoleBench are drawn: greedily, so that a score can be repeated.
pub fn role_bench_sampling() -> Sampling {
    Sampling { max_tokens: 256, ..Sampling::default() }
}

/// The items of `rows`; `characters` bring persona and profile of roles of the same name, where there are any.
///
/// Rows of the same kind, role and question are one item with the references of all.
///
/// # Errors
/// [`EvalError::Prompt`] where the prompt's template cannot be used.
pub fn role_bench_items(
    rows: &[RoleBenchRow],
    split: RoleBenchSplit,
    characters: &[Character],
    system_prompt: &SystemPrompt,
) -> Result<Vec<EvalItem>, EvalError> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut items: Vec<EvalItem> = Vec::new();
    for row in rows {
        let item_id = short_id("rolebench", &[split.name(), row.kind.name(), &row.role, &row.question]);
        if let Some(&place) = places.get(&item_id) {
            let new = row.references.iter().filter(|reference| !items[place].references.contains(reference));
            let new: Vec<String> = new.cloned().collect();
            items[place].references.extend(new);
            continue;
        }
        places.insert(item_id.clone(), items.len());
        let known = characters.iter().find(|character| character.profile.name == row.role);
        let character = known.cloned().unwrap_or_else(|| Character::from_name(&row.role, "RoleBench", "Apache-2.0"));
        let task = format!("{}, {}", split.name(), row.kind.name());
        let description = PromptKind::Both.describe(&character);
        let prompt = Some(system_prompt.render(&character)?);
        let item = EvalItem::new(item_id, &task, &character, description, prompt, &row.question);
        items.push(EvalItem { references: row.references.clone(), ..item });
    }
    Ok(items)
}

/// Sets each answered item's value to its best Rouge-L over its references.
///
/// The benchmark's paper does not say how several references combine, and other harnesses use the first alone, so published
/// numbers are comparable only with their own harness.
pub fn score_role_bench(items: &mut [EvalItem]) {
    for item in items {
        item.value = item.answer_text().and_then(|answer| best_rouge_l(answer, &item.references));
    }
}
