//! `ledger`.

use anyhow::{Result, bail};
use opencharacter_ledger::{Ledger, RecordFilter, StageStats, VerifyReport, show, stats, verify};

use crate::{cli::LedgerCommand, output};

/// `opencharacter ledger`
pub fn command(command: &LedgerCommand) -> Result<()> {
    match command {
        LedgerCommand::Verify { ledger, json } => {
            let report = verify(ledger)?;
            if *json {
                output::json(&report)?;
            } else {
                print_report(&report)?;
            }
            if !report.is_sound() {
                bail!("`{}` is not as it was written", ledger.display());
            }
            Ok(())
        }
        LedgerCommand::Stats { ledger, json } => {
            let stages = stats(ledger)?;
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
            show(ledger, filter)?.try_for_each(|record| output::json(&record?))
        }
        LedgerCommand::Compact { ledger } => {
            let report = Ledger::compact(ledger)?;
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
