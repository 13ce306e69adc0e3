//! `bench synth` and `bench endpoint`: synthesis against a made-up endpoint, as a user would run it.

use std::{
    cell::RefCell,
    convert::Infallible,
    fs,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use opencharacter_core::{Character, Instruction, KeyedRandom, Turn};
use opencharacter_remote::mock::{MockCounts, MockEndpoint, MockOptions};
use serde::Serialize;

use crate::{
    bench::{peak_resident_bytes, reset_peak},
    cli::{self, BenchEndpointArguments, BenchSynthArguments, Cli, EndpointBehaviour},
    interrupt::Interrupt,
    output, synthesis,
};

/// `opencharacter bench endpoint`
///
/// On one thread: what the endpoint costs is missing to what is measured beside it, and threads that wake one another
/// cost more than the second gains.
pub fn endpoint(arguments: &BenchEndpointArguments, interrupt: &Interrupt) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the endpoint cannot start")?;
    // A thread of the program's own runtime cannot drive another.
    let served = thread::scope(|scope| scope.spawn(|| runtime.block_on(serve(arguments, interrupt))).join());
    served.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn serve(arguments: &BenchEndpointArguments, interrupt: &Interrupt) -> Result<()> {
    let behaviour = &arguments.behaviour;
    let words = behaviour.answer_words;
    let options = MockOptions {
        latency: Duration::from_millis(behaviour.latency_ms),
        faults: behaviour.faults.clone(),
        answer: Arc::new(move |body| made_up(&body["messages"].to_string(), words)),
        ..MockOptions::default()
    };
    let endpoint = MockEndpoint::start_at(options, arguments.port).context("the endpoint cannot listen")?;
    output::line(&endpoint.base_url())?;
    while interrupt.check().is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Sentences that nothing rejects, different for each question.
fn made_up(question: &str, words: usize) -> String {
    const WORDS: [&str; 40] = [
        "lamp",
        "harbour",
        "winter",
        "bread",
        "letter",
        "garden",
        "engine",
        "river",
        "sister",
        "coat",
        "market",
        "window",
        "ladder",
        "copper",
        "morning",
        "violin",
        "ticket",
        "stone",
        "orchard",
        "kettle",
        "keeps",
        "mends",
        "forgets",
        "carries",
        "counts",
        "paints",
        "remembers",
        "sells",
        "hides",
        "warms",
        "old",
        "narrow",
        "quiet",
        "borrowed",
        "northern",
        "patient",
        "broken",
        "yellow",
        "distant",
        "heavy",
    ];
    let mut random = KeyedRandom::new(0, &["answer", question]);
    let mut text = String::new();
    for word in 0..words.max(1) {
        let drawn = WORDS[random.below(WORDS.len())];
        match word % 12 {
            0 if word > 0 => text.push_str(". My "),
            0 => text.push_str("My "),
            _ => text.push(' '),
        }
        text.push_str(drawn);
    }
    text.push('.');
    text
}

/// What `bench synth --json` prints.
#[derive(Serialize)]
struct SynthReport {
    dialogues: usize,
    in_flight: usize,
    latency_ms: u64,
    /// From the command's start to the file at its place.
    seconds: f64,
    /// Rows of the file per second.
    dialogues_per_second: f64,
    /// Requests that the endpoint counted, per second.
    requests_per_second: f64,
    /// The same over the second half of the time: how many the endpoint bears is known by then.
    second_half_requests_per_second: Option<f64>,
    /// Of this process, without the endpoint's.
    cpu_seconds_per_1000_requests: Option<f64>,
    /// The most memory that was resident.
    peak_resident_bytes: Option<u64>,
    /// The endpoint's own count.
    endpoint: MockCounts,
    /// Answers beyond the first to the same request.
    repeated_answers: u64,
    /// The same command again, with everything there.
    resume_seconds: f64,
    /// The same command again without its output: every row from the ledger.
    replay_seconds: f64,
    /// Requests of both.
    resume_requests: u64,
    /// Bytes of the ledger.
    ledger_bytes: u64,
}

/// `opencharacter bench synth`
pub async fn command(arguments: &BenchSynthArguments, interrupt: &Interrupt) -> Result<()> {
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = arguments.out.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    write_inputs(&folder, arguments)?;
    let endpoint = EndpointProcess::start(&arguments.behaviour)?;
    let models = format!(
        "[models.teacher]\nprovider = \"openai\"\nmodel = \"made-up\"\nbase_url = \"{}\"\nmax_in_flight = {}\n",
        endpoint.base_url, arguments.in_flight
    );
    output::file(&folder.join("models.toml"), models.as_bytes())?;
    reset_peak();
    let (started, cpu_before) = (Instant::now(), cpu_seconds());
    let samples = Samples::default();
    tokio::select! {
        made = dialogues(&folder, interrupt) => made?,
        never = samples.take(&endpoint, started) => match never {},
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    let counts = endpoint.counts()?;
    samples.add(seconds, counts.requests);
    let resume_seconds = timed(dialogues(&folder, interrupt)).await?;
    fs::remove_file(folder.join("dialogues.jsonl")).context("the dialogues are not there")?;
    let replay_seconds = timed(dialogues(&folder, interrupt)).await?;
    let report = SynthReport {
        dialogues: arguments.dialogues,
        in_flight: arguments.in_flight,
        latency_ms: arguments.behaviour.latency_ms,
        seconds,
        dialogues_per_second: arguments.dialogues as f64 / seconds,
        requests_per_second: counts.requests as f64 / seconds,
        second_half_requests_per_second: samples.second_half_rate(),
        cpu_seconds_per_1000_requests: cpu.map(|cpu| cpu * 1000.0 / counts.requests as f64),
        peak_resident_bytes: peak_resident_bytes(),
        endpoint: counts,
        repeated_answers: counts.answered - counts.different as u64,
        resume_seconds,
        replay_seconds,
        resume_requests: endpoint.counts()?.requests - counts.requests,
        ledger_bytes: folder_bytes(&folder.join("dialogues.jsonl.ledger")),
    };
    if arguments.json {
        return output::json(&report);
    }
    output::line(&format!(
        "{} dialogues in {seconds:.1} s: {:.0} requests/s ({:.0} in its second half), {:.3} CPU seconds per 1,000 requests, peak {:.0} MiB\n\
         again: {resume_seconds:.2} s; from the ledger: {replay_seconds:.1} s; {} answers repeated",
        report.dialogues,
        report.requests_per_second,
        report.second_half_requests_per_second.unwrap_or(f64::NAN),
        report.cpu_seconds_per_1000_requests.unwrap_or(f64::NAN),
        report.peak_resident_bytes.unwrap_or(0) as f64 / f64::from(1 << 20),
        report.repeated_answers,
    ))
}

/// How many requests the endpoint had counted after how many seconds.
#[derive(Default)]
struct Samples(RefCell<Vec<(f64, u64)>>);

impl Samples {
    fn add(&self, seconds: f64, requests: u64) {
        self.0.borrow_mut().push((seconds, requests));
    }

    /// Asks the endpoint once a second.
    async fn take(&self, endpoint: &EndpointProcess, started: Instant) -> Infallible {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let url = endpoint.statistics_url();
            let counts = tokio::task::spawn_blocking(move || counts_at(&url)).await;
            // One look more or less does not matter.
            if let Ok(Ok(counts)) = counts {
                self.add(started.elapsed().as_secs_f64(), counts.requests);
            }
        }
    }

    /// From the first look in the second half to the last one.
    fn second_half_rate(&self) -> Option<f64> {
        let samples = self.0.borrow();
        let last = samples.last()?;
        let first = samples.iter().find(|(seconds, _)| *seconds >= last.0 / 2.0)?;
        (first.0 < last.0).then(|| (last.1 - first.1) as f64 / (last.0 - first.0))
    }
}

async fn timed(work: impl Future<Output = Result<()>>) -> Result<f64> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed().as_secs_f64())
}

