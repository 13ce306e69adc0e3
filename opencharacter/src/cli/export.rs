//! Arguments of `export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::PossibleValue};
use opencharacter_nn::WeightType;
use opencharacter_storage::Location;

use super::ModelChoice;

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
