//! `run`: the whole chain from personas to a report.
//!
//! Every stage reads the files that the one before it wrote and goes through the run's ledger, so a second run asks
//! the models nothing that was answered, and a killed one loses nothing that was.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use opencharacter_core::{Character, Dialogue, Generate, HeldOut, Instruction, Persona, Strategy, hold_out};
use opencharacter_engine::EngineOptions;
use opencharacter_eval::{
    EvalOptions, HeldOutSet, LossPoint, ProvenanceEntry, RejectionCount, ReportCharacter, ReportInput, Scores,
    StageCost, render_report,
};
use opencharacter_ledger::{Ledger, LedgeredModel};
use opencharacter_nn::{LoraAdapter, Model, file_hash};
use opencharacter_synth::{
    DIALOGUES, DialogueOptions, PROFILES, ProfileOptions, Templates, quality::hold_out_clusters, write_jsonl_atomic,
};
use opencharacter_train::{Job, StepMetrics, Task, TrainConfig, Trained};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    cli::RunArguments,
    cluster, data_quality, evaluation,
    interrupt::Interrupt,
    models, output,
    progress::seconds,
    recipe::Recipe,
    run_folder::RunFolder,
    synthesis::{self, DialogueJob, Made},
    training,
};

/// `opencharacter run`
pub async fn run(arguments: &RunArguments, interrupt: &Interrupt) -> Result<()> {
    let started = Instant::now();
    let (recipe, text) = Recipe::read(&arguments.recipe)?;
    let out = arguments
        .out
        .clone()
        .or_else(|| recipe.out.clone())
        .unwrap_or_else(|| PathBuf::from("runs").join(arguments.recipe.file_stem().unwrap_or_default()));
    let on_error = arguments.on_error.into();
    let personas = recipe.personas.input(on_error, recipe.seed).rows().await?;
    let instructions = recipe.instructions.input(on_error, recipe.seed).rows().await?;
    let templates = synthesis::templates(recipe.templates.as_deref())?;
    let mut run = Run::open(recipe, text, &out, personas, instructions, templates)?;
    let result = run.all(arguments.cluster.as_deref(), interrupt).await;
    run.clock.save()?;
    let scores = result?;
    output::line(&evaluation::table(&scores))?;
    let example = run.held_out_characters.first().map(|character| character.character_id.clone()).unwrap_or_default();
    output::line(&format!(
        "\nreport:  {report}\nadapter: {adapter}\ntime:    {time}\ntalk:    opencharacter chat {example} \
         --characters {characters} --adapter {adapter}",
        report = run.folder.file("report.html").display(),
        adapter = run.folder.file("adapter").display(),
        characters = run.folder.file("characters.jsonl").display(),
        time = seconds(started.elapsed().as_secs_f64()),
    ))
}

/// A run in progress.
struct Run {
    recipe: Recipe,
    recipe_text: String,
    folder: RunFolder,
    ledger: Arc<Ledger>,
    templates: Templates,
    personas: Vec<Persona>,
    instructions: Vec<Instruction>,
    held_out: HeldOut,
    held_out_questions: HeldOut,
    held_out_characters: Vec<Character>,
    rejections: Vec<RejectionCount>,
    clock: Clock,
}

/// What synthesis hands to training and evaluation.
struct Synthesised {
    characters: Vec<Character>,
    dialogues: Vec<Dialogue>,
    references: Vec<Dialogue>,
}

impl Run {
    fn open(
        recipe: Recipe,
        recipe_text: String,
        out: &Path,
        personas: Vec<Persona>,
        instructions: Vec<Instruction>,
        templates: Templates,
    ) -> Result<Self> {
        // Set apart before anything is synthesised.
        let texts: Vec<(&str, &str)> =
            personas.iter().map(|persona| (persona.character_id.as_str(), persona.persona.as_str())).collect();
        // Whole clusters: who is held out resembles nobody who is trained on.
        let held_out =
            hold_out_clusters(&texts, recipe.held_out.characters, recipe.seed, data_quality::similar_personas()?).ids;
        let ids = instructions.iter().map(|instruction| instruction.instruction_id.as_str());
        let held_out_questions = hold_out(ids, recipe.held_out.instructions, recipe.seed, "instructions");
        if held_out.len() >= personas.len() || held_out_questions.len() >= instructions.len() {
            bail!(
                "`[held_out]` sets apart {} of {} personas and {} of {} instructions: nothing is left to train on",
                held_out.len(),
                personas.len(),
                held_out_questions.len(),
                instructions.len()
            );
        }
        if held_out.len() <= recipe.eval.distractors || held_out_questions.is_empty() {
            bail!(
                "`[held_out]` must set apart more than {} characters (the distractors of `[eval]`) and an instruction",
                recipe.eval.distractors
            );
        }
        let folder = RunFolder::open(out)?;
        let ledger = Arc::new(Ledger::open(folder.file("ledger"))?);
        output::file(&folder.file("recipe.toml"), recipe_text.as_bytes())?;
        let clock = Clock::open(folder.file("seconds.json"));
        Ok(Self {
            recipe,
            recipe_text,
            folder,
            ledger,
            templates,
            personas,
            instructions,
            held_out,
            held_out_questions,
            held_out_characters: Vec::new(),
            rejections: Vec::new(),
            clock,
        })
    }

