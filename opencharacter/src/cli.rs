//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValue};
use opencharacter_core::Strategy;
use opencharacter_nn::{LinearName, WeightType};
use opencharacter_remote::mock::MockFault;
use opencharacter_storage::Location;
use opencharacter_synth::OnError;
use opencharacter_train::{Method, Schedule};

use crate::{devices::DeviceArgument, model_source::DEFAULT_MODEL, shapes::Shape};

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
    /// Measure an adapter against its base model on held-out characters
    Eval(EvalArguments),
    /// Write a model, with an adapter merged into it, or dialogues as other programs read them
    Export(ExportArguments),
    /// Show where a row comes from: its calls, model, templates, recipe
    Explain(ExplainArguments),
    /// Talk with a character
    Chat(ChatArguments),
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
    /// Where calls are recorded; `OUT.ledger` where absent. Run again with the same to resume
    #[arg(long)]
    pub ledger: Option<PathBuf>,
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
        /// The ledger's folder
        ledger: PathBuf,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Count calls, outcomes and tokens per stage
    Stats {
        /// The ledger's folder
        ledger: PathBuf,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print records as JSON Lines, oldest first
    Show {
        /// The ledger's folder
        ledger: PathBuf,
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
        /// The ledger's folder
        ledger: PathBuf,
    },
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

/// `train`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("data").required(true).args(["dialogues", "pairs"]))]
pub struct TrainArguments {
    /// Dialogues: native, RoleBench, OpenAI messages or ShareGPT
    #[arg(long)]
    pub dialogues: Option<Location>,
    /// Preference pairs in place of dialogues (DPO): `prompt`, `chosen`, `rejected`, as `pairs` writes them
    #[arg(long)]
    pub pairs: Option<Location>,
    /// The characters of native dialogues and pairs
    #[arg(long)]
    pub characters: Option<Location>,
    /// Dialogues (or pairs) whose loss is measured and never trained
    #[arg(long)]
    pub held_out: Option<Location>,
    /// The model to adapt
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    /// An adapter to go on from, which keeps its rank, alpha and layers; for pairs it is the reference too
    #[arg(long, conflicts_with_all = ["rank", "alpha", "rank_stabilised", "targets"])]
    pub adapter: Option<PathBuf>,
    /// Where `adapter/` (or `model/`), `checkpoints/`, `metrics.jsonl` and `training.json` go; run again to resume
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Use this many dialogues, drawn by seed
    #[arg(long)]
    pub limit: Option<usize>,
    /// Use this many held-out dialogues, drawn by seed
    #[arg(long)]
    pub held_out_limit: Option<usize>,
    /// Print this many packed batches token by token, with what is trained, and stop; with `--json`, one document each
    #[arg(long, value_name = "N")]
    pub show_masks: Option<usize>,
    /// A folder with a `system.jinja` that replaces the built-in system prompt
    #[arg(long)]
    pub templates: Option<PathBuf>,
    /// Passes over the dialogues
    #[arg(long, default_value_t = 2)]
    pub epochs: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 5e-4)]
    pub learning_rate: f64,
    /// How the learning rate falls
    #[arg(long, value_enum, default_value_t = ScheduleArgument::Cosine)]
    pub schedule: ScheduleArgument,
    /// What is trained
    #[arg(long, value_enum, default_value_t = MethodArgument::Lora)]
    pub method: MethodArgument,
    /// Rank of the adapter
    #[arg(long, default_value_t = 16)]
    pub rank: usize,
    /// The adapter's update is scaled by alpha / rank
    #[arg(long, default_value_t = 32.0)]
    pub alpha: f32,
    /// Scale by alpha / sqrt(rank) instead (rsLoRA)
    #[arg(long)]
    pub rank_stabilised: bool,
    /// Share of the adapter's inputs that are dropped while training
    #[arg(long, default_value_t = 0.0)]
    pub dropout: f32,
    /// The layers that get an adapter; all linear ones where absent
    #[arg(long, value_delimiter = ',', value_name = "q_proj,...", value_parser = linear_name)]
    pub targets: Vec<LinearName>,
    /// Noise on the embeddings while training (Jain et al., 2023); 5 is usual, 0 adds none
    #[arg(long, default_value_t = 0.0)]
    pub neftune_alpha: f32,
    /// Share of dialogues trained with the persona alone, without the profile
    #[arg(long, default_value_t = 0.0)]
    pub persona_only: f64,
    /// Share of dialogues trained with the profile alone, without the persona
    #[arg(long, default_value_t = 0.0)]
    pub profile_only: f64,
    /// How closely preference training stays at its reference: DPO's beta; small moves far
    #[arg(long, default_value_t = 0.1)]
    pub beta: f64,
    /// Decoupled weight decay
    #[arg(long, default_value_t = 0.0)]
    pub weight_decay: f64,
    /// Tokens in one packed batch
    #[arg(long, default_value_t = 1024)]
    pub pack_tokens: usize,
    /// Packed batches per step
    #[arg(long, default_value_t = 1)]
    pub packs_per_step: usize,
    /// Longer dialogues are left out and named
    #[arg(long, default_value_t = 1024)]
    pub max_example_tokens: usize,
    /// Steps between two measurements of the held-out loss; 0 measures before and after only
    #[arg(long, default_value_t = 0)]
    pub held_out_every: usize,
    /// Steps between two checkpoints
    #[arg(long, default_value_t = 10)]
    pub checkpoint_every: usize,
    /// Compute activations twice instead of keeping them: less memory, more time
    #[arg(long)]
    pub recompute: bool,
    /// What trains
    #[arg(long, value_enum, default_value_t = DeviceArgument::Cpu)]
    pub device: DeviceArgument,
    /// Decides initial weights and order
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// What to do with a malformed row of an input file
    #[arg(long, value_enum, default_value_t = OnErrorArgument::Fail)]
    pub on_error: OnErrorArgument,
    /// Print the result as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// A linear layer by its name in Hugging Face models.
