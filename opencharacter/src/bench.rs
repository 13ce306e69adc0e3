//! `bench`: what this machine does, on random tokens. `benchsuite/` measures its peers the same way.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use opencharacter_core::{KeyedRandom, Sampling};
use opencharacter_engine::{Engine, EngineOptions};
use opencharacter_nn::{LoraConfig, PackedBatch};
use opencharacter_train::{MemoryEstimate, Method, StepBatch, TrainConfig, Trainer};
use serde::Serialize;

use crate::{
    bench_synth,
    cli::{BenchCommand, BenchEngineArguments, BenchTrainArguments},
    devices::peak_flops,
    interrupt::Interrupt,
    models, output,
    shapes::Shape,
};

/// `opencharacter bench`
pub async fn command(command: &BenchCommand, interrupt: &Interrupt) -> Result<()> {
    match command {
        BenchCommand::Train(arguments) => train(arguments, interrupt),
        BenchCommand::Engine(arguments) => engine(arguments, interrupt).await,
        BenchCommand::Synth(arguments) => bench_synth::command(arguments, interrupt).await,
        BenchCommand::Endpoint(arguments) => bench_synth::endpoint(arguments, interrupt),
    }
}

/// What `bench train --json` prints.
#[derive(Serialize)]
struct TrainReport {
    model: String,
    method: Method,
    threads: usize,
    tokens_per_step: usize,
    step_seconds: Vec<f64>,
    median_step_seconds: f64,
    tokens_per_second: f64,
    /// The most memory that was resident during the steps.
    peak_resident_bytes: Option<u64>,
    /// What [`MemoryEstimate`] foresaw.
    expected_resident_bytes: usize,
    /// Floating-point operations of a step's products with weights: 4N per token and 6 for each of the adapter's
    /// parameters, or 6N where every weight is trained; the head counts for trained tokens, and attention not at all.
    step_flops: f64,
    /// N: the parameters that are multiplied, the head included and the embedding's look-up not.
    matrix_parameters: f64,
    /// The GPU, where one trains.
    device: Option<String>,
    /// The most memory that was allocated on the GPU at once, without the driver's and cuBLAS's own.
    peak_device_bytes: Option<usize>,
    /// `step_flops` per second over what the GPU can do at most; nothing where that is not known.
    model_flops_utilisation: Option<f64>,
    /// Those of a step's attention: 14 per pair of tokens that see each other and feature of a query head, 4 of them
    /// forward.
    attention_flops: f64,
    loss: f64,
}

