//! Arguments of synthesis: making rows with a model, and the record of its calls.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use opencharacter_core::Strategy;
use opencharacter_storage::Location;

use super::OnErrorArgument;
use crate::model_source::DEFAULT_MODEL;

/// A strategy of response synthesis.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum StrategyArgument {
    /// -G: the character answers the question
    Generate,
    /// -R: an existing answer is rewritten in the character's voice
    Rewrite,
}

impl From<StrategyArgument> for Strategy {
    fn from(argument: StrategyArgument) -> Self {
        match argument {
            StrategyArgument::Generate => Self::Generate,
            StrategyArgument::Rewrite => Self::Rewrite,
        }
    }
}

/// What the two synthesis commands share.
#[derive(Debug, Args)]
pub struct SynthesisArguments {
    /// The model that writes: a built-in name, a GGUF file, a folder, or `hf:owner/name`
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    /// A TOML file whose `[models.teacher]` writes, as in a recipe: for models behind an endpoint
    #[arg(long, conflicts_with = "model")]
    pub models: Option<PathBuf>,
    /// Every draw follows from this and the item's id
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Attempts per item
    #[arg(long, default_value_t = 4)]
    pub attempts: usize,
    /// A folder with prompt templates that replace built-in ones of the same name
    #[arg(long)]
    pub templates: Option<PathBuf>,
    /// Where calls are recorded, a folder or `s3://...`; `OUT.ledger` where absent. Run again with the same to resume
    #[arg(long)]
    pub ledger: Option<Location>,
    /// Ask again what the model refused before (other failures are asked again anyway)
    #[arg(long)]
    pub retry_refused: bool,
    /// Have the calls answered by the workers of a cluster: a NATS server with JetStream, such as `nats://host:4222`
    #[arg(long, value_name = "URL")]
    pub cluster: Option<String>,
    /// So many rows: the first so many that are accepted, in the order of the input
    #[arg(long)]
    pub count: Option<usize>,
    /// Ask for a small sample only, and say what the whole would take in calls, tokens, money and time
    #[arg(long)]
    pub dry_run: bool,
    /// Stop when so many tokens were used, prompts included; run again with more to go on
    #[arg(long)]
    pub max_tokens: Option<usize>,
    /// Stop when so much was spent, by `price_in` and `price_out` (per million tokens) of `[models.teacher]`
    #[arg(long)]
    pub max_cost: Option<f64>,
    /// An SQL condition on the input's columns, such as "persona LIKE '%nurse%'": the other rows are left out
    #[arg(long = "where", value_name = "SQL")]
    pub filter: Option<String>,
    /// With `--dry-run`: print one JSON document
    #[arg(long, requires = "dry_run")]
    pub json: bool,
    /// What to do with a malformed row of an input file
    #[arg(long, value_enum, default_value_t = OnErrorArgument::Fail)]
    pub on_error: OnErrorArgument,
}

/// `characters`
#[derive(Debug, Args)]
pub struct CharactersArguments {
    /// Personas: rows with `persona` (JSON Lines, JSON, Parquet, CSV), or one per line in a `.txt`; a path or `s3://...`
    #[arg(long)]
    pub personas: Location,
    /// The characters: `.jsonl`, `.parquet` or `.csv`
    #[arg(long)]
    pub out: Location,
    /// Use this many personas, drawn by seed
    #[arg(long)]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub synthesis: SynthesisArguments,
}

/// `instructions`
#[derive(Debug, Args)]
pub struct InstructionsArguments {
    /// Personas: rows with `persona` (JSON Lines, JSON, Parquet, CSV), or one per line in a `.txt`; a path or `s3://...`
    #[arg(long)]
    pub personas: Location,
    /// The instructions: `.jsonl`, `.parquet` or `.csv`
    #[arg(long)]
    pub out: Location,
    /// Use this many personas, drawn by seed
    #[arg(long)]
    pub limit: Option<usize>,
    /// Questions per persona
    #[arg(long, default_value_t = 1)]
    pub per_persona: usize,
    #[command(flatten)]
    pub synthesis: SynthesisArguments,
}

