//! `eval`: everything but `held-out`.

pub mod arena;
pub mod compare;
pub mod conversation;
pub mod cost;
mod lines;
pub mod persona_gym;
pub mod role_bench;
pub mod rouge;
mod tables;

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use opencharacter_core::{Character, Dialogue, Generate, Role, Sampling};
use opencharacter_engine::EngineOptions;
use opencharacter_eval::{
    Benchmark, BenchmarkReport, BenchmarkScores, Comparison, EvalItem, OverlapReport, Texts, answer_items,
    find_overlap, render_benchmark_report,
    statistics::{Estimate, Resampling},
    style_distance, to_inspect, to_lm_eval,
};
use opencharacter_ledger::{Ledger, LedgeredModel, Recorded};
use opencharacter_storage::Location;
use opencharacter_synth::OnError;
use serde::Serialize;

use self::{
    lines::{json_lines, lines, place},
    tables::{comparison_table, table},
};
use crate::{
    cli::{BenchmarkArguments, ModelChoice},
    inputs::Input,
    interrupt::Interrupt,
    model_recipe::{ModelRecipe, Models},
    models, output,
    progress::Stage,
    run_folder::RunFolder,
};

/// A run of a benchmark: the model under test, and where everything goes.
struct Bench<'a> {
    arguments: &'a BenchmarkArguments,
    folder: RunFolder,
    ledger: Ledger,
    model: Box<dyn Generate>,
    resampling: Resampling,
}

/// What came of it, beside the items.
struct Outcome {
    benchmark: Benchmark,
    settings: BTreeMap<String, String>,
    overlap: Option<OverlapReport>,
    judges: Vec<opencharacter_eval::JudgeReport>,
    agreement: Option<Estimate>,
    comparisons: Vec<Comparison>,
}

impl Outcome {
    fn of(benchmark: Benchmark) -> Self {
        Self {
            benchmark,
            settings: BTreeMap::new(),
            overlap: None,
            judges: Vec::new(),
            agreement: None,
            comparisons: Vec::new(),
        }
    }
}

impl<'a> Bench<'a> {
    fn open(arguments: &'a BenchmarkArguments) -> Result<Self> {
        let folder = RunFolder::open(&arguments.out)?;
        let ledger = Ledger::open(folder.file("ledger"))?;
        let model: Box<dyn Generate> = match &arguments.adapter {
            Some(_) => {
                let choice = ModelChoice { model: arguments.model.clone(), adapter: arguments.adapter.clone() };
                Box::new(models::chosen(&choice, EngineOptions::default())?)
            }
            None => named(&arguments.model)?,
        };
        Ok(Self { arguments, folder, ledger, model, resampling: Resampling::default() })
    }

