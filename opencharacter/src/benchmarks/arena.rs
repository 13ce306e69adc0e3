//! `eval arena`.

use anyhow::Result;
use opencharacter_eval::{
    BenchmarkReport, Contender, Judge, JudgeOptions, play_arena, rank_arena, render_benchmark_report,
    statistics::Resampling,
};
use opencharacter_ledger::{Ledger, LedgeredModel, Recorded};

use super::{
    lines::{json_lines, read_items, read_json},
    named,
    tables::arena_table,
};
use crate::{cli::ArenaArguments, interrupt::Interrupt, output, progress::Stage, run_folder::RunFolder};

/// `opencharacter eval arena`
pub async fn command(arguments: &ArenaArguments, interrupt: &Interrupt) -> Result<()> {
    let folder = RunFolder::open(&arguments.out)?;
    let ledger = Ledger::open(folder.file("ledger"))?;
    let items = arguments.folders.iter().map(|folder| read_items(folder)).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = arguments.folders.iter().map(|folder| folder.display().to_string()).collect();
    let contenders: Vec<Contender<'_>> =
        names.iter().zip(&items).map(|(name, items)| Contender { name, items }).collect();
    let models = arguments.judges.iter().map(|name| named(name)).collect::<Result<Vec<_>>>()?;
    let recorded: Vec<Recorded<'_>> =
        models.iter().map(|model| Recorded { model: LedgeredModel::new(&**model, &ledger), stage: "arena" }).collect();
    let judges: Vec<Judge<'_>> =
        arguments.judges.iter().zip(&recorded).map(|(name, model)| Judge { name, model }).collect();
    let stage = Stage::new("matches", "calls");
    let progress = |name: &str, done: usize, total: usize| stage.set(done, total, name);
    let options = JudgeOptions { seed: arguments.seed, ..JudgeOptions::default() };
    let played = interrupt.guard(play_arena(&contenders, &judges, &options, &progress)).await;
    ledger.flush()?;
    let matches = played?;
    stage.finish(&format!("{} matches", matches.len()));
    let scores = rank_arena(&matches, &Resampling::default());
    output::file(&folder.file("matches.jsonl"), json_lines(&matches)?.as_bytes())?;
    output::json_file(&folder.file("ranking.json"), &scores)?;
    let page = render_benchmark_report(&BenchmarkReport {
        title: &format!("Arena of {}; items of the first", names.join(", ")),
        scores: &read_json(&arguments.folders[0].join("scores.json"))?,
        items: &items[0],
        comparisons: &[],
        style: None,
        arena: Some(&scores),
    });
    output::file(&folder.file("report.html"), page.as_bytes())?;
    if arguments.json {
        return output::json(&scores);
    }
    output::line(&arena_table(&scores))?;
    output::line(&format!("report: {}", folder.file("report.html").display()))
}
