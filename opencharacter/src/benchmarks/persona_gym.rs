//! `eval persona-gym`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use opencharacter_core::{Character, Generate};
use opencharacter_eval::{
    Benchmark, Judge, JudgeOptions, JudgeTrialOptions, Panel, PersonaGymMode, PersonaGymOptions, PersonaGymSet,
    PersonaQuestions, Texts, UpstreamTexts, compare as compare_items, judge_persona_gym, judge_reports, try_judges,
    write_questions,
};
use opencharacter_ledger::Recorded;

use super::{
    Bench, Outcome,
    lines::{lines, place},
    named,
};
use crate::{
    cli::{ModeArgument, PersonaGymArguments},
    failure::Usage,
    interrupt::Interrupt,
    progress::Stage,
};

/// `opencharacter eval persona-gym`
pub async fn command(arguments: &PersonaGymArguments, interrupt: &Interrupt) -> Result<()> {
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