    async fn all(&mut self, cluster: Option<&str>, interrupt: &Interrupt) -> Result<Scores> {
        eprintln!("run folder: {}", self.folder.path().display());
        let models = &self.recipe.models;
        let student = models::load(models.student.name())?;
        let work = std::path::absolute(self.folder.path())?.display().to_string();
        let teacher = models::generator(&models.teacher, Some((&models.student, &student)), &work)?;
        let made = match cluster {
            Some(url) => {
                let workers = cluster::model(url, &*teacher).await?;
                let made = self.synthesise(&workers, interrupt).await;
                workers.close().await;
                made?
            }
            None => self.synthesise(&*teacher, interrupt).await?,
        };
        // Its weights and its cache are memory that training can use.
        drop(teacher);
        let trained = self.train(&student, &made, interrupt)?;
        let scores = self.evaluate(&student, &made, interrupt).await?;
        self.write_report(&student, made, &trained, &scores)?;
        Ok(scores)
    }

    async fn synthesise(&mut self, teacher: &dyn Generate, interrupt: &Interrupt) -> Result<Synthesised> {
        let options = ProfileOptions {
            attempts: self.recipe.profiles.attempts,
            sampling: self.recipe.profiles.sampling.over(ProfileOptions::default().sampling),
            seed: self.recipe.seed,
            ..ProfileOptions::default()
        };
        let ledger = Arc::clone(&self.ledger);
        let model = LedgeredModel::new(teacher, &ledger);
        let started = Instant::now();
        let profiles =
            synthesis::profiles("characters", &self.personas, &options, &self.templates, model, interrupt).await;
        self.clock.add(PROFILES, started);
        let profiles = profiles?;
        write_jsonl_atomic(self.folder.file("characters.jsonl"), &profiles.rows)?;
        self.note("profiles", &profiles);
        let (held_out, training): (Vec<Character>, Vec<Character>) =
            profiles.rows.iter().cloned().partition(|character| self.held_out.contains(&character.character_id));
        if held_out.len() <= self.recipe.eval.distractors {
            bail!(
                "only {} of the held-out personas became characters and {} are needed; set more apart in `[held_out]` \
                 or allow more `attempts` in `[profiles]`",
                held_out.len(),
                self.recipe.eval.distractors + 1
            );
        }
        self.held_out_characters = held_out;
        let dialogues = self.training_dialogues(&training, model, interrupt).await?;
        let references = self.references(model, interrupt).await?;
        Ok(Synthesised { characters: profiles.rows, dialogues, references })
    }

    fn dialogue_options(&self, strategy: Strategy) -> DialogueOptions {
        let recipe = &self.recipe.dialogues;
        DialogueOptions {
            strategy,
            characters_per_instruction: recipe.characters_per_instruction,
            candidates: recipe.candidates,
            comparisons: recipe.comparisons,
            attempts: recipe.attempts,
            sampling: recipe.sampling.over(DialogueOptions::default().sampling),
            seed: self.recipe.seed,
        }
    }

    fn questions(&self, held_out: bool) -> Vec<Instruction> {
        let of_kind =
            |instruction: &&Instruction| self.held_out_questions.contains(&instruction.instruction_id) == held_out;
        self.instructions.iter().filter(of_kind).cloned().collect()
    }

