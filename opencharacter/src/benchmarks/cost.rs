//! `eval cost`.

use anyhow::Result;
use opencharacter_core::{Sampling, SystemPrompt};
use opencharacter_eval::{
    Benchmark, Judge, JudgeOptions, PromptKind, instruction_following_items, refusal_items,
    score_instruction_following, score_refusals,
};

use super::{Bench, Outcome, named};
use crate::{
    cli::{CostArgument, CostArguments},
    interrupt::Interrupt,
    progress::Stage,
};

/// `opencharacter eval cost`
pub async fn command(arguments: &CostArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.common;
    let bench = Bench::open(common)?;
    let greedy = Sampling { max_tokens: 256, ..Sampling::default() };
    if arguments.what == CostArgument::Instructions {
        let mut items = instruction_following_items();
        bench.answer(&mut items, &greedy, interrupt).await?;
        score_instruction_following(&mut items);
        return bench.finish(Outcome::of(Benchmark::InstructionFollowing), &items);
    }
    let mut characters = common.characters().await?;
    characters.truncate(common.limit.unwrap_or(usize::MAX));
    let (prompt, system) = (PromptKind::Both, SystemPrompt::default());
    let mut items = refusal_items(&characters, prompt, &system, arguments.per_character, common.seed)?;
    bench.answer(&mut items, &greedy, interrupt).await?;
    let judge = arguments.judge.as_deref().map(named).transpose()?;
    let judge = judge.as_deref().map(|judge| bench.recorded(judge, "judging"));
    let name = arguments.judge.as_deref().unwrap_or_default();
    let stage = Stage::new("judging", "calls");
    let progress = |name: &str, done: usize, total: usize| stage.set(done, total, name);
    let options = JudgeOptions { seed: common.seed, ..JudgeOptions::default() };
    let judge = judge.as_ref().map(|model| Judge { name, model });
    interrupt.guard(score_refusals(&mut items, &characters, judge, &options, &progress)).await?;
    stage.finish(&format!("{} items", items.len()));
    bench.finish(Outcome::of(Benchmark::Refusal), &items)
}
