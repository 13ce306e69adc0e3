use std::collections::{HashMap, HashSet};

use opencharacter_core::{Character, Persona, Profile, Sampling, SystemPrompt, short_id};

use super::{PersonaGymTask, PersonaQuestions};
use crate::{EvalError, EvalItem, PromptKind, persona_template};

/// Personas, their characters and their questions.
#[derive(Debug, Clone, PartialEq)]
pub struct PersonaGymSet {
    rows: Vec<(Character, PersonaQuestions)>,
}

/// What is asked, and how.
#[derive(Debug, Clone)]
pub struct PersonaGymOptions {
    /// What the model under test is told of its character.
    pub prompt: PromptKind,
    /// The prompt that makes it play.
    pub system_prompt: SystemPrompt,
    /// The first question of each task only, as PersonaGym-Light.
    pub light: bool,
    /// Answers to each question, at least 1.
    pub epochs: u32,
    /// At most so many personas, the first ones; all without it.
    pub limit: Option<usize>,
}

impl Default for PersonaGymOptions {
    fn default() -> Self {
        let system_prompt = SystemPrompt::default();
        Self { prompt: PromptKind::Persona, system_prompt, light: false, epochs: 1, limit: None }
    }
}

impl PersonaGymOptions {
    /// How upstream has questions answered: temperature 0.9, top-p 0.9; at most 1,024 tokens, as the paper's evaluation.
    pub fn sampling() -> Sampling {
        Sampling { temperature: 0.9, top_p: 0.9, max_tokens: 1024, ..Sampling::default() }
    }
}

impl PersonaGymSet {
    /// Joins questions with `characters` of the same persona, where there are any; they bring the profile.
    ///
    /// # Errors
    /// [`EvalError::Empty`] without questions, [`EvalError::Duplicate`] where a persona comes twice.
    pub fn new(questions: Vec<PersonaQuestions>, characters: &[Character]) -> Result<Self, EvalError> {
        if questions.is_empty() {
            return Err(EvalError::Empty { what: "personas" });
        }
        let known: HashMap<&str, &Character> =
            characters.iter().map(|character| (character.persona.trim(), character)).collect();
        let mut seen = HashSet::new();
        if let Some(twice) = questions.iter().find(|row| !seen.insert(row.persona.to_lowercase())) {
            return Err(EvalError::Duplicate { what: "persona", id: twice.persona.clone() });
        }
        let rows = questions.into_iter().map(|row| {
            let found = known.get(row.persona.as_str()).map(|character| (*character).clone());
            (found.unwrap_or_else(|| without_profile(&row.persona)), row)
        });
        Ok(Self { rows: rows.collect() })
    }

    /// The personas' characters, in order.
    pub fn characters(&self) -> impl Iterator<Item = &Character> {
        self.rows.iter().map(|(character, _)| character)
    }

    /// All questions, in order.
    pub fn questions(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().flat_map(|(_, row)| row.questions.values().flatten().map(String::as_str))
    }

    /// The items to be answered: persona after persona, task after task, question after question, epoch after epoch.
    ///
    /// # Errors
    /// [`EvalError::NothingToPlay`] where a profile is asked for that a persona lacks.
    pub fn items(&self, options: &PersonaGymOptions) -> Result<Vec<EvalItem>, EvalError> {
        let mut items = Vec::new();
        for (character, row) in self.rows.iter().take(options.limit.unwrap_or(usize::MAX)) {
            let prompt = options.prompt.render(character, &options.system_prompt)?;
            let description = options.prompt.describe(character);
            let cluster = persona_template(&row.persona);
            for task in PersonaGymTask::ALL {
                let questions = row.questions.get(&task).into_iter().flatten();
                for (place, question) in questions.take(if options.light { 1 } else { usize::MAX }).enumerate() {
                    for epoch in 0..options.epochs.max(1) {
                        let item_id = item_id(character, task, place, epoch);
                        let item = EvalItem::new(
                            item_id,
                            task.name(),
                            character,
                            description.clone(),
                            Some(prompt.clone()),
                            question,
                        );
                        items.push(EvalItem { cluster: cluster.clone(), epoch, ..item });
                    }
                }
            }
        }
        Ok(items)
    }
}

fn item_id(character: &Character, task: PersonaGymTask, place: usize, epoch: u32) -> String {
    let (place, epoch) = (place.to_string(), epoch.to_string());
    short_id("personagym", &[&character.character_id, task.name(), place.as_str(), epoch.as_str()])
}

fn without_profile(persona: &str) -> Character {
    let Persona { character_id, persona, source, license } = Persona::new(persona, "PersonaGym", "MIT");
    Character { character_id, persona, profile: Profile::default(), source, license, provenance: None }
}