    async fn training_dialogues(
        &mut self,
        characters: &[Character],
        model: LedgeredModel<'_>,
        interrupt: &Interrupt,
    ) -> Result<Vec<Dialogue>> {
        let instructions = self.questions(false);
        let mut dialogues = Vec::new();
        for strategy in self.recipe.dialogues.strategies.clone() {
            let options = self.dialogue_options(strategy);
            let started = Instant::now();
            let name = format!("dialogues, {}", strategy.as_str());
            let job = DialogueJob { characters, instructions: &instructions, options: &options };
            let made = synthesis::answers(&name, job, &self.templates, model, interrupt).await;
            self.clock.add(DIALOGUES, started);
            let made = made?;
            self.note(&name, &made);
            dialogues.extend(made.rows);
        }
        write_jsonl_atomic(self.folder.file("dialogues.jsonl"), &dialogues)?;
        Ok(dialogues)
    }

    /// Dialogues of held-out characters on held-out instructions: measured, never trained.
    async fn references(&mut self, model: LedgeredModel<'_>, interrupt: &Interrupt) -> Result<Vec<Dialogue>> {
        let instructions = self.questions(true);
        let options = self.dialogue_options(Strategy::Generate);
        let started = Instant::now();
        let job = DialogueJob { characters: &self.held_out_characters, instructions: &instructions, options: &options };
        let made = synthesis::answers("held-out references", job, &self.templates, model, interrupt).await;
        self.clock.add(DIALOGUES, started);
        let made = made?;
        self.note("held-out references", &made);
        write_jsonl_atomic(self.folder.file("held_out_dialogues.jsonl"), &made.rows)?;
        Ok(made.rows)
    }

    fn train(&mut self, model: &Model, made: &Synthesised, interrupt: &Interrupt) -> Result<Trained> {
        let config = TrainConfig { seed: self.recipe.seed, ..self.recipe.train.clone() };
        let system = &self.templates.system;
        let examples = training::examples(model, &made.dialogues, &made.characters, system, &config, true)?;
        let held_out = training::examples(model, &made.references, &made.characters, system, &config, false)?;
        let started = Instant::now();
        let task = Task::Dialogues { train: &examples, held_out: &held_out };
        let job = Job { model, start: None, task, config: &config, device: None };
        let trained = training::train(job, self.folder.path(), interrupt);
        self.clock.add("training", started);
        trained
    }

    async fn evaluate(&mut self, model: &Arc<Model>, made: &Synthesised, interrupt: &Interrupt) -> Result<Scores> {
        let base = models::engine(model, EngineOptions::default())?;
        let tuned = models::adapted(&base, &self.folder.file("adapter"))?;
        let set = HeldOutSet {
            characters: self.held_out_characters.clone(),
            instructions: self.questions(true),
            references: made.references.clone(),
        };
        let options = EvalOptions {
            seed: self.recipe.seed,
            sampling: self.recipe.eval.sampling.over(EvalOptions::default().sampling),
            distractors: self.recipe.eval.distractors,
            questions_per_character: self.recipe.eval.questions_per_character,
            system_prompt: self.templates.system.clone(),
            ..EvalOptions::default()
        };
        let started = Instant::now();
        let scores = evaluation::held_out(&base, &tuned, &set, &options, &self.ledger, interrupt).await;
        self.clock.add("evaluation", started);
        let scores = scores?;
        output::json_file(&self.folder.file("scores.json"), &scores)?;
        Ok(scores)
    }

    /// Keeps a stage's reasons for the report.
    fn note<T>(&mut self, stage: &str, made: &Made<T>) {
        self.rejections.extend(made.summary.reasons.iter().map(|(reason, &count)| RejectionCount {
            stage: stage.to_owned(),
            reason: reason.clone(),
            count: count as u64,
        }));
    }

    fn write_report(&self, model: &Model, made: Synthesised, trained: &Trained, scores: &Scores) -> Result<()> {
        let manifest = self.write_manifest(model, &made)?;
        let input = ReportInput {
            title: self.recipe.title.clone(),
            scores: scores.clone(),
            loss: self.loss_curve(trained)?,
            costs: self.costs(trained),
            characters: made
                .characters
                .into_iter()
                .map(|character| ReportCharacter {
                    held_out: self.held_out.contains(&character.character_id),
                    character,
                })
                .collect(),
            rejections: self.rejections.clone(),
            recipe: self.recipe_text.clone(),
            provenance: provenance(&manifest),
        };
        output::file(&self.folder.file("report.html"), render_report(&input).as_bytes())
    }

