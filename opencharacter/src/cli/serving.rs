//! Arguments of `serve`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use opencharacter_storage::Location;

use crate::model_source::DEFAULT_MODEL;

/// `serve`
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// The model: a built-in name, a GGUF file, a folder or `hf:owner/name`
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    /// An adapter to serve beside the model, as `NAME=DIR` or `DIR` (named `tuned`); the first one answers by default
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    pub adapters: Vec<String>,
    /// Characters to add: what `characters` writes, or a folder of cards; those already known stay as they are
    #[arg(long)]
    pub characters: Option<Location>,
    /// The folder whose folders are shown as runs: what `run`, `train --out` and `eval --out` write
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
    /// Where it listens. Beyond loopback it needs a key in the environment variable `OPENCHARACTER_API_KEY`
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where characters and chats are kept; `opencharacter/serve.sqlite` in the user's data folder where absent
    #[arg(long, value_name = "FILE")]
    pub database: Option<PathBuf>,
    /// Keep nothing: characters and chats are gone when the server ends
    #[arg(long, conflicts_with = "database")]
    pub forget: bool,
    /// Answers under way and waiting; more are turned away with 429
    #[arg(long, default_value_t = 2048)]
    pub most_answers: usize,
    /// Longest answer in tokens where a request names none
    #[arg(long, default_value_t = 512)]
    pub max_tokens: usize,
    /// No answer is longer than so many tokens, whatever a request says
    #[arg(long)]
    pub most_tokens: Option<usize>,
    /// What answers are drawn with where a request brings no seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
