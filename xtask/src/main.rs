//! Automation of this repository: `cargo xtask test`, `ci`, `golden`, `exports`, `stores`, `browser`, `clients`, `fuzz`,
//! `avx512` and `cuda`.
//!
//! Every command that is started is echoed to standard error, and the first one that fails ends the task with its own
//! exit code.

mod avx512;
mod clients;
mod cuda;
mod debian;
mod exports;
mod fuzz;
mod golden;
mod stores;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::{CommandFailed, Workspace};

/// Automation of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch the embedded model, install a NATS server and Chromium where they are missing, and run all tests.
    Test,
    /// Check formatting and clippy, then do what `test` does.
    Ci,
    /// Make the golden fixtures again (torch, transformers, peft), in a virtual environment under the target directory.
    Golden {
        /// A GGUF file to use in place of the embedded model.
        #[arg(long)]
        model: Option<PathBuf>,
    },
    /// Export models of every family and the embedded one, and let transformers, peft and llama.cpp read them.
    Exports,
    /// Run the tests that need an object store against moto, an S3 server, in a virtual environment.
    Stores,
    /// The part of `test` that looks at pages: a report and the server's, in Chromium.
    Browser,
    /// Install clients of the server (the `openai` packages, schemathesis, Chromium) and let each of them at it.
    Clients,
    /// Let a fuzzer at what strangers send: cards as JSON, PNG and CHARX, and requests.
    Fuzz {
        /// How long, for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Run the kernels' tests on an emulated processor with AVX-512, on a machine without (Debian).
    Avx512,
    /// Build the program with CUDA, with nvcc from the Python package index; no GPU is needed.
    Cuda,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(error.downcast_ref::<CommandFailed>().map_or(1, CommandFailed::exit_code))
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Test => test(&workspace),
        Task::Ci => {
            workspace.cargo(&["fmt", "--all", "--check"])?;
            workspace.cargo(&["fmt", "--manifest-path", fuzz::MANIFEST, "--check"])?;
            workspace.cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
            test(&workspace)
        }
        Task::Golden { model } => {
            let model = model.map_or_else(|| workspace.fetch_model(), |path| Ok(std::path::absolute(path)?))?;
            golden::make(&workspace, &model)
        }
        Task::Exports => exports::test(&workspace),
        Task::Stores => stores::test(&workspace),
        Task::Browser => browse(&workspace),
        Task::Clients => clients::test(&workspace),
        Task::Fuzz { seconds } => fuzz::run_all(&workspace, seconds),
        Task::Avx512 => avx512::test(&workspace),
        Task::Cuda => cuda::build(&workspace),
    }
}

fn test(workspace: &Workspace) -> Result<()> {
    debian::ensure(workspace, "nats-server", "install `nats-server` (2.9 or newer) by hand and put it in the path")?;
    let model = workspace.fetch_model()?;
    let mut command = workspace.cargo_command(&["test", "--release", "--workspace"]);
    command.env("OPENCHARACTER_TEST_MODEL", &model);
    eprintln!("OPENCHARACTER_TEST_MODEL={}", model.display());
    workspace::run(&mut command)?;
    browse(workspace)
}

/// Looks at a report and at the server's page.
fn browse(workspace: &Workspace) -> Result<()> {
    clients::install_chromium(workspace)?;
    workspace.cargo(&["test", "--release", "--workspace", "--test", "viewer", "--", "--ignored"])?;
    clients::look_at_the_page(workspace)
}
