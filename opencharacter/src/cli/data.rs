//! Arguments of commands that look at rows without a model.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use opencharacter_storage::Location;

/// `query`
#[derive(Debug, Args)]
pub struct QueryArguments {
    /// One SELECT, such as "SELECT strategy, count(*) AS n FROM d GROUP BY strategy"
    pub sql: String,
    /// A name and the file it stands for; as often as there are files
    #[arg(long = "table", value_name = "NAME=FILE", required = true, value_parser = named_table)]
    pub tables: Vec<NamedTable>,
    /// Where the rows go, `.jsonl`, `.parquet` or `.csv`; standard output, as JSON Lines, where absent
    #[arg(long)]
    pub out: Option<Location>,
    /// Memory for sorting, joining and grouping; what needs more is moved to disk
    #[arg(long, default_value_t = 512, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(64..=1 << 20))]
    pub memory_mib: usize,
}

/// A file under the name that a query gives it.
#[derive(Debug, Clone)]
pub struct NamedTable {
    /// In the query.
    pub name: String,
    /// The file.
    pub location: Location,
}

/// `NAME=FILE`
fn named_table(text: &str) -> Result<NamedTable, String> {
    let (name, location) = text.split_once('=').ok_or("expected NAME=FILE, such as d=dialogues.parquet")?;
    let location = location.parse().map_err(|error| format!("{error}"))?;
    Ok(NamedTable { name: name.to_owned(), location })
}

/// `split`
#[derive(Debug, Args)]
pub struct SplitArguments {
    /// Personas or characters: rows with `persona`
    #[arg(long = "in", value_name = "FILE")]
    pub data: Location,
    /// How many rows are set apart; a few more where a cluster cannot be divided
    #[arg(long, value_name = "N")]
    pub held_out: usize,
    /// The rows for training
    #[arg(long)]
    pub train_out: Location,
    /// The rows set apart
    #[arg(long)]
    pub held_out_out: Location,
    /// Decides which clusters
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `deduplicate`
#[derive(Debug, Args)]
pub struct DeduplicateArguments {
    /// The rows
    #[arg(long = "in", value_name = "FILE")]
    pub data: Location,
    /// What of them is compared
    #[arg(long, value_enum)]
    pub by: Compared,
    /// The share of common word triples from which texts are duplicates
    #[arg(long, default_value_t = 0.8)]
    pub threshold: f64,
    /// The rows that stay; without it, duplicates are only named
    #[arg(long)]
    pub out: Option<Location>,
    /// One JSON object per duplicate
    #[arg(long)]
    pub json: bool,
}

/// What of a row is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compared {
    /// The one-line persona
    Persona,
    /// The eight fields of a profile
    Profile,
    /// What is asked
    Question,
    /// What is answered
    Answer,
}

/// `decontaminate`
#[derive(Debug, Args)]
pub struct DecontaminateArguments {
    /// The rows
    #[arg(long = "in", value_name = "FILE")]
    pub data: Location,
    /// Files of benchmarks: of each row, its longest text counts
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub against: Vec<Location>,
    /// The share of common word triples from which texts overlap; 13 words in a row always do
    #[arg(long, default_value_t = 0.6)]
    pub threshold: f64,
    /// The rows that stay; without it, overlaps are only named
    #[arg(long)]
    pub out: Option<Location>,
    /// One JSON object per overlap
    #[arg(long)]
    pub json: bool,
}

/// `quality`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("looked_at").required(true).multiple(true).args(["characters", "dialogues"]))]
pub struct QualityArguments {
    /// Characters: how diverse are they?
    #[arg(long)]
    pub characters: Option<Location>,
    /// Dialogues: what is wrong with their answers?
    #[arg(long)]
    pub dialogues: Option<Location>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `pairs`
#[derive(Debug, Args)]
pub struct PairsArguments {
    /// Dialogues, as `dialogues` writes them
    #[arg(long)]
    pub dialogues: Location,
    /// The pairs, as JSON Lines with `prompt`, `chosen` and `rejected`
    #[arg(long)]
    pub out: PathBuf,
    /// Decides whose answer is the wrong one
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