fn linear_name(name: &str) -> Result<LinearName, String> {
    LinearName::ALL.into_iter().find(|known| known.as_str() == name).ok_or_else(|| {
        let known: Vec<&str> = LinearName::ALL.iter().map(|name| name.as_str()).collect();
        format!("no such layer; known: {}", known.join(", "))
    })
}

/// How the learning rate falls.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ScheduleArgument {
    /// Half a cosine to a tenth
    Cosine,
    /// A line to a tenth
    Linear,
    /// Not at all
    Constant,
}

impl From<ScheduleArgument> for Schedule {
    fn from(argument: ScheduleArgument) -> Self {
        match argument {
            ScheduleArgument::Cosine => Self::Cosine,
            ScheduleArgument::Linear => Self::Linear,
            ScheduleArgument::Constant => Self::Constant,
        }
    }
}

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

/// A benchmark.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Benchmark {
    /// Likelihood, profile identification, break of character and diversity on held-out characters
    HeldOut,
}

/// `eval`
#[derive(Debug, Args)]
pub struct EvalArguments {
    /// The benchmark
    #[arg(value_enum)]
    pub benchmark: Benchmark,
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

/// What `export` can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportTarget {
    /// A model.
    Model(ModelTarget),
    /// Dialogues.
    Data(DataTarget),
}

/// How a model can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelTarget {
    /// The adapter alone.
    Peft,
    /// A Hugging Face folder.
    Safetensors,
    /// A file for llama.cpp.
    Gguf,
    /// A folder for `ollama create`.
    Ollama,
}

/// How dialogues can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataTarget {
    /// A data set folder of LLaMA-Factory's.
    LlamaFactory,
    /// `OpenAI`'s fine-tuning messages.
    OpenAi,
    /// Conversations of `from` and `value`.
    ShareGpt,
    /// The files that the paper released.
    Paper,
}