/// The command that a user would give.
async fn dialogues(folder: &Path, interrupt: &Interrupt) -> Result<()> {
    let path = |name: &str| folder.join(name).display().to_string();
    let line = Cli::try_parse_from([
        "opencharacter",
        "dialogues",
        "--characters",
        &path("characters.jsonl"),
        "--instructions",
        &path("instructions.jsonl"),
        "--models",
        &path("models.toml"),
        "--out",
        &path("dialogues.jsonl"),
    ])?;
    let cli::Command::Dialogues(arguments) = line.command else { bail!("the command is no longer `dialogues`") };
    synthesis::dialogues(&arguments, interrupt).await
}

fn write_inputs(folder: &Path, arguments: &BenchSynthArguments) -> Result<()> {
    let character = |number: usize| {
        let mut character = Character::from_name(&format!("Keeper {number}"), "bench", "CC0-1.0");
        character.persona = format!("A keeper of lighthouse number {number} who counts ships");
        character.character_id = opencharacter_core::short_id("character", &[&character.persona]);
        character.profile.personality = made_up(&number.to_string(), 60);
        character.profile.general_experience = made_up(&format!("life {number}"), 120);
        character
    };
    rows(&folder.join("characters.jsonl"), (0..arguments.characters).map(character))?;
    let instruction = |number: usize| {
        let user = format!("Question {number}: what did you see when the {}", made_up(&number.to_string(), 12));
        Instruction::new(vec![Turn { user, answer: None }], "bench", "CC0-1.0")
    };
    rows(&folder.join("instructions.jsonl"), (0..arguments.dialogues.div_ceil(3)).map(instruction))
}

fn rows<T: Serialize>(path: &Path, rows: impl Iterator<Item = T>) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(fs::File::create(path)?);
        for row in rows {
            serde_json::to_writer(&mut file, &row)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}

/// The endpoint in a process of its own, which ends with this value.
struct EndpointProcess {
    child: Child,
    base_url: String,
}

impl EndpointProcess {
    fn start(behaviour: &EndpointBehaviour) -> Result<Self> {
        let program = std::env::current_exe().context("this program cannot find itself")?;
        let mut command = Command::new(program);
        command.args(["bench", "endpoint", "--latency-ms", &behaviour.latency_ms.to_string()]);
        command.args(["--answer-words", &behaviour.answer_words.to_string()]);
        if !behaviour.faults.is_empty() {
            let faults: Vec<String> =
                behaviour.faults.iter().map(|(fault, share)| format!("{}={share}", fault.name())).collect();
            command.args(["--faults", &faults.join(",")]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().context("the endpoint cannot be started")?;
        let mut base_url = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut base_url));
        if !matches!(read, Some(Ok(1..))) {
            bail!("the endpoint did not start");
        }
        Ok(Self { child, base_url: base_url.trim().to_owned() })
    }

    fn counts(&self) -> Result<MockCounts> {
        counts_at(&self.statistics_url())
    }

    fn statistics_url(&self) -> String {
        format!("{}/statistics", self.base_url.trim_end_matches("/v1"))
    }
}

fn counts_at(url: &str) -> Result<MockCounts> {
    let text = ureq::get(url).call()?.body_mut().read_to_string()?;
    Ok(serde_json::from_str(&text)?)
}

impl Drop for EndpointProcess {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of this process; nothing where the system does not say.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; the fields after it are numbers.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    // Linux counts in hundredths of a second for every program.
    Some(ticks / 100.0)
}

fn folder_bytes(folder: &PathBuf) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
