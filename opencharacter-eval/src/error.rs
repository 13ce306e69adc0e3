use opencharacter_core::{GenerateError, PromptError};

/// Why an evaluation could not be done.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// There is nobody or nothing to ask.
    #[error("there are no {what}: give at least one")]
    Empty {
        /// `characters`, `instructions`, `personas`, `judges` and the like.
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
    #[error("the {what} `{id}` comes twice: remove one")]
    Duplicate {
        /// `character`, `instruction`, `persona`, `item` and the like.
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
    /// A character without what the model is to be told.
    #[error("`{character}` has no {what}, which the prompt is to hold: add it, or choose another `--prompt`")]
    NothingToPlay {
        /// The character.
        character: String,
        /// `persona` or `profile`.
        what: &'static str,
    },
    /// A row of questions that cannot be used.
    #[error("{place} {what}")]
    Questions {
        /// File and line.
        place: String,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// A row of a benchmark that cannot be used.
    #[error("{place}: {what}")]
    Row {
        /// File and line.
        place: String,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// A file of upstream's rubrics and prompts.
    #[error("`{path}`: {what}; give the folder of a PersonaGym checkout that holds `rubrics` and `prompts`")]
    UpstreamFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// An item of another benchmark.
    #[error("PersonaGym has no task `{task}`: give the items of a PersonaGym run")]
    UnknownTask {
        /// The item's task.
        task: String,
    },
    /// Two runs that cannot be compared.
    #[error(
        "`{first}` and `{second}` have no item in common: compare runs of the same benchmark on the same questions"
    )]
    NothingInCommon {
        /// The one run.
        first: String,
        /// The other.
        second: String,
    },
    /// The model was trained on what it would be asked.
    #[error(
        "{count} of the benchmark's texts are in the training data, so the scores would say nothing about new \
         characters: {named}. Hold them out of training, or allow the overlap, which the report will say"
    )]
    Overlap {
        /// How many.
        count: usize,
        /// The first ones.
        named: String,
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