impl ValueEnum for ExportTarget {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Model(ModelTarget::Peft),
            Self::Model(ModelTarget::Safetensors),
            Self::Model(ModelTarget::Gguf),
            Self::Model(ModelTarget::Ollama),
            Self::Data(DataTarget::LlamaFactory),
            Self::Data(DataTarget::OpenAi),
            Self::Data(DataTarget::ShareGpt),
            Self::Data(DataTarget::Paper),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Model(ModelTarget::Peft) => ("peft", "The adapter alone, in a folder for Python's peft"),
            Self::Model(ModelTarget::Safetensors) => {
                ("safetensors", "A Hugging Face folder for transformers, vLLM and others")
            }
            Self::Model(ModelTarget::Gguf) => ("gguf", "A file for llama.cpp"),
            Self::Model(ModelTarget::Ollama) => {
                ("ollama", "A folder with a GGUF file and a Modelfile, for `ollama create`")
            }
            Self::Data(DataTarget::LlamaFactory) => {
                ("llama-factory", "Dialogues with their system prompts, and the `dataset_info.json` that names them")
            }
            Self::Data(DataTarget::OpenAi) => ("openai", "Dialogues as `messages` of `role` and `content`"),
            Self::Data(DataTarget::ShareGpt) => ("sharegpt", "Dialogues as `conversations` of `from` and `value`"),
            Self::Data(DataTarget::Paper) => {
                ("paper", "`synthetic_dialogue.jsonl` and `synthetic_character.jsonl`, as the paper released them")
            }
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// How weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightTypeArgument {
    /// 32 bits
    F32,
    /// 16 bits
    F16,
    /// 16 bits with the range of 32; safetensors only
    Bf16,
    /// 8 bits and a scale per 32 weights; GGUF only
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<WeightTypeArgument> for WeightType {
    fn from(argument: WeightTypeArgument) -> Self {
        match argument {
            WeightTypeArgument::F32 => Self::F32,
            WeightTypeArgument::F16 => Self::F16,
            WeightTypeArgument::Bf16 => Self::Bf16,
            WeightTypeArgument::Q8_0 => Self::Q8_0,
        }
    }
}

/// `export`
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// What to write
    #[arg(long, value_enum)]
    pub to: ExportTarget,
    #[command(flatten)]
    pub model: ModelChoice,
    /// The dialogues to write (llama-factory, openai, sharegpt, paper)
    #[arg(long)]
    pub dialogues: Option<Location>,
    /// Whose they are
    #[arg(long)]
    pub characters: Option<Location>,
    /// The file (gguf) or folder (all others) to write, which must not exist yet or be an empty folder
    #[arg(long)]
    pub out: PathBuf,
    /// How weights are held; f16 where absent. Norms and biases of GGUF files are always f32
    #[arg(long = "type", value_enum)]
    pub weight_type: Option<WeightTypeArgument>,
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
    pub ledger: Option<PathBuf>,
    /// Print one JSON document in one line
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

/// `bench`
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// What to measure
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time optimiser steps: forward, backward and update, every token trained
    Train(BenchTrainArguments),
    /// Time prefill and decoding of requests in flight
    Engine(BenchEngineArguments),
    /// Time dialogue synthesis against an endpoint of its own: requests per second, CPU, memory, resume
    Synth(BenchSynthArguments),
    /// Serve the endpoint that `bench synth` uses until Ctrl-C: made-up answers, late or faulty as told
    Endpoint(BenchEndpointArguments),
}

