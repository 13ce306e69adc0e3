//! `opencharacter`: the commands, recipe files, progress bars and wiring. Nothing here is reusable; what is lives in
//! the library crates.

mod allocator;
mod available_memory;
mod bench;
mod bench_synth;
mod benchmarks;
mod cards;
mod chat;
mod cli;
mod cluster;
mod data_export;
mod data_quality;
mod data_set_card;
mod dataset;
mod devices;
mod estimate;
mod evaluation;
mod explain;
mod exporting;
mod failure;
mod inputs;
mod interrupt;
mod inventing;
mod ledgers;
mod model_recipe;
mod model_source;
mod models;
mod nobody;
mod output;
mod pairing;
mod progress;
mod querying;
mod recipe;
mod run;
mod run_folder;
mod scoring;
mod serving;
mod shapes;
mod synthesis;
mod training;

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::{
    cli::{Cli, Command, EvalCommand, ExportTarget, ModelCommand},
    interrupt::Interrupt,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    opencharacter_nn::keep_freed_memory();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the program cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if failure::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

async fn dispatch(command: Command) -> Result<()> {
    match command {
        // `chat` has its own meaning for Ctrl-C.
        Command::Chat(arguments) => return chat::chat(&arguments).await,
        // Ctrl-C ends it at once: there is nothing to resume, and what it was writing is replaced next time.
        Command::Export(ref arguments) => {
            if let ExportTarget::Model(target) = arguments.to {
                return exporting::export(arguments, target);
            }
        }
        _ => {}
    }
    let interrupt = Interrupt::listen();
    // What is guarded here has nothing to bring to an end: its files appear whole or not at all.
    match command {
        Command::Run(arguments) => run::run(&arguments, &interrupt).await,
        Command::Characters(arguments) => synthesis::characters(&arguments, &interrupt).await,
        Command::Instructions(arguments) => synthesis::instructions(&arguments, &interrupt).await,
        Command::Dialogues(arguments) => synthesis::dialogues(&arguments, &interrupt).await,
        Command::Filter(arguments) => synthesis::filter(&arguments, &interrupt).await,
        Command::Query(arguments) => interrupt.guard(querying::command(&arguments)).await,
        Command::Split(arguments) => interrupt.guard(data_quality::split(&arguments)).await,
        Command::Deduplicate(arguments) => interrupt.guard(data_quality::deduplicate(&arguments)).await,
        Command::Decontaminate(arguments) => interrupt.guard(data_quality::decontaminate(&arguments)).await,
        Command::Quality(arguments) => interrupt.guard(data_quality::quality(&arguments)).await,
        Command::Pairs(arguments) => interrupt.guard(pairing::command(&arguments)).await,
        Command::Train(arguments) => training::command(&arguments, &interrupt).await,
        Command::Score(arguments) => scoring::score(&arguments, &interrupt).await,
        Command::Complete(arguments) => scoring::complete(&arguments, &interrupt).await,
        Command::Eval(arguments) => eval(&arguments.command, &interrupt).await,
        Command::Export(arguments) => interrupt.guard(data_export::export(&arguments)).await,
        Command::Explain(arguments) => interrupt.guard(explain::command(&arguments)).await,
        Command::Chat(arguments) => chat::chat(&arguments).await,
        Command::Serve(arguments) => serving::command(&arguments, &interrupt).await,
        Command::Card(arguments) => interrupt.guard(cards::command(&arguments.command)).await,
        Command::Templates(arguments) => {
            opencharacter_synth::Templates::default().write_to(&arguments.out)?;
            eprintln!("templates written to `{}`; use them with `--templates`", arguments.out.display());
            Ok(())
        }
        Command::Worker(arguments) => cluster::worker(&arguments, &interrupt).await,
        Command::Ledger(arguments) => ledgers::command(&arguments.command),
        Command::Bench(arguments) => bench::command(&arguments.command, &interrupt).await,
        Command::Model(arguments) => match arguments.command {
            ModelCommand::Fetch { name } => {
                let path = model_source::resolve(&name)?;
                writeln!(std::io::stdout(), "{}", path.display()).context("cannot write to standard output")
            }
        },
    }
}

async fn eval(command: &EvalCommand, interrupt: &Interrupt) -> Result<()> {
    match command {
        EvalCommand::HeldOut(arguments) => evaluation::command(arguments, interrupt).await,
        EvalCommand::PersonaGym(arguments) => benchmarks::persona_gym::command(arguments, interrupt).await,
        EvalCommand::RoleBench(arguments) => benchmarks::role_bench::command(arguments, interrupt).await,
        EvalCommand::Conversation(arguments) => benchmarks::conversation::command(arguments, interrupt).await,
        EvalCommand::Cost(arguments) => benchmarks::cost::command(arguments, interrupt).await,
        EvalCommand::Arena(arguments) => benchmarks::arena::command(arguments, interrupt).await,
        EvalCommand::Compare { first, second, json } => benchmarks::compare::command(first, second, *json),
        EvalCommand::Rouge { pairs, json } => benchmarks::rouge::command(pairs, *json),
    }
}
