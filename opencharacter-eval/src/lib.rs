//! Does a tuned model play characters that it has never seen better than its base?
//!
//! [`evaluate`] asks both models the same questions as the same held-out characters and returns [`Scores`];
//! [`render_report`] turns scores, loss curve, characters and cost into one self-contained HTML page.
//!
//! ```no_run
//! # async fn example(base: &dyn opencharacter_core::Generate, tuned: &dyn opencharacter_core::Generate)
//! # -> Result<(), opencharacter_eval::EvalError> {
//! use opencharacter_eval::{EvalOptions, HeldOutSet, evaluate};
//!
//! let set = HeldOutSet { characters: vec![], instructions: vec![], references: vec![] };
//! let scores = evaluate(base, tuned, &set, &EvalOptions::default(), &|stage, done, total| {
//!     eprintln!("{stage}: {done} of {total}");
//! })
//! .await?;
//! println!("{}", serde_json::to_string_pretty(&scores).unwrap());
//! # Ok(()) }
//! ```
//!
//! # Without a judge
//!
//! No measure of [`evaluate`] needs a judge. A judge's verdict on a 1 to 5 scale saturates (the paper's Table: every
//! system above 4), costs a strong model, and cannot be repeated once that model is gone; likelihoods and rules can. What
//! each measure cannot show is said in its [`MeasureKind`] and printed in the report beside its value.
//! [`style_distance`] and [`best_rouge_l`] need none either.
//!
//! # Benchmarks
//!
//! A benchmark is a list of [`EvalItem`]s that passes through three steps: one makes the questions
//! ([`PersonaGymSet::items`], [`role_bench_items`], [`refusal_items`], [`instruction_following_items`];
//! [`run_conversations`] does all three), [`answer_items`] has them answered, one sets their values
//! ([`judge_persona_gym`], [`score_role_bench`], [`score_refusals`], [`score_instruction_following`]). From items alone
//! follow scores ([`BenchmarkScores`]), comparisons ([`compare`]), the judges' worth ([`judge_reports`], with planted bad
//! answers from [`try_judges`]), a ranking ([`play_arena`], [`rank_arena`]) and the page that shows them
//! ([`render_benchmark_report`]): stored items are scored again without a call, ten thousand of them in under a second.
//! [`find_overlap`] says whether a model was trained on what it would be asked.
//!
//! The unit of every interval is the character ([`statistics`]): fifty answers by one character are not fifty
//! independent observations. A call that failed is missing, counted and listed, and never a zero; so is a verdict that
//! cannot be read.
//!
//! This crate keeps no state: a caller who wants to resume passes models that consult a ledger.

mod answers;
mod arena;
mod benchmark;
mod break_character;
mod calls;
mod contrast;
mod conversation;
mod cost;
mod distractors;
mod diversity;
mod error;
mod evaluate;
mod held_out;
mod identification;
mod interchange;
mod item;
mod judge;
mod judge_report;
mod likelihood;
mod measure;
mod names;
mod overlap;
mod persona_gym;
mod porter;
mod report;
mod role_bench;
mod rouge;
mod scores;
pub mod statistics;
mod style;
mod viewer;
mod words;

pub use answers::sample_answers;
pub use arena::{ArenaJudge, ArenaScores, Contender, Match, PairVerdict, Ranked, play_arena, rank_arena};
pub use benchmark::{
    Benchmark, BenchmarkScores, Comparison, ComparisonRow, CompositeScore, CurvePoint, TaskScore, compare,
};
pub use break_character::{ARTIFICIAL_MENTION, ASSISTANT_VOICE, broken_character_phrases};
pub use calls::{CallOutcome, Progress};
pub use contrast::contrast_references;
pub use conversation::{ConversationOptions, ConversationParty, Transcript, run_conversations};
pub use cost::{instruction_following_items, refusal_items, score_instruction_following, score_refusals};
pub use diversity::{DistinctShare, distinct_shares};
pub use error::EvalError;
pub use evaluate::evaluate;
pub use held_out::{DistractorChoice, EvalOptions, HeldOutSet, Item, Prompts};
pub use identification::identify_authors;
pub use interchange::{to_inspect, to_lm_eval};
pub use item::{EvalItem, PromptKind, Reply, Verdict, VerdictOutcome, answer_items, persona_template};
pub use judge::{Judge, JudgeOptions};
pub use judge_report::{Fitness, JudgeReport, PlantedScore, judge_reports};
pub use likelihood::score_references;
pub use measure::{MeasureKind, Unit};
pub use names::NameMask;
pub use overlap::{OverlapFinding, OverlapReport, OverlapWay, TextKind, Texts, find_overlap};
pub use persona_gym::{
    JudgeTrial, JudgeTrialOptions, Panel, PersonaGymMode, PersonaGymOptions, PersonaGymSet, PersonaGymTask,
    PersonaQuestions, PlantedCase, PlantedKind, Retest, UpstreamTexts, judge_persona_gym, try_judges, write_questions,
};
pub use report::{LossPoint, ProvenanceEntry, RejectionCount, ReportCharacter, ReportInput, StageCost, render_report};
pub use role_bench::{
    RoleBenchKind, RoleBenchRow, RoleBenchSplit, role_bench_items, role_bench_sampling, score_role_bench,
};
pub use rouge::{RougeL, best_rouge_l, rouge_l};
pub use scores::{AnswerRow, Candidate, Identification, Measure, Missing, ModelAnswer, ReferenceRow, Scores};
pub use style::{StyleDistance, style_distance};
pub use viewer::{BenchmarkReport, render_benchmark_report};
pub use words::{word_count, words};
