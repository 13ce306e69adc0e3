//! `eval persona-gym`, `eval role-bench`, `eval compare` and `eval rouge`.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use opencharacter_core::{Character, Dialogue, Generate, Role, SystemPrompt};
use opencharacter_engine::EngineOptions;
use opencharacter_eval::{
    Benchmark, BenchmarkReport, BenchmarkScores, Comparison, EvalItem, Judge, JudgeOptions, JudgeTrialOptions,
    OverlapReport, Panel, PersonaGymMode, PersonaGymOptions, PersonaGymSet, PersonaQuestions, RoleBenchRow, Texts,
    UpstreamTexts, answer_items, best_rouge_l, compare as compare_items, find_overlap, judge_persona_gym,
    judge_reports, render_benchmark_report, role_bench_items, role_bench_sampling, score_role_bench,
    statistics::{Estimate, Resampling},
    style_distance, try_judges, write_questions,
};
use opencharacter_ledger::{Ledger, LedgeredModel, Recorded};
use opencharacter_storage::Location;
use opencharacter_synth::OnError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    benchmark_tables::{comparison_table, table},
    cli::{BenchmarkArguments, ModeArgument, ModelChoice, PersonaGymArguments, RoleBenchArguments},
    failure::Usage,
    inputs::Input,
    interrupt::Interrupt,
    model_recipe::{ModelRecipe, Models},
    models, output,
    progress::Stage,
    run_folder::RunFolder,
};

/// `opencharacter eval persona-gym`
pub async fn persona_gym(arguments: &PersonaGymArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.common;
    let bench = Bench::open(common)?;
    let judges = arguments.judges.iter().map(|name| named(name)).collect::<Result<Vec<_>>>()?;
    let judged: Vec<Recorded<'_>> = judges.iter().map(|judge| bench.recorded(&**judge, "judging")).collect();
    let characters = common.characters().await?;
    let questions = match (&arguments.questions, judged.first()) {
        (Some(path), _) => read_questions(path)?,
        (None, Some(writer)) => new_questions(arguments, &characters, writer, interrupt).await?,
        (None, None) => bail!(Usage("without `--questions` a `--judge` is needed, which writes them".into())),
    };
    let set = PersonaGymSet::new(questions, &characters)?;
    let options = PersonaGymOptions {
        prompt: arguments.prompt.into(),
        light: arguments.light,
        epochs: arguments.epochs,
        limit: common.limit,
        ..PersonaGymOptions::default()
    };
    let mut items = set.items(&options)?;
    let asked = Texts {
        characters: set.characters().take(options.limit.unwrap_or(usize::MAX)).map(|one| one.persona.clone()).collect(),
        questions: items.iter().map(|item| item.question().to_owned()).collect(),
    };
    let overlap = bench.overlap(&asked).await?;
    bench.answer(&mut items, &PersonaGymOptions::sampling(), interrupt).await?;
    let settings = BTreeMap::from([
        ("prompt".to_owned(), format!("{:?}", options.prompt).to_lowercase()),
        ("light".to_owned(), options.light.to_string()),
        ("epochs".to_owned(), options.epochs.to_string()),
    ]);
    let mut outcome = Outcome { settings, overlap, ..Outcome::of(Benchmark::PersonaGym) };
    let Some(writer) = judged.first() else {
        return bench.finish(outcome, &items);
    };
    let panel = Panel {
        exemplar_writer: writer,
        judges: arguments.judges.iter().zip(&judged).map(|(name, model)| Judge { name, model }).collect(),
    };
    let texts = match &arguments.upstream {
        Some(folder) => Some(UpstreamTexts::read(folder)?),
        None => None,
    };
    let judge_options = JudgeOptions { seed: common.seed, ..JudgeOptions::default() };
    let mut other_modes = Vec::new();
    for (place, mode) in arguments.modes.iter().enumerate() {
        let mode = mode.with(arguments.judged_together, texts.as_ref())?;
        let mut judged_items = items.clone();
        let stage = Stage::new(format!("judging, {}", mode.name()), "calls");
        let progress = |name: &str, done: usize, total: usize| stage.set(done, total, name);
        interrupt.guard(judge_persona_gym(&mut judged_items, &panel, mode, &judge_options, &progress)).await?;
        stage.finish(&format!("{} answers", judged_items.len()));
        if place == 0 {
            outcome.settings.insert("mode".into(), mode.name().into());
            items = judged_items;
        } else {
            other_modes.push((mode.name(), judged_items));
        }
    }
    for (name, others) in &other_modes {
        let first = outcome.settings.get("mode").map_or("", String::as_str);
        outcome.comparisons.push(compare_items(
            Benchmark::PersonaGym,
            (first, &items),
            (name, others),
            &bench.resampling,
        )?);
    }
    let stage = Stage::new("trying the judges", "calls");
    let progress = |name: &str, done: usize, total: usize| stage.set(done, total, name);
    let trial_options = JudgeTrialOptions { seed: common.seed, answers: arguments.planted };
    let trial = interrupt.guard(try_judges(&items, &panel, trial_options, &judge_options, &progress)).await?;
    stage.finish(&format!("{} answers planted", trial.planted.len()));
    let (reports, agreement) = judge_reports(&items, Some(&trial), &bench.resampling);
    bench.finish(Outcome { judges: reports, agreement, ..outcome }, &items)
}