fn train(arguments: &BenchTrainArguments, interrupt: &Interrupt) -> Result<()> {
    let device = arguments.device.open()?;
    let decoder = match arguments.shape {
        Some(shape) => shape.decoder()?,
        None => models::load(&arguments.model)?.decoder.clone(),
    };
    let config = TrainConfig {
        method: arguments.method.into(),
        lora: LoraConfig { rank: arguments.rank, alpha: 2.0 * arguments.rank as f32, ..LoraConfig::default() },
        learning_rate: 1e-4,
        recompute: arguments.recompute,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::on(device.as_ref(), &decoder, None, &config)?;
    let (tokens, longest) = (arguments.sequences * arguments.tokens, arguments.tokens);
    let expected = MemoryEstimate::new(&decoder, &config, &config.lora, tokens, longest);
    drop(decoder);
    reset_peak();
    let vocabulary = trainer.decoder().config().vocab_size;
    let mut seconds = Vec::with_capacity(arguments.steps);
    let mut loss = 0.0;
    // The first one allocates; on a GPU, the first ones also choose algorithms.
    let untrained = arguments.tokens.saturating_sub(arguments.answer_tokens.unwrap_or(arguments.tokens));
    let trained: Vec<bool> = (0..arguments.tokens).map(|place| place >= untrained).collect();
    let warm_up = if device.is_some() { 3 } else { 1 };
    for step in 0..warm_up + arguments.steps {
        let mut batch = PackedBatch::new();
        for sequence in 0..arguments.sequences {
            let tokens = random_tokens(arguments.tokens, vocabulary, &[step, sequence]);
            batch.push(&tokens, &trained);
        }
        interrupt.check()?;
        let started = Instant::now();
        loss = trainer.step(&[StepBatch::Dialogues(&batch)], config.learning_rate, step + 1)?.loss;
        if step >= warm_up {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    let tokens_per_step = arguments.sequences * arguments.tokens;
    let median = median(&seconds);
    let heads = arguments.sequences * (arguments.tokens - untrained);
    let step_flops = step_flops(&trainer, config.method, tokens_per_step, heads);
    let name = device.as_ref().map(|device| device.name());
    let peak = arguments.peak_tflops.map(|peak| peak * 1e12).or_else(|| peak_flops(name.as_deref()?));
    let report = TrainReport {
        model: arguments.shape.map_or_else(|| arguments.model.clone(), Shape::name),
        method: config.method,
        threads: opencharacter_nn::team::threads(),
        tokens_per_step,
        median_step_seconds: median,
        tokens_per_second: tokens_per_step as f64 / median,
        peak_resident_bytes: peak_resident_bytes(),
        expected_resident_bytes: expected.total(),
        step_flops,
        attention_flops: attention_flops(&trainer, arguments.sequences, arguments.tokens),
        matrix_parameters: matrix_parameters(&trainer),
        model_flops_utilisation: peak.map(|peak| step_flops / median / peak),
        peak_device_bytes: device.as_ref().map(|device| device.peak_bytes()),
        device: name,
        step_seconds: seconds,
        loss,
    };
    if arguments.json {
        return output::json(&report);
    }
    let on_device = report.device.as_ref().map_or_else(String::new, |device| {
        let share = report.model_flops_utilisation.map_or("unknown".into(), |share| format!("{:.1} %", 100.0 * share));
        format!(
            "; {device}: MFU {share}, {} at the peak",
            mebibytes(report.peak_device_bytes.map(|bytes| bytes as u64))
        )
    });
    output::line(&format!(
        "{:.1} tokens/s, {:.3} s per step of {tokens_per_step} tokens (median of {}), {:.0} GFLOP/s, {} at the peak{}",
        report.tokens_per_second,
        median,
        arguments.steps,
        report.step_flops / median / 1e9,
        mebibytes(report.peak_resident_bytes),
        on_device,
    ))
}

/// Parameters in products: the embedding is looked up, not multiplied; the head is multiplied.
fn matrix_parameters(trainer: &Trainer) -> f64 {
    let config = trainer.decoder().config();
    let block: usize = opencharacter_nn::LinearName::ALL
        .iter()
        .map(|name| {
            let (outputs, inputs) = name.shape(config);
            outputs * inputs
        })
        .sum();
    (config.num_hidden_layers * block + config.vocab_size * config.hidden_size) as f64
}

/// Operations per token in products with weights.
fn step_flops(trainer: &Trainer, method: Method, tokens: usize, trained_tokens: usize) -> f64 {
    let config = trainer.decoder().config();
    let head = (config.vocab_size * config.hidden_size) as f64;
    let body = matrix_parameters(trainer) - head;
    let multiplied = body * tokens as f64 + head * trained_tokens as f64;
    match method {
        Method::Lora => 4.0 * multiplied + 6.0 * (trainer.parameter_count() * tokens) as f64,
        Method::Full => 6.0 * multiplied,
    }
}

/// Operations of causal attention over sequences of one length: two products forward, five backward.
fn attention_flops(trainer: &Trainer, sequences: usize, tokens: usize) -> f64 {
    let config = trainer.decoder().config();
    let features = config.num_hidden_layers * config.num_attention_heads * config.head_dim;
    let pairs: usize = (1..=tokens).map(|seen| config.sliding_window.map_or(seen, |window| seen.min(window))).sum();
    14.0 * (sequences * pairs) as f64 * features as f64
}

/// What `bench engine --json` prints.
#[derive(Serialize)]
struct EngineReport {
    model: String,
    threads: usize,
    requests: usize,
    prompt_tokens: usize,
    new_tokens: usize,
    /// One whole run each: all prompts read, all tokens generated.
    run_seconds: Vec<f64>,
    /// The same with one new token per request: the prefill.
    prefill_seconds: Vec<f64>,
    median_run_seconds: f64,
    median_prefill_seconds: f64,
    prefill_tokens_per_second: f64,
    /// New tokens after the first, over the time after the prefill.
    decode_tokens_per_second: Option<f64>,
    /// All new tokens over the whole run's time.
    generated_tokens_per_second: f64,
    peak_resident_bytes: Option<u64>,
}

async fn engine(arguments: &BenchEngineArguments, interrupt: &Interrupt) -> Result<()> {
    let options = EngineOptions { max_sequences: arguments.requests.max(1), ..EngineOptions::default() };
    let engine = models::chosen(&arguments.model, options)?;
    let vocabulary = engine.model().decoder.config().vocab_size;
    reset_peak();
    let mut run_seconds = Vec::with_capacity(arguments.repeats);
    let mut prefill_seconds = Vec::with_capacity(arguments.repeats);
    for repeat in 0..=arguments.repeats {
        // Both kinds of run alternate, so that a slow moment of the machine meets both.
        for (kind, new_tokens) in [(0, 1), (1, arguments.new_tokens)] {
            let prompts: Vec<Vec<u32>> = (0..arguments.requests)
                .map(|request| random_tokens(arguments.prompt_tokens, vocabulary, &[repeat, kind, request]))
                .collect();
            let started = Instant::now();
            interrupt.guard(generate(&engine, prompts, new_tokens)).await?;
            if repeat > 0 {
                [&mut prefill_seconds, &mut run_seconds][kind].push(started.elapsed().as_secs_f64());
            }
        }
    }
    let (run, prefill) = (median(&run_seconds), median(&prefill_seconds));
    let generated = arguments.requests * arguments.new_tokens;
    let report = EngineReport {
        model: arguments.model.model.clone(),
        threads: opencharacter_nn::team::threads(),
        requests: arguments.requests,
        prompt_tokens: arguments.prompt_tokens,
        new_tokens: arguments.new_tokens,
        median_run_seconds: run,
        median_prefill_seconds: prefill,
        prefill_tokens_per_second: (arguments.requests * arguments.prompt_tokens) as f64 / prefill,
        decode_tokens_per_second: (arguments.new_tokens > 1)
            .then(|| (generated - arguments.requests) as f64 / (run - prefill)),
        generated_tokens_per_second: generated as f64 / run,
        peak_resident_bytes: peak_resident_bytes(),
        run_seconds,
        prefill_seconds,
    };
    if arguments.json {
        return output::json(&report);
    }
    output::line(&format!(
        "{} requests: prefill {:.0} tokens/s, decode {} tokens/s, {:.1} new tokens/s in all, {} at the peak",
        report.requests,
        report.prefill_tokens_per_second,
        report.decode_tokens_per_second.map_or("-".into(), |rate| format!("{rate:.1}")),
        report.generated_tokens_per_second,
        mebibytes(report.peak_resident_bytes),
    ))
}

async fn generate(engine: &Engine, prompts: Vec<Vec<u32>>, new_tokens: usize) -> Result<()> {
    let sampling = Sampling { max_tokens: new_tokens, ..Sampling::default() };
    let answers = prompts.into_iter().map(|prompt| engine.continue_tokens(prompt, sampling.clone(), true));
    let answers = try_join_all(answers).await.context("the engine refused a benchmark's request")?;
    let short = answers.iter().find(|answer| answer.completion_tokens != new_tokens || answer.cached_tokens != 0);
    anyhow::ensure!(
        short.is_none(),
        "a request was not the work that was to be timed; this is a bug, please report it"
    );
    Ok(())
}

fn random_tokens(count: usize, vocabulary: usize, key: &[usize]) -> Vec<u32> {
    let key: Vec<String> = key.iter().map(ToString::to_string).collect();
    let mut random = KeyedRandom::new(0, &key.iter().map(String::as_str).collect::<Vec<_>>());
    (0..count).map(|_| random.below(vocabulary) as u32).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count.is_multiple_of(2) => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        count => sorted[count / 2],
    }
}

/// Starts a new measurement of the peak, where the system can (Linux).
pub fn reset_peak() {
    // Elsewhere, or without the right, the peak is that of the whole process, which is never too small.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that was resident since [`reset_peak`]; nothing where the system does not say.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or("memory unknown".into(), |bytes| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)))
}
