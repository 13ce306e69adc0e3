use std::collections::{HashMap, HashSet};

use opencharacter_core::{
    Character, Dialogue, Instruction, KeyedRandom, Message, Role, Sampling, SystemPrompt, short_id,
};

use crate::{EvalError, statistics::Resampling};

/// What no model was trained on: who is played, what is asked, and how a teacher answered.
#[derive(Debug, Clone, Default)]
pub struct HeldOutSet {
    /// The characters to play.
    pub characters: Vec<Character>,
    /// The questions to ask them. Of several turns only the first is asked: the later ones refer to answers that
    /// another model gave.
    pub instructions: Vec<Instruction>,
    /// Dialogues whose likelihood is measured, by these characters or with a system message of their own; may be
    /// empty.
    pub references: Vec<Dialogue>,
}

/// How to evaluate. Two evaluations with equal options ask for the same calls.
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// Draws questions, distractors, sampling seeds and resamples, each keyed by the item's id.
    pub seed: u64,
    /// How both models answer. Its own `seed` is replaced by one per item, the same for both models.
    pub sampling: Sampling,
    /// Wrong profiles beside the right one in identification; 0 leaves identification out.
    pub distractors: usize,
    /// Which ones.
    pub distractor_choice: DistractorChoice,
    /// Questions drawn for each character; 0 asks all.
    pub questions_per_character: usize,
    /// The prompt that makes a model play a character: the one that the tuned model was trained with.
    pub system_prompt: SystemPrompt,
    /// How many bootstrap resamples and permutations; its own `seed` is replaced by this evaluation's.
    pub resampling: Resampling,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            sampling: Sampling { temperature: 0.7, top_p: 0.95, max_tokens: 192, ..Sampling::default() },
            distractors: 3,
            distractor_choice: DistractorChoice::Random,
            questions_per_character: 0,
            system_prompt: SystemPrompt::default(),
            resampling: Resampling::default(),
        }
    }
}

/// How wrong profiles are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DistractorChoice {
    /// By chance: easily told apart where characters differ much.
    #[default]
    Random,
    /// Those that share most words with the right one: telling them apart takes the details.
    Near,
}

/// One question to one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Follows from character and instruction.
    pub item_id: String,
    /// Index into [`HeldOutSet::characters`].
    pub character: usize,
    /// Index into [`HeldOutSet::instructions`].
    pub instruction: usize,
}

impl HeldOutSet {
    /// Checks what can be checked before any call is paid for.
    pub fn check(&self, options: &EvalOptions) -> Result<(), EvalError> {
        if self.characters.is_empty() {
            return Err(EvalError::Empty { what: "characters" });
        }
        if self.instructions.is_empty() {
            return Err(EvalError::Empty { what: "instructions" });
        }
        if options.distractors > 0 && self.characters.len() <= options.distractors {
            let needed = options.distractors + 1;
            return Err(EvalError::TooFewCharacters { needed, found: self.characters.len() });
        }
        no_duplicates("character", self.characters.iter().map(|character| character.character_id.as_str()))?;
        no_duplicates("instruction", self.instructions.iter().map(|item| item.instruction_id.as_str()))?;
        no_duplicates("reference dialogue", self.references.iter().map(|dialogue| dialogue.dialogue_id.as_str()))?;
        if let Some(instruction) = self.instructions.iter().find(|instruction| instruction.turns.is_empty()) {
            return Err(EvalError::NoQuestion { instruction_id: instruction.instruction_id.clone() });
        }
        Ok(())
    }

    /// Every character with its drawn questions, in the order of the set.
    pub fn items(&self, options: &EvalOptions) -> Vec<Item> {
        let count = match options.questions_per_character {
            0 => self.instructions.len(),
            count => count,
        };
        let mut items = Vec::new();
        for (character, who) in self.characters.iter().enumerate() {
            for instruction in self.questions_of(&who.character_id, count, options.seed) {
                let asked = &self.instructions[instruction].instruction_id;
                let item_id = short_id("answer", &[&who.character_id, asked]);
                items.push(Item { item_id, character, instruction });
            }
        }
        items
    }

    /// The `count` questions with the smallest keyed draws, so that the set's order does not change the choice.
    fn questions_of(&self, character_id: &str, count: usize, seed: u64) -> Vec<usize> {
        let draw = |id: &str| KeyedRandom::new(seed, &["eval", "questions", character_id, id]).next_u64();
        let mut ranked: Vec<(u64, usize)> =
            self.instructions.iter().enumerate().map(|(index, item)| (draw(&item.instruction_id), index)).collect();
        ranked.sort_unstable();
        let mut chosen: Vec<usize> = ranked.into_iter().take(count).map(|(_, index)| index).collect();
        chosen.sort_unstable();
        chosen
    }

    /// The question of `item`.
    pub fn question(&self, item: &Item) -> &str {
        self.instructions[item.instruction].turns.first().map_or("", |turn| turn.user.as_str())
    }
}

fn no_duplicates<'a>(what: &'static str, ids: impl Iterator<Item = &'a str>) -> Result<(), EvalError> {
    let mut seen = HashSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(EvalError::Duplicate { what, id: id.to_owned() });
        }
    }
    Ok(())
}

/// The rendered system prompts of all held-out characters, and conversations that begin with them.
#[derive(Debug, Clone)]
pub struct Prompts<'a> {
    set: &'a HeldOutSet,
    texts: Vec<String>,
    by_id: HashMap<&'a str, usize>,
}

impl<'a> Prompts<'a> {
    /// Renders the prompt of every character of `set`.
    pub fn new(set: &'a HeldOutSet, template: &SystemPrompt) -> Result<Self, EvalError> {
        let texts = set.characters.iter().map(|character| template.render(character)).collect::<Result<_, _>>()?;
        let by_id = set.characters.iter().enumerate().map(|(index, who)| (who.character_id.as_str(), index)).collect();
        Ok(Self { set, texts, by_id })
    }

    /// The characters and questions behind the prompts.
    pub fn set(&self) -> &'a HeldOutSet {
        self.set
    }

    /// System prompt of the `character`-th character, then the item's question.
    pub fn ask(&self, item: &Item, character: usize) -> Vec<Message> {
        vec![Message::system(self.texts[character].clone()), Message::user(self.set.question(item))]
    }

    /// The rendered prompt of the `character`-th character.
    pub(crate) fn text(&self, character: usize) -> &str {
        &self.texts[character]
    }

    /// The place of the character with this id.
    pub(crate) fn place(&self, character_id: &str) -> Option<usize> {
        self.by_id.get(character_id).copied()
    }

    /// A reference as it is to be scored: its own system message, or else its character's prompt.
    pub fn reference(&self, dialogue: &Dialogue) -> Result<Vec<Message>, EvalError> {
        if !dialogue.messages.iter().any(|message| message.role == Role::Assistant) {
            return Err(EvalError::NoAnswer { dialogue_id: dialogue.dialogue_id.clone() });
        }
        let has_system = dialogue.messages.first().is_some_and(|message| message.role == Role::System);
        if has_system || dialogue.character_id.is_empty() {
            return Ok(dialogue.messages.clone());
        }
        let Some(&character) = self.by_id.get(dialogue.character_id.as_str()) else {
            return Err(EvalError::UnknownCharacter {
                dialogue_id: dialogue.dialogue_id.clone(),
                character_id: dialogue.character_id.clone(),
            });
        };
        let mut messages = vec![Message::system(self.texts[character].clone())];
        messages.extend(dialogue.messages.iter().cloned());
        Ok(messages)
    }
}