    /// Content hashes from personas to weights, so that a result can be traced to exactly what made it.
    fn write_manifest(&self, model: &Model, made: &Synthesised) -> Result<serde_json::Value> {
        let hash = |name: &str| -> Result<String> { Ok(file_hash(&[self.folder.file(name)])?) };
        let mut files = BTreeMap::new();
        for name in ["recipe.toml", "characters.jsonl", "dialogues.jsonl", "held_out_dialogues.jsonl", "scores.json"] {
            files.insert(name, hash(name)?);
        }
        let held_out_ids: Vec<&str> =
            self.held_out_characters.iter().map(|character| character.character_id.as_str()).collect();
        let manifest = json!({
            "program": concat!("opencharacter ", env!("CARGO_PKG_VERSION")),
            "seed": self.recipe.seed,
            "student": {"name": self.recipe.models.student.name(), "sha256": model.fingerprint},
            "teacher": {"name": self.recipe.models.teacher.name()},
            "adapter_sha256": file_hash(&LoraAdapter::files(&self.folder.file("adapter")))?,
            "inputs": {
                "personas": file_hash(std::slice::from_ref(&self.recipe.personas.path))?,
                "instructions": file_hash(std::slice::from_ref(&self.recipe.instructions.path))?,
            },
            "templates": self.templates.hashes(),
            "files": files,
            "characters": made.characters.len(),
            "dialogues": made.dialogues.len(),
            "references": made.references.len(),
            "held_out_characters": held_out_ids,
        });
        output::json_file(&self.folder.file("manifest.json"), &manifest)?;
        Ok(manifest)
    }

    fn loss_curve(&self, trained: &Trained) -> Result<Vec<LossPoint>> {
        let path = self.folder.file("metrics.jsonl");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let before = trained.held_out_before.map(|loss| LossPoint {
            step: 0,
            tokens: 0,
            train_loss: None,
            held_out_loss: Some(loss),
        });
        let steps = text.lines().filter_map(|line| serde_json::from_str::<StepMetrics>(line).ok());
        let steps = steps.map(|metrics| LossPoint {
            step: metrics.step as u64,
            tokens: metrics.tokens,
            train_loss: Some(metrics.loss),
            held_out_loss: metrics.held_out_loss,
        });
        Ok(before.into_iter().chain(steps).collect())
    }

    fn costs(&self, trained: &Trained) -> Vec<StageCost> {
        let report = self.ledger.report();
        let mut costs: Vec<StageCost> = report
            .total
            .iter()
            .map(|(stage, total)| StageCost {
                stage: stage.clone(),
                calls_made: total.calls_made as u64,
                calls_reused: report.session.get(stage).map_or(0, |session| session.calls_reused as u64),
                prompt_tokens: total.prompt_tokens as u64,
                completion_tokens: total.completion_tokens as u64,
                seconds: self.clock.seconds(stage),
            })
            .collect();
        costs.push(StageCost {
            stage: "training".into(),
            calls_made: 0,
            calls_reused: 0,
            prompt_tokens: trained.tokens,
            completion_tokens: 0,
            seconds: trained.seconds,
        });
        costs
    }
}

/// The manifest's scalar entries, flattened for a table.
fn provenance(manifest: &serde_json::Value) -> Vec<ProvenanceEntry> {
    let mut entries = Vec::new();
    let mut stack = vec![(String::new(), manifest)];
    while let Some((label, value)) = stack.pop() {
        match value {
            serde_json::Value::Object(map) => {
                let children = map.iter().rev().map(|(key, value)| {
                    let label = if label.is_empty() { key.clone() } else { format!("{label}: {key}") };
                    (label, value)
                });
                stack.extend(children);
            }
            serde_json::Value::Array(_) => {}
            scalar => entries.push(ProvenanceEntry {
                label: label.replace('_', " "),
                value: scalar.as_str().map_or_else(|| scalar.to_string(), str::to_owned),
            }),
        }
    }
    entries
}

/// Wall-clock seconds per stage over all sessions of a run, in `seconds.json`.
#[derive(Default, Serialize, Deserialize)]
struct Clock {
    #[serde(skip)]
    path: PathBuf,
    #[serde(flatten)]
    stages: BTreeMap<String, f64>,
}

impl Clock {
    /// Goes on from an earlier session's file; an unreadable one only costs the record of time.
    fn open(path: PathBuf) -> Self {
        let earlier = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Self>(&text).ok());
        Self { path, ..earlier.unwrap_or_default() }
    }

    fn add(&mut self, stage: &str, started: Instant) {
        *self.stages.entry(stage.to_owned()).or_default() += started.elapsed().as_secs_f64();
    }

    fn seconds(&self, stage: &str) -> f64 {
        self.stages.get(stage).copied().unwrap_or_default()
    }

    fn save(&self) -> Result<()> {
        output::json_file(&self.path, &self)
    }
}