/// `opencharacter eval role-bench`
pub async fn role_bench(arguments: &RoleBenchArguments, interrupt: &Interrupt) -> Result<()> {
    let common = &arguments.common;
    let bench = Bench::open(common)?;
    let mut rows: Vec<RoleBenchRow> = Vec::new();
    for path in &arguments.rows {
        for (number, line) in lines(path)? {
            rows.push(RoleBenchRow::from_line(&place(path, number), &line)?);
        }
    }
    let characters = common.characters().await?;
    let mut items = role_bench_items(&rows, arguments.split.into(), &characters, &SystemPrompt::default())?;
    items.truncate(common.limit.unwrap_or(usize::MAX));
    let asked = Texts {
        characters: items.iter().map(|item| item.character_name.clone()).collect::<HashSet<_>>().into_iter().collect(),
        questions: items.iter().map(|item| item.question().to_owned()).collect(),
    };
    let overlap = bench.overlap(&asked).await?;
    bench.answer(&mut items, &role_bench_sampling(), interrupt).await?;
    score_role_bench(&mut items);
    bench.finish(Outcome { overlap, ..Outcome::of(Benchmark::RoleBench) }, &items)
}

/// `opencharacter eval compare`
pub fn compare(first: &Path, second: &Path, json: bool) -> Result<()> {
    let scores: [BenchmarkScores; 2] =
        [read_json(&first.join("scores.json"))?, read_json(&second.join("scores.json"))?];
    if scores[0].benchmark != scores[1].benchmark {
        bail!(Usage("the folders hold different benchmarks".into()));
    }
    let items: [Vec<EvalItem>; 2] = [read_items(first)?, read_items(second)?];
    let names = [first.display().to_string(), second.display().to_string()];
    let comparison =
        compare_items(scores[0].benchmark, (&names[0], &items[0]), (&names[1], &items[1]), &Resampling::default())?;
    if json { output::json(&comparison) } else { output::line(&comparison_table(&comparison)) }
}

