use opencharacter_core::{GenerateError, PromptError};

/// Why an evaluation could not be done.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// There is nobody or nothing to ask.
    #[error("the held-out set has no {what}: hold out at least one")]
    Empty {
        /// `characters` or `instructions`.
        what: &'static str,
    },
    /// Identification cannot draw its distractors.
    #[error(
        "identification among {needed} profiles needs {needed} held-out characters, found {found}: hold out more, or \
         lower `distractors`"
    )]
    TooFewCharacters {
        /// The right profile and the distractors.
        needed: usize,
        /// Held-out characters given.
        found: usize,
    },
    /// The same id twice would count one observation as two.
    #[error("the held-out set has the {what} `{id}` twice: remove one")]
    Duplicate {
        /// `character`, `instruction` or `reference dialogue`.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// An instruction without a question.
    #[error("the instruction `{instruction_id}` has no turn: give it at least one")]
    NoQuestion {
        /// The instruction.
        instruction_id: String,
    },
    /// A reference whose character is not among the held-out ones, which would be a leak or a mistake.
    #[error(
        "the reference dialogue `{dialogue_id}` is of the character `{character_id}`, which is not held out: remove it"
    )]
    UnknownCharacter {
        /// The dialogue.
        dialogue_id: String,
        /// The character it names.
        character_id: String,
    },
    /// A reference with nothing to score.
    #[error("the reference dialogue `{dialogue_id}` has no assistant message: remove it")]
    NoAnswer {
        /// The dialogue.
        dialogue_id: String,
    },
    /// The system prompt's template cannot be used.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A model could not be reached, or cannot do this kind of call.
    #[error("{stage}, item `{item_id}`: {source}. What was answered is kept by the ledger; run again to go on")]
    Model {
        /// What was being done.
        stage: String,
        /// For which item.
        item_id: String,
        /// What the model said.
        source: GenerateError,
    },
}