/// `bench train`
#[derive(Debug, Args)]
pub struct BenchTrainArguments {
    /// A built-in name, a GGUF file, a folder, or `hf:owner/name`
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    /// What is trained
    #[arg(long, value_enum, default_value_t = MethodArgument::Lora)]
    pub method: MethodArgument,
    /// Sequences in a step
    #[arg(long, default_value_t = 4)]
    pub sequences: usize,
    /// Tokens in a sequence
    #[arg(long, default_value_t = 256)]
    pub tokens: usize,
    /// Rank of the adapter
    #[arg(long, default_value_t = 16)]
    pub rank: usize,
    /// Steps that are timed, after one that is not
    #[arg(long, default_value_t = 5)]
    pub steps: usize,
    /// Compute activations twice instead of keeping them
    #[arg(long)]
    pub recompute: bool,
    /// What trains
    #[arg(long, value_enum, default_value_t = DeviceArgument::Cpu)]
    pub device: DeviceArgument,
    /// Random weights of this shape in place of `--model`
    #[arg(long, value_enum)]
    pub shape: Option<Shape>,
    /// What the GPU can do at most in dense bf16, for the MFU; known for the usual ones
    #[arg(long)]
    pub peak_tflops: Option<f64>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bench engine`
#[derive(Debug, Args)]
pub struct BenchEngineArguments {
    #[command(flatten)]
    pub model: ModelChoice,
    /// Requests in flight
    #[arg(long, default_value_t = 64)]
    pub requests: usize,
    /// Tokens of each prompt; no two begin alike
    #[arg(long, default_value_t = 128)]
    pub prompt_tokens: usize,
    /// Tokens generated for each
    #[arg(long, default_value_t = 128)]
    pub new_tokens: usize,
    /// Runs that are timed, after one that is not
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// How a made-up endpoint behaves.
#[derive(Debug, Clone, Args)]
pub struct EndpointBehaviour {
    /// From request to answer
    #[arg(long, default_value_t = 0)]
    pub latency_ms: u64,
    /// Words of an answer
    #[arg(long, default_value_t = 60)]
    pub answer_words: usize,
    /// Shares of requests that go wrong, such as `429=0.05,500=0.02`: `429`, `429-1` (with Retry-After of 1 s), `500`,
    /// `reset`, `half`, `stall` (60 s), `not-json`, `empty`, `unfinished`
    #[arg(long, value_delimiter = ',', value_parser = endpoint_fault)]
    pub faults: Vec<(MockFault, f64)>,
}

/// `bench endpoint`
#[derive(Debug, Args)]
pub struct BenchEndpointArguments {
    /// The port on loopback; a free one where absent
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    #[command(flatten)]
    pub behaviour: EndpointBehaviour,
}

/// `bench synth`
#[derive(Debug, Args)]
pub struct BenchSynthArguments {
    /// Dialogues to make
    #[arg(long, default_value_t = 100_000)]
    pub dialogues: usize,
    /// Characters who answer
    #[arg(long, default_value_t = 1000)]
    pub characters: usize,
    /// Requests in flight at most
    #[arg(long, default_value_t = 256)]
    pub in_flight: usize,
    #[command(flatten)]
    pub behaviour: EndpointBehaviour,
    /// Where everything goes; a temporary folder where absent
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `KIND=SHARE`
fn endpoint_fault(text: &str) -> Result<(MockFault, f64), String> {
    let (kind, share) = text.split_once('=').ok_or("expected KIND=SHARE, such as 429=0.05")?;
    let share: f64 = share.parse().map_err(|_| format!("`{share}` is no share"))?;
    if !(0.0..=1.0).contains(&share) {
        return Err(format!("{share} is no share: expected 0 to 1"));
    }
    let fault = match kind {
        "429" => MockFault::TooMany,
        "500" => MockFault::ServerError,
        "reset" => MockFault::Reset,
        "half" => MockFault::HalfReply,
        "stall" => MockFault::Stall(Duration::from_mins(1)),
        "not-json" => MockFault::NotJson,
        "empty" => MockFault::Empty,
        "unfinished" => MockFault::Unfinished,
        other => match other.strip_prefix("429-").and_then(|seconds| seconds.parse().ok()) {
            Some(seconds) => MockFault::TooManyFor(seconds),
            None => return Err(format!("`{other}` is no fault that is known; see `--help`")),
        },
    };
    Ok((fault, share))
}

/// What is trained.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum MethodArgument {
    /// A low-rank adapter
    Lora,
    /// Every weight
    Full,
}

impl From<MethodArgument> for Method {
    fn from(argument: MethodArgument) -> Self {
        match argument {
            MethodArgument::Lora => Self::Lora,
            MethodArgument::Full => Self::Full,
        }
    }
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