/// `opencharacter eval rouge`
pub fn rouge(path: &Path, json: bool) -> Result<()> {
    #[derive(Deserialize)]
    struct Pair {
        prediction: String,
        references: Vec<String>,
    }
    #[derive(Serialize)]
    struct Score {
        rouge_l: f64,
    }
    for (number, line) in lines(path)? {
        let pair: Pair = serde_json::from_str(&line).with_context(|| {
            format!("{}: expected `prediction`, a text, and `references`, a list of texts", place(path, number))
        })?;
        let Some(rouge_l) = best_rouge_l(&pair.prediction, &pair.references) else {
            bail!("{}: `references` is empty", place(path, number));
        };
        if json { output::json(&Score { rouge_l })? } else { output::line(&format!("{rouge_l:.6}"))? }
    }
    Ok(())
}

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

    async fn answer(
        &self,
        items: &mut [EvalItem],
        sampling: &opencharacter_core::Sampling,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let stage = Stage::new("answers", "calls");
        let progress = |name: &str, done: usize, total: usize| stage.set(done, total, name);
        let model = self.recorded(&*self.model, "answers");
        let sampling = opencharacter_core::Sampling {
            max_tokens: self.arguments.max_tokens.unwrap_or(sampling.max_tokens),
            ..sampling.clone()
        };
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

    /// Writes items, scores and page, and prints the scores.
    fn finish(&self, outcome: Outcome, items: &[EvalItem]) -> Result<()> {
        self.ledger.flush()?;
        let Outcome { benchmark, mut settings, overlap, judges, agreement, comparisons } = outcome;
        settings.insert("seed".into(), self.arguments.seed.to_string());
        let mut scores = BenchmarkScores::new(benchmark, self.model.fingerprint(), settings, items, &self.resampling)?;
        (scores.judges, scores.agreement, scores.overlap) = (judges, agreement, overlap);
        let mut lines = String::new();
        for item in items {
            lines.push_str(&serde_json::to_string(item)?);
            lines.push('\n');
        }
        output::file(&self.folder.file("items.jsonl"), lines.as_bytes())?;
        output::json_file(&self.folder.file("scores.json"), &scores)?;
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

/// Lines with `persona` and `questions`, or a folder of upstream's files.
fn read_questions(path: &Path) -> Result<Vec<PersonaQuestions>> {
    if !path.is_dir() {
        return lines(path)?
            .map(|(number, line)| Ok(PersonaQuestions::from_line(&place(path, number), &line)?))
            .collect();
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Ok(PersonaQuestions::from_upstream_file(&name, &text)?)
    };
    files.iter().map(read).collect()
}

/// Has the first judge write questions for the characters.
async fn new_questions(
    arguments: &PersonaGymArguments,
    characters: &[Character],
    writer: &dyn Generate,
    interrupt: &Interrupt,
) -> Result<Vec<PersonaQuestions>> {
    let personas = characters.iter().map(|character| character.persona.clone());
    let personas: Vec<String> = personas.take(arguments.common.limit.unwrap_or(usize::MAX)).collect();
    if personas.is_empty() {
        bail!(Usage("give `--questions`, or `--characters` for which questions are to be written".into()));
    }
    let stage = Stage::new("questions", "calls");
    let progress = |name: &str, done: usize, total: usize| stage.set(done, total, name);
    let options = JudgeOptions { seed: arguments.common.seed, ..JudgeOptions::default() };
    let per_task = if arguments.light { 1 } else { arguments.questions_per_task };
    let written = interrupt.guard(write_questions(writer, &personas, per_task, &options, &progress)).await?;
    let mut questions = Vec::new();
    for (persona, outcome) in personas.iter().zip(written) {
        match outcome {
            Ok(row) => questions.push(row),
            Err(reason) => eprintln!("left out, because no questions were written: `{persona}`: {reason}"),
        }
    }
    stage.finish(&format!("for {} of {} personas", questions.len(), personas.len()));
    Ok(questions)
}

impl ModeArgument {
    fn with(self, together: usize, texts: Option<&UpstreamTexts>) -> Result<PersonaGymMode<'_>> {
        let needed =
            || Usage("this `--mode` needs upstream's rubrics: `--upstream` names the folder of a checkout".into());
        Ok(match self {
            Self::Checked => PersonaGymMode::Checked { questions_per_call: together },
            Self::PaperText => PersonaGymMode::PaperText(texts.ok_or_else(needed)?),
            Self::PaperCode => PersonaGymMode::PaperCode(texts.ok_or_else(needed)?),
        })
    }
}

fn lines(path: &Path) -> Result<impl Iterator<Item = (usize, String)> + use<>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let lines: Vec<(usize, String)> = text.lines().map(str::to_owned).enumerate().collect();
    Ok(lines.into_iter().map(|(index, line)| (index + 1, line)).filter(|(_, line)| !line.trim().is_empty()))
}

fn place(path: &Path, number: usize) -> String {
    format!("`{}` line {number}", path.display())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`: is this the folder of an `eval`?", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not what `eval` writes", path.display()))
}

fn read_items(folder: &Path) -> Result<Vec<EvalItem>> {
    let path = folder.join("items.jsonl");
    let read = |(number, line): (usize, String)| serde_json::from_str(&line).with_context(|| place(&path, number));
    lines(&path)?.map(read).collect()
}