    fn recorded<'m>(&'m self, model: &'m dyn Generate, stage: &'m str) -> Recorded<'m> {
        Recorded { model: LedgeredModel::new(model, &self.ledger), stage }
    }

    async fn answer(&self, items: &mut [EvalItem], sampling: &Sampling, interrupt: &Interrupt) -> Result<()> {
        let stage = Stage::new("answers", "calls");
        let progress = |name: &str, done: usize, total: usize| stage.set(done, total, name);
        let model = self.recorded(&*self.model, "answers");
        let sampling =
            Sampling { max_tokens: self.arguments.max_tokens.unwrap_or(sampling.max_tokens), ..sampling.clone() };
        let work = answer_items(&model, "answers", items, &sampling, self.arguments.seed, &progress);
        let answered = interrupt.guard(work).await;
        self.ledger.flush()?;
        answered?;
        stage.finish(&format!("{} questions", items.len()));
        Ok(())
    }

    /// Refuses to measure a model by what it was trained on.
    async fn overlap(&self, asked: &Texts) -> Result<Option<OverlapReport>> {
        let Some(folder) = self.arguments.trained_on() else { return Ok(None) };
        let trained = trained_texts(&folder).await?;
        let report = find_overlap(&trained, asked).check(self.arguments.allow_overlap);
        Ok(Some(report.context("`--allow-overlap` measures all the same, and says so in the report")?))
    }

    fn write_lines<T: Serialize>(&self, name: &str, rows: &[T]) -> Result<()> {
        output::file(&self.folder.file(name), json_lines(rows)?.as_bytes())
    }

    /// Writes items, scores and page, and prints the scores.
    fn finish(&self, outcome: Outcome, items: &[EvalItem]) -> Result<()> {
        self.ledger.flush()?;
        let Outcome { benchmark, mut settings, overlap, judges, agreement, comparisons } = outcome;
        settings.insert("seed".into(), self.arguments.seed.to_string());
        let mut scores = BenchmarkScores::new(benchmark, self.model.fingerprint(), settings, items, &self.resampling)?;
        (scores.judges, scores.agreement, scores.overlap) = (judges, agreement, overlap);
        self.write_lines("items.jsonl", items)?;
        output::json_file(&self.folder.file("scores.json"), &scores)?;
        output::json_file(&self.folder.file("lm_eval.json"), &to_lm_eval(&scores))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        output::json_file(&self.folder.file("inspect.json"), &to_inspect(&scores, items, now))?;
        let style = style_distance(items, &self.resampling);
        let title = format!("{}: {}", benchmark.title(), self.arguments.model);
        let page = render_benchmark_report(&BenchmarkReport {
            title: &title,
            scores: &scores,
            items,
            comparisons: &comparisons,
            style: style.as_ref(),
            arena: None,
        });
        output::file(&self.folder.file("report.html"), page.as_bytes())?;
        if self.arguments.json {
            return output::json(&scores);
        }
        output::line(&table(&scores))?;
        comparisons.iter().try_for_each(|comparison| output::line(&format!("\n{}", comparison_table(comparison))))?;
        scores.warnings().iter().try_for_each(|warning| output::line(&format!("warning: {warning}")))?;
        output::line(&format!("report: {}", self.folder.file("report.html").display()))
    }
}

impl BenchmarkArguments {
    async fn characters(&self) -> Result<Vec<Character>> {
        match &self.characters {
            Some(location) => Input::new(location.clone(), OnError::Fail).characters().await,
            None => Ok(Vec::new()),
        }
    }

    /// The folder with what the adapter was trained on: named, or that of the run that the adapter lies in.
    fn trained_on(&self) -> Option<PathBuf> {
        let of_run = || {
            let folder = self.adapter.as_deref()?.parent()?;
            folder.join("dialogues.jsonl").is_file().then(|| folder.to_owned())
        };
        self.trained_on.clone().or_else(of_run)
    }
}

/// A model by its name, or the teacher of a TOML file.
fn named(name: &str) -> Result<Box<dyn Generate>> {
    let is_file = Path::new(name).extension().is_some_and(|ending| ending == "toml");
    let recipe = if is_file { Models::read(Path::new(name))?.teacher } else { ModelRecipe::Embedded(name.to_owned()) };
    models::generator(&recipe, None, "eval")
}

/// Personas and questions of a run's `dialogues.jsonl`; characters that it holds no dialogue of were not trained on.
async fn trained_texts(folder: &Path) -> Result<Texts> {
    let dialogues: Vec<Dialogue> = lines(&folder.join("dialogues.jsonl"))?
        .map(|(number, line)| {
            serde_json::from_str(&line).with_context(|| place(&folder.join("dialogues.jsonl"), number))
        })
        .collect::<Result<_>>()?;
    let characters = folder.join("characters.jsonl");
    let known = Input::new(Location::from(characters), OnError::Skip).characters().await?;
    let trained: HashSet<&str> = dialogues.iter().map(|dialogue| dialogue.character_id.as_str()).collect();
    let characters = known.into_iter().filter(|character| trained.contains(character.character_id.as_str()));
    let asked = dialogues.iter().flat_map(|dialogue| &dialogue.messages).filter(|message| message.role == Role::User);
    let questions: HashSet<&str> = asked.map(|message| message.content.as_str()).collect();
    Ok(Texts {
        characters: characters.map(|character| character.persona).collect(),
        questions: questions.into_iter().map(str::to_owned).collect(),
    })
}
