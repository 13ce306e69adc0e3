//! Where ledgers are, and `ledger`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use opencharacter_ledger::{Ledger, RecordFilter, StageStats, VerifyReport, show, stats, verify};
use opencharacter_storage::Location;

use crate::{cli::LedgerCommand, model_source, output};

/// Opens a ledger, here or in an object store.
pub fn open(location: &Location) -> Result<Ledger> {
    Ok(Ledger::open_at(location, copy_of(location)?)?)
}

/// The folder in which a ledger can be read: its own, or the copy on this machine of one in an object store.
pub fn folder(location: &Location) -> Result<PathBuf> {
    if let Some(folder) = location.local() {
        return Ok(folder.to_owned());
    }
    // Opening brings the copy up to date.
    open(location)?.close()?;
    copy_of(location)
}

/// Of a ledger in an object store: what of it is on this machine, and what was not sent yet when a process was killed.
fn copy_of(location: &Location) -> Result<PathBuf> {
    if let Some(folder) = location.local() {
        return Ok(folder.to_owned());
    }
    let name = opencharacter_core::short_id("ledger", &[&location.to_string()]);
    let cache = model_source::cache_folder().context("a ledger in an object store needs a folder for its copy")?;
    Ok(cache.join("ledgers").join(name))
}

/// `opencharacter ledger`
pub fn command(command: &LedgerCommand) -> Result<()> {
    match command {
        LedgerCommand::Verify { ledger, json } => {
            let report = verify(folder(ledger)?)?;
            if *json {
                output::json(&report)?;
            } else {
                print_report(&report)?;
            }
            if !report.is_sound() {
                bail!("`{ledger}` is not as it was written");
            }
            Ok(())
        }
        LedgerCommand::Stats { ledger, json } => {
            let stages = stats(folder(ledger)?)?;
            if *json {
                return output::json(&stages);
            }
            stages.iter().try_for_each(|(stage, stats)| print_stage(stage, stats))
        }
        LedgerCommand::Show { ledger, key, item, stage } => {
            let filter = match (key, item, stage) {
                (Some(key), _, _) => RecordFilter::Key(key.clone()),
                (_, Some(item), _) => RecordFilter::Item(item.clone()),
                (_, _, Some(stage)) => RecordFilter::Stage(stage.clone()),
                (None, None, None) => RecordFilter::All,
            };
            show(folder(ledger)?, filter)?.try_for_each(|record| output::json(&record?))
        }
        LedgerCommand::Compact { ledger } => {
            let Some(folder) = ledger.local() else {
                bail!("`{ledger}` is in an object store, where others may be writing: it cannot be compacted");
            };
            let report = Ledger::compact(folder)?;
            output::json(&report)
        }
    }
}

fn print_report(report: &VerifyReport) -> Result<()> {
    output::line(&format!(
        "{} records in {} segments, {} of them indexed: {} accepted, {} rejected, {} scored, {} failed, {} of them \
         judged anew\n{} keys, {} calls repeated after a success\n{} bytes torn at ends, {} segments being written",
        report.records,
        report.segments,
        report.indexed,
        report.accepted,
        report.rejected,
        report.scored,
        report.failed.values().sum::<u64>(),
        report.rejudged,
        report.keys,
        report.repeated_calls,
        report.torn_bytes,
        report.live_writers,
    ))?;
    report.damage.iter().try_for_each(|damage| {
        output::line(&format!("damaged: `{}` at byte {}: {}", damage.path.display(), damage.offset, damage.reason))
    })
}

fn print_stage(name: &str, stats: &StageStats) -> Result<()> {
    output::line(&format!(
        "{name}: {} calls, {} keys: {} accepted, {} rejected, {} scored, {} failed; {} tokens read, {} written",
        stats.calls.calls(),
        stats.keys,
        stats.accepted,
        stats.rejected.values().sum::<u64>(),
        stats.scored,
        stats.failed.values().sum::<u64>(),
        stats.calls.prompt_tokens,
        stats.calls.completion_tokens,
    ))?;
    stats.rejected.iter().try_for_each(|(rule, count)| output::line(&format!("  {count:>6}  {rule}")))
}
