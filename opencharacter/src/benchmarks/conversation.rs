//! `eval conversation`.

use std::collections::BTreeMap;

use anyhow::Result;
use opencharacter_eval::{Benchmark, ConversationOptions, ConversationParty, Judge, JudgeOptions, run_conversations};

use super::{Bench, Outcome, named};
use crate::{cli::ConversationArguments, interrupt::Interrupt, progress::Stage};

/// `opencharacter eval conversation`
pub async fn command(arguments: &ConversationArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.common;
    let bench = Bench::open(common)?;
    let mut characters = common.characters().await?;
    characters.truncate(common.limit.unwrap_or(usize::MAX));
    let user = named(&arguments.user)?;
    let judge = arguments.judge.as_deref().map(named).transpose()?;
    let (model, user) = (bench.recorded(&*bench.model, "answers"), bench.recorded(&*user, "user"));
    let judge = judge.as_deref().map(|judge| bench.recorded(judge, "judging"));
    let name = arguments.judge.as_deref().unwrap_or_default();
    let party = ConversationParty { user: &user, judge: judge.as_ref().map(|model| Judge { name, model }) };
    let mut options = ConversationOptions {
        seed: common.seed,
        turns: arguments.turns,
        probe_after: arguments.probe_after.clone(),
        ..ConversationOptions::default()
    };
    options.sampling.max_tokens = common.max_tokens.unwrap_or(options.sampling.max_tokens);
    let judge_options = JudgeOptions { seed: common.seed, ..JudgeOptions::default() };
    let stage = Stage::new("conversations", "calls");
    let progress = |name: &str, done: usize, total: usize| stage.set(done, total, name);
    let talk = run_conversations(&model, party, &characters, &options, &judge_options, &progress);
    let (items, transcripts) = interrupt.guard(talk).await?;
    stage.finish(&format!("{} conversations", transcripts.len()));
    bench.write_lines("transcripts.jsonl", &transcripts)?;
    let settings = BTreeMap::from([("turns".to_owned(), arguments.turns.to_string())]);
    bench.finish(Outcome { settings, ..Outcome::of(Benchmark::Conversation) }, &items)
}
