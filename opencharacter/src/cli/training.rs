//! Arguments of `train`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use opencharacter_nn::LinearName;
use opencharacter_storage::Location;
use opencharacter_train::{Method, Schedule};

use super::OnErrorArgument;
use crate::{devices::DeviceArgument, model_source::DEFAULT_MODEL};

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
