//! Arguments of `card`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use opencharacter_storage::Location;

use super::ModelChoice;

/// `card`
#[derive(Debug, Args)]
pub struct CardArguments {
    /// What to do
    #[command(subcommand)]
    pub command: CardCommand,
}

/// What can be done with cards.
#[derive(Debug, Subcommand)]
pub enum CardCommand {
    /// Make a card of a one-line persona: profile, greetings and example dialogue, with a drawn picture
    Create(CardCreateArguments),
    /// Print who a card is about
    Show {
        /// A PNG, APNG, JSON or CHARX file of any version
        card: PathBuf,
        /// Print the character as JSON, as `--characters` takes it
        #[arg(long)]
        json: bool,
    },
    /// Write a card in another format or version; nothing is lost that the other can hold
    Convert(CardConvertArguments),
    /// Print the prompt that a message to a card's character makes, as front ends build it
    Prompt(CardPromptArguments),
    /// Write each character as a PNG card with a drawn picture
    Export(CardExportArguments),
}

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SpecArgument {
    /// Six texts
    V1,
    /// With lorebook and greetings
    V2,
    /// With assets and decorators; PNGs bring a V2 copy for older programs
    V3,
}

/// `card create`
#[derive(Debug, Args)]
pub struct CardCreateArguments {
    /// The persona, such as "a lighthouse keeper who hates the sea"
    pub persona: String,
    /// The card: `.png`, `.json` or `.charx`
    #[arg(long)]
    pub out: PathBuf,
    #[command(flatten)]
    pub model: ModelChoice,
    /// Everything drawn follows from this
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `card convert`
#[derive(Debug, Args)]
pub struct CardConvertArguments {
    /// A PNG, APNG, JSON or CHARX file of any version
    pub card: PathBuf,
    /// The card: `.png`, `.json` or `.charx`
    #[arg(long)]
    pub out: PathBuf,
    /// The version; CHARX is always V3
    #[arg(long, value_enum, default_value_t = SpecArgument::V3)]
    pub spec: SpecArgument,
    /// An adapter folder that travels with the character; only a CHARX can carry it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
}

/// `card prompt`
#[derive(Debug, Args)]
pub struct CardPromptArguments {
    /// The card
    pub card: PathBuf,
    /// What the user says after the greeting
    #[arg(long)]
    pub message: String,
    /// What the user is called
    #[arg(long, default_value = "User")]
    pub user: String,
    /// How much room there is, in tokens of about four letters
    #[arg(long, default_value_t = 4096)]
    pub context_tokens: usize,
    /// Decides what random macros draw
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Say of each lorebook entry why it was inserted or left out
    #[arg(long)]
    pub trace: bool,
    /// Print parts and trace as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `card export`
#[derive(Debug, Args)]
pub struct CardExportArguments {
    /// Characters, as `characters` writes them
    #[arg(long)]
    pub characters: Location,
    /// The folder; each card is named by its character's id
    #[arg(long)]
    pub out: PathBuf,
}
