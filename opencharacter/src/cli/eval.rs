//! Arguments of `eval`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use opencharacter_eval::{PromptKind, RoleBenchSplit};
use opencharacter_storage::Location;

use crate::model_source::DEFAULT_MODEL;

/// `eval`
#[derive(Debug, Args)]
pub struct EvalArguments {
    /// What to measure
    #[command(subcommand)]
    pub command: EvalCommand,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// An adapter against its base on held-out characters, without a judge: likelihood, identification, diversity
    HeldOut(HeldOutArguments),
    /// PersonaGym: five tasks, answers judged from 1 to 5 by judges that are put to the test
    PersonaGym(PersonaGymArguments),
    /// RoleBench: Rouge-L of greedy answers against reference answers
    RoleBench(RoleBenchArguments),
    /// Many turns with a simulated user: does a character still know who it is?
    Conversation(ConversationArguments),
    /// What tuning costs: plain instructions without a character, harmful and harmless requests in character
    Cost(CostArguments),
    /// Rank the answers of several runs of a benchmark: judged in pairs, in both orders
    Arena(ArenaArguments),
    /// Two runs of a benchmark on the items that both have: differences, intervals, p-values
    Compare {
        /// The folder of one `eval`
        first: PathBuf,
        /// The folder of the other
        second: PathBuf,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Rouge-L of predictions, the best over their references, one line each
    Rouge {
        /// JSON Lines with `prediction` and `references`
        #[arg(long)]
        pairs: PathBuf,
        /// Print `{"rouge_l": ...}` per line
        #[arg(long)]
        json: bool,
    },
}

/// `eval held-out`
#[derive(Debug, Args)]
pub struct HeldOutArguments {
    /// The base model, which is also the fixed scorer
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    /// The adapter to measure
    #[arg(long)]
    pub adapter: PathBuf,
    /// Held-out characters
    #[arg(long)]
    pub characters: Location,
    /// Held-out instructions
    #[arg(long)]
    pub instructions: Location,
    /// Reference dialogues of the held-out characters
    #[arg(long)]
    pub references: Location,
    /// Where the ledger and `scores.json` go; run again to resume
    #[arg(long)]
    pub out: PathBuf,
    /// Instructions asked of each character; 0 asks all
    #[arg(long, default_value_t = 0)]
    pub questions_per_character: usize,
    /// Longest answer in tokens
    #[arg(long, default_value_t = 192)]
    pub max_tokens: usize,
    /// Every draw follows from this
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print `scores.json` instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What benchmarks share.
#[derive(Debug, Args)]
pub struct BenchmarkArguments {
    /// The model under test: a built-in name, a GGUF file, a folder, `hf:owner/name`, or for one behind an endpoint a TOML
    /// file whose `[models.teacher]` answers
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    /// An adapter folder, as `train` or PEFT writes it
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// Profiles for the benchmark's personas or roles, found by persona or name
    #[arg(long)]
    pub characters: Option<Location>,
    /// Use so many personas, the first ones, or for RoleBench so many questions, from each role in turn
    #[arg(long)]
    pub limit: Option<usize>,
    /// Where items, scores, report and ledger go; run again to resume
    #[arg(long)]
    pub out: PathBuf,
    /// The folder whose `dialogues.jsonl` and `characters.jsonl` the adapter was trained on; the adapter's run if absent
    #[arg(long)]
    pub trained_on: Option<PathBuf>,
    /// Measure even where the model was trained on what it is asked; the report says so
    #[arg(long)]
    pub allow_overlap: bool,
    /// Longest answer in tokens; the benchmark's own limit where absent
    #[arg(long)]
    pub max_tokens: Option<usize>,
    /// Every draw follows from this
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print `scores.json` instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `eval persona-gym`
#[derive(Debug, Args)]
pub struct PersonaGymArguments {
    #[command(flatten)]
    pub common: BenchmarkArguments,
    /// JSON Lines with `persona` and `questions`, or a folder of upstream's files; written by the first judge where absent
    #[arg(long)]
    pub questions: Option<PathBuf>,
    /// Questions that are written per persona and task
    #[arg(long, default_value_t = 10)]
    pub questions_per_task: usize,
    /// A judge: a model's name, or a TOML file whose `[models.teacher]` judges; several are averaged. None: no scores
    #[arg(long = "judge", value_name = "MODEL")]
    pub judges: Vec<String>,
    /// How answers are judged; a second one on the same answers shows how much it alone moves the score
    #[arg(long = "mode", value_enum, default_value = "checked")]
    pub modes: Vec<ModeArgument>,
    /// Answers per call of a judge (checked mode)
    #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=5))]
    pub judged_together: usize,
    /// The folder of a PersonaGym checkout with `rubrics` and `prompts`, for the paper's modes
    #[arg(long)]
    pub upstream: Option<PathBuf>,
    /// What the model under test is told of its character
    #[arg(long, value_enum, default_value_t = PromptArgument::Persona)]
    pub prompt: PromptArgument,
    /// The first question of each task only
    #[arg(long)]
    pub light: bool,
    /// Answers to each question
    #[arg(long, default_value_t = 1)]
    pub epochs: u32,
    /// Answers on which the judges are tried with planted bad ones
    #[arg(long, default_value_t = 24)]
    pub planted: usize,
}

/// How PersonaGym's answers are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArgument {
    /// Done right: a JSON verdict, missing ones counted and never a zero
    Checked,
    /// As the paper describes it
    PaperText,
    /// As the reference code computes it, defects included
    PaperCode,
}

/// What a model is told of its character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PromptArgument {
    /// The one-line persona
    Persona,
    /// The profile
    Profile,
    /// Both
    Both,
}

impl From<PromptArgument> for PromptKind {
    fn from(argument: PromptArgument) -> Self {
        match argument {
            PromptArgument::Persona => Self::Persona,
            PromptArgument::Profile => Self::Profile,
            PromptArgument::Both => Self::Both,
        }
    }
}

/// `eval role-bench`
#[derive(Debug, Args)]
pub struct RoleBenchArguments {
    #[command(flatten)]
    pub common: BenchmarkArguments,
    /// Files of RoleBench: JSON Lines with `role`, `question` and `generated`
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub rows: Vec<PathBuf>,
    /// What the files' split generalizes to
    #[arg(long, value_enum, default_value_t = SplitArgument::Role)]
    pub split: SplitArgument,
}

/// A split of RoleBench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitArgument {
    /// Roles that training never saw
    Role,
    /// Known roles, new instructions
    Instruction,
}

