//! Arguments of commands that ask or fetch a model.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use opencharacter_storage::Location;

use super::OnErrorArgument;
use crate::model_source::DEFAULT_MODEL;

/// Which model answers.
#[derive(Debug, Args)]
pub struct ModelChoice {
    /// A built-in name, a GGUF file, a folder, or `hf:owner/name`
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    /// An adapter folder, as `train` or PEFT writes it
    #[arg(long)]
    pub adapter: Option<PathBuf>,
}

/// `score`
#[derive(Debug, Args)]
pub struct ScoreArguments {
    #[command(flatten)]
    pub model: ModelChoice,
    /// Dialogues: native, RoleBench, OpenAI messages or ShareGPT
    #[arg(long)]
    pub dialogues: Location,
    /// The characters of native dialogues
    #[arg(long)]
    pub characters: Option<Location>,
    /// Use this many, drawn by seed 0
    #[arg(long)]
    pub limit: Option<usize>,
    /// What to do with a malformed row
    #[arg(long, value_enum, default_value_t = OnErrorArgument::Fail)]
    pub on_error: OnErrorArgument,
    /// One JSON object per dialogue instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `complete`
#[derive(Debug, Args)]
pub struct CompleteArguments {
    #[command(flatten)]
    pub model: ModelChoice,
    /// A JSON array of messages with `role` and `content`
    #[arg(long)]
    pub messages: PathBuf,
    /// Longest answer in tokens
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// 0 takes the likeliest token always
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Keep the likeliest tokens up to this probability
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Same seed, same text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// A JSON schema that the answer must satisfy
    #[arg(long)]
    pub schema: Option<PathBuf>,
    /// Report each token's log-probability with the N likeliest in its place (needs `--json`)
    #[arg(long, value_name = "N", requires = "json")]
    pub log_probs: Option<usize>,
    /// Print text, finish reason and token counts as JSON
    #[arg(long)]
    pub json: bool,
}

/// `chat`
#[derive(Debug, Args)]
pub struct ChatArguments {
    /// A one-line persona, a character's id or name (with --characters), or a JSON file with a profile
    pub character: String,
    #[command(flatten)]
    pub model: ModelChoice,
    /// Where ids and names are looked up: `characters.jsonl` of a run
    #[arg(long)]
    pub characters: Option<Location>,
    /// 0 always gives the same answer
    #[arg(long, default_value_t = 0.7)]
    pub temperature: f32,
    /// Longest answer in tokens
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// Same seed, same conversation
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `templates`
#[derive(Debug, Args)]
pub struct TemplatesArguments {
    /// The folder, made if need be
    #[arg(long)]
    pub out: PathBuf,
}

/// `model`
#[derive(Debug, Args)]
pub struct ModelArguments {
    /// What to do
    #[command(subcommand)]
    pub command: ModelCommand,
}

/// What can be done with models.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Fetch a model if it is not here, verify it, and print its path
    Fetch {
        /// A built-in name, or `hf:owner/name`
        #[arg(default_value = DEFAULT_MODEL)]
        name: String,
    },
}
