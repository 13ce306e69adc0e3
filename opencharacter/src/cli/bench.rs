//! Arguments of `bench`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use opencharacter_remote::mock::MockFault;

use super::{MethodArgument, ModelChoice};
use crate::{devices::DeviceArgument, model_source::DEFAULT_MODEL, shapes::Shape};

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
    /// How many tokens at the end of a sequence are trained, as in a dialogue the answer is; all of them where absent
    #[arg(long)]
    pub answer_tokens: Option<usize>,
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
