//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use opencharacter_synth::OnError;

mod bench;
mod cards;
mod data;
mod eval;
mod export;
mod models;
mod serving;
mod synthesis;
mod training;

pub use bench::*;
pub use cards::*;
pub use data::*;
pub use eval::*;
pub use export::*;
pub use models::*;
pub use serving::*;
pub use synthesis::*;
pub use training::*;

/// From one-line personas to a fine-tuned, measured, playable character model.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole recipe: characters, dialogues, training, scores, report. Run again to resume
    Run(RunArguments),
    /// Turn one-line personas into character profiles
    Characters(CharactersArguments),
    /// Turn one-line personas into questions that such people might ask
    Instructions(InstructionsArguments),
    /// Turn characters and instructions into dialogues
    Dialogues(DialoguesArguments),
    /// Keep the dialogues that pass rules (refusals, assistant's voice, leaked prompts, length, language) and a judge
    Filter(FilterArguments),
    /// Answer an SQL SELECT over files: filters, joins, counts
    Query(QueryArguments),
    /// Set personas or characters apart in whole clusters of similar ones, so that held out means never seen
    Split(SplitArguments),
    /// Find rows that repeat an earlier one, exactly or nearly, and leave them out
    Deduplicate(DeduplicateArguments),
    /// Find rows that overlap with benchmarks, and leave them out
    Decontaminate(DecontaminateArguments),
    /// Look over characters and dialogues: diversity, refusals, assistant's voice, leaked prompts, languages
    Quality(QualityArguments),
    /// Turn dialogues into preference pairs: one question, answered by the right and by a wrong character
    Pairs(PairsArguments),
    /// Fine-tune an adapter, or every weight, on dialogues or on preference pairs
    Train(TrainArguments),
    /// Print how likely each dialogue's answers are: id, tokens, nll (mean over the assistant's tokens, natural log)
    Score(ScoreArguments),
    /// Answer one conversation
    Complete(CompleteArguments),
    /// Measure models: held-out characters, PersonaGym, RoleBench, comparisons
    Eval(EvalArguments),
    /// Write a model, with an adapter merged into it, or dialogues as other programs read them
    Export(ExportArguments),
    /// Show where a row comes from: its calls, model, templates, recipe
    Explain(ExplainArguments),
    /// Talk with a character
    Chat(ChatArguments),
    /// Serve models and characters: an OpenAI-compatible API and a web page to create characters and talk with them
    Serve(ServeArguments),
    /// Create, read, convert and write character cards, and show the prompts that front ends make of them
    Card(CardArguments),
    /// Copy the built-in prompt templates into a folder, to change them
    Templates(TemplatesArguments),
    /// Fetch and verify models
    Model(ModelArguments),
    /// Answer the model calls of runs elsewhere that were started with `--cluster`
    Worker(WorkerArguments),
    /// Check, count or show the recorded calls of a run, or make the record smaller
    Ledger(LedgerArguments),
    /// Measure this machine: training steps, generation or synthesis
    Bench(BenchArguments),
}

/// `run`
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The recipe, a TOML file
    pub recipe: PathBuf,
    /// Where everything goes; `runs/NAME` of the recipe where absent
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Have the teacher's calls answered by the workers of a cluster: a NATS server with JetStream, `nats://host:4222`
    #[arg(long, value_name = "URL")]
    pub cluster: Option<String>,
    /// What to do with a malformed row of an input file
    #[arg(long, value_enum, default_value_t = OnErrorArgument::Fail)]
    pub on_error: OnErrorArgument,
}

/// What to do with a malformed row.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OnErrorArgument {
    /// Leave it out and say so
    Skip,
    /// Stop and name it
    Fail,
}

impl From<OnErrorArgument> for OnError {
    fn from(argument: OnErrorArgument) -> Self {
        match argument {
            OnErrorArgument::Skip => Self::Skip,
            OnErrorArgument::Fail => Self::Fail,
        }
    }
}