/// `dialogues`
#[derive(Debug, Args)]
pub struct DialoguesArguments {
    /// Characters, as `characters` writes them
    #[arg(long)]
    pub characters: Location,
    /// Instructions: Alpaca, self-instruct, LIMA, ShareGPT, OpenAI messages or `question`
    #[arg(long)]
    pub instructions: Location,
    /// An SQL condition on the characters' columns; `--where` is for the instructions
    #[arg(long = "characters-where", value_name = "SQL")]
    pub characters_filter: Option<String>,
    /// How answers are made
    #[arg(long, value_enum, default_value_t = StrategyArgument::Generate)]
    pub strategy: StrategyArgument,
    /// The dialogues: `.jsonl`, `.parquet` or `.csv`
    #[arg(long)]
    pub out: Location,
    /// Use this many instructions, drawn by seed
    #[arg(long)]
    pub limit: Option<usize>,
    /// Random characters per instruction
    #[arg(long, default_value_t = 3)]
    pub characters_per_instruction: usize,
    /// Answers drawn per question, of which the most specific to the character is kept
    #[arg(long, default_value_t = 1)]
    pub candidates: usize,
    /// Longest answer in tokens
    #[arg(long, default_value_t = 256)]
    pub answer_tokens: usize,
    #[command(flatten)]
    pub synthesis: SynthesisArguments,
}

/// `filter`
#[derive(Debug, Args)]
pub struct FilterArguments {
    /// Dialogues, as `dialogues` writes them
    #[arg(long)]
    pub dialogues: Location,
    /// Their characters
    #[arg(long)]
    pub characters: Location,
    /// The dialogues that pass: `.jsonl`, `.parquet` or `.csv`; the others go to `OUT.rejected.jsonl` with reasons
    #[arg(long)]
    pub out: Location,
    /// Words that an answer has at least
    #[arg(long, default_value_t = 3)]
    pub least_words: usize,
    /// Words that an answer has at most
    #[arg(long, default_value_t = 1_000)]
    pub most_words: usize,
    /// The language of answers, such as `eng` or `deu` (ISO 639-3); any where absent
    #[arg(long)]
    pub language: Option<String>,
    /// Have the model of `--model` or `--models` give marks from 1 to 5, and keep those of at least this
    #[arg(long, value_name = "MARK", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub least_mark: Option<u8>,
    #[command(flatten)]
    pub synthesis: SynthesisArguments,
}

/// `worker`
#[derive(Debug, Args)]
pub struct WorkerArguments {
    /// The NATS server, such as `nats://host:4222`
    #[arg(long, value_name = "URL")]
    pub cluster: String,
    /// The model that answers: a built-in name, a GGUF file, a folder, or `hf:owner/name`
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    /// A TOML file whose `[models.teacher]` answers, for models behind an endpoint
    #[arg(long, conflicts_with = "model")]
    pub models: Option<PathBuf>,
}

/// `ledger`
#[derive(Debug, Args)]
pub struct LedgerArguments {
    /// What to do
    #[command(subcommand)]
    pub command: LedgerCommand,
}

/// What can be done with a ledger.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Read every record, compare checksums and indexes, and see whether the counts add up
    Verify {
        /// The ledger, a folder or `s3://...`
        ledger: Location,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Count calls, outcomes and tokens per stage
    Stats {
        /// The ledger, a folder or `s3://...`
        ledger: Location,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print records as JSON Lines, oldest first
    Show {
        /// The ledger, a folder or `s3://...`
        ledger: Location,
        /// The call whose key begins so
        #[arg(long, group = "which")]
        key: Option<String>,
        /// Those of one item: a character's or dialogue's id
        #[arg(long, group = "which")]
        item: Option<String>,
        /// Those of one stage, such as `profiles` or `dialogues`
        #[arg(long, group = "which")]
        stage: Option<String>,
    },
    /// Rewrite a ledger without the records that no longer count
    Compact {
        /// The ledger, a folder or `s3://...`
        ledger: Location,
    },
}

/// `explain`
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The row's id, such as `dialogue-0123456789abcdef`
    pub row: String,
    /// The file that holds it
    #[arg(long = "in", value_name = "FILE")]
    pub data: Location,
    /// The ledger of its calls; the one beside the file where absent
    #[arg(long)]
    pub ledger: Option<Location>,
    /// Print one JSON document in one line
    #[arg(long)]
    pub json: bool,
}