impl From<SplitArgument> for RoleBenchSplit {
    fn from(argument: SplitArgument) -> Self {
        match argument {
            SplitArgument::Role => Self::RoleGeneralization,
            SplitArgument::Instruction => Self::InstructionGeneralization,
        }
    }
}

/// `eval conversation`
#[derive(Debug, Args)]
pub struct ConversationArguments {
    #[command(flatten)]
    pub common: BenchmarkArguments,
    /// Plays the user: a model's name, or a TOML file whose `[models.teacher]` does
    #[arg(long, value_name = "MODEL", default_value = DEFAULT_MODEL)]
    pub user: String,
    /// Decides what no rule can: named as the user is; without one only literal facts are checked
    #[arg(long, value_name = "MODEL")]
    pub judge: Option<String>,
    /// Turns: a message of the user and an answer each
    #[arg(long, default_value_t = 8)]
    pub turns: u32,
    /// After how many turns the character is probed; 0 is before the conversation
    #[arg(long, value_delimiter = ',', default_values_t = [0, 2, 4, 8])]
    pub probe_after: Vec<u32>,
}

/// `eval cost`
#[derive(Debug, Args)]
pub struct CostArguments {
    #[command(flatten)]
    pub common: BenchmarkArguments,
    /// What is measured; requests in character need `--characters`
    #[arg(value_enum)]
    pub what: CostArgument,
    /// Says what is a refusal, named as `--model` is; a list of phrases does without one
    #[arg(long, value_name = "MODEL")]
    pub judge: Option<String>,
    /// Harmful and harmless requests per character, of each so many
    #[arg(long, default_value_t = 4)]
    pub per_character: usize,
}

/// What tuning may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CostArgument {
    /// Following plain instructions, without a character
    Instructions,
    /// Refusing harmful requests in character, and no others
    Refusal,
}

/// `eval arena`
#[derive(Debug, Args)]
pub struct ArenaArguments {
    /// Folders of the same benchmark, two or more
    #[arg(required = true, num_args = 2.., value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// A judge: a model's name, or a TOML file whose `[models.teacher]` judges
    #[arg(long = "judge", value_name = "MODEL", required = true)]
    pub judges: Vec<String>,
    /// Where the ledger, `matches.jsonl` and `ranking.json` go; run again to resume
    #[arg(long)]
    pub out: PathBuf,
    /// Every draw follows from this
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print the ranking as JSON
    #[arg(long)]
    pub json: bool,
}
