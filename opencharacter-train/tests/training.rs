//! Training runs on a small random Llama.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use opencharacter_core::{Character, Dialogue, KeyedRandom, Message, PreferencePair, SystemPrompt};
use opencharacter_cuda::{Device, Emulated, Precision};
use opencharacter_fixtures::{embedded_model, fixture};
use opencharacter_nn::{ChatTemplate, Decoder, GgufFile, LoraAdapter, LoraConfig, Model, SafetensorsFolder, Tokenizer};
use opencharacter_train::{
    Example, ExampleOptions, Job, Method, Outcome, PreferenceExample, ProfileDropout, Quantity, StepBatch, StepMetrics,
    Task, TrainConfig, TrainError, TrainProgress, Trained, Trainer, build_examples, build_preferences, pack,
    show_masks, train,
};

/// The small Llama's weights with the embedded model's tokenizer: training itself needs no text.
static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let folder = fixture("small_llama");
    let mut weights = SafetensorsFolder::open(&folder).unwrap();
    let decoder = Decoder::load(weights.config().unwrap(), &mut weights).unwrap();
    let file = GgufFile::open(&embedded_model()).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let template = ChatTemplate::new(file.string("tokenizer.chat_template").unwrap(), &tokenizer);
    Model { decoder, tokenizer, template, fingerprint: "small".into(), path: folder }
});

/// Sequences with something to learn: each token follows from the one before.
fn examples(count: usize, seed: u64) -> Vec<Example> {
    (0..count)
        .map(|index| {
            let mut random = KeyedRandom::new(seed, &["example", &index.to_string()]);
            let length = 8 + random.below(16);
            let mut tokens = vec![random.below(64) as u32];
            while tokens.len() < length {
                tokens.push((tokens[tokens.len() - 1] * 5 + 3) % 64);
            }
            let trained = (0..length).map(|place| place > 2).collect();
            Example { id: format!("{seed}-{index}"), tokens, trained }
        })
        .collect()
}

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 3,
        pack_tokens: 64,
        packs_per_step: 2,
        learning_rate: 1e-2,
        lora: LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() },
        checkpoint_every: 4,
        held_out_every: 5,
        ..TrainConfig::default()
    }
}

fn run(folder: &Path, config: &TrainConfig, stop_at: Option<usize>) -> Result<Outcome, TrainError> {
    run_on(Place::Here, 30, folder, config, stop_at)
}

fn run_on(
    place: Place,
    count: usize,
    folder: &Path,
    config: &TrainConfig,
    stop_at: Option<usize>,
) -> Result<Outcome, TrainError> {
    run_seen(place.device().as_ref(), count, folder, config, stop_at, &|_| ())
}

/// A run that tells `see` how it goes.
fn run_seen(
    device: Option<&Rc<dyn Device>>,
    count: usize,
    folder: &Path,
    config: &TrainConfig,
    stop_at: Option<usize>,
    see: &(dyn Fn(TrainProgress<'_>) + Sync),
) -> Result<Outcome, TrainError> {
    let stop = AtomicBool::new(false);
    let progress = |progress: TrainProgress<'_>| {
        see(progress);
        if matches!(progress, TrainProgress::Step { metrics, .. } if Some(metrics.step) == stop_at) {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let task = Task::Dialogues { train: &examples(count, 1), held_out: &examples(count.div_ceil(4), 2) };
    train(Job { model: &MODEL, start: None, task, config, device }, folder, &stop, &progress)
}

/// What trains.
#[derive(Clone, Copy)]
enum Place {
    Here,
    /// The emulation of a GPU.
    Device,
}

impl Place {
    fn device(self) -> Option<Rc<dyn Device>> {
        match self {
            Self::Here => None,
            Self::Device => Some(Rc::new(Emulated::new(Precision::F32, false))),
        }
    }
}

fn done(outcome: Outcome) -> Trained {
    match outcome {
        Outcome::Done(trained) => trained,
        Outcome::Interrupted { step } => panic!("interrupted at {step}"),
    }
}

fn adapter(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("adapter/adapter_model.safetensors")).unwrap()
}

/// The metrics without what a clock decides.
fn metrics(folder: &Path) -> Vec<StepMetrics> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<StepMetrics>(line).unwrap());
    lines.map(|metrics| StepMetrics { seconds: 0.0, ..metrics }).collect()
}

#[test]
fn the_loss_falls_and_a_second_call_returns_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let trained = done(run(folder.path(), &config(), None).unwrap());
    let (before, after) = (trained.held_out_before.unwrap(), trained.held_out_after.unwrap());
    assert!(after < 0.8 * before, "held-out loss {before} to {after}");
    let modified = fs::metadata(folder.path().join("metrics.jsonl")).unwrap().modified().unwrap();
    assert_eq!(done(run(folder.path(), &config(), None).unwrap()), trained);
    assert_eq!(fs::metadata(folder.path().join("metrics.jsonl")).unwrap().modified().unwrap(), modified);
}

#[test]
fn resumed_equals_uninterrupted_bit_for_bit() {
    // With draws in every step: of noise on the embeddings, and of dropout.
    let lora = LoraConfig { dropout: 0.1, ..config().lora };
    let config = TrainConfig { neftune_alpha: 5.0, lora, ..config() };
    let whole = tempfile::tempdir().unwrap();
    let trained = done(run(whole.path(), &config, None).unwrap());
    assert!(trained.steps > 12, "{} steps are too few to be interrupted thrice", trained.steps);
    let broken = tempfile::tempdir().unwrap();
    for stop in [3, 7, 11] {
        assert_eq!(run(broken.path(), &config, Some(stop)).unwrap(), Outcome::Interrupted { step: stop });
    }
    // A kill between checkpoints: the steps after the last one are done again, and their metrics lines replaced.
    let late = StepMetrics { step: 12, ..metrics(broken.path())[0].clone() };
    let path = broken.path().join("metrics.jsonl");
    let text = fs::read_to_string(&path).unwrap() + &serde_json::to_string(&late).unwrap() + "\n{\"step\": 1";
    fs::write(&path, text).unwrap();
    let resumed = done(run(broken.path(), &config, None).unwrap());
    assert_eq!(resumed.held_out_after, trained.held_out_after);
    assert_eq!(adapter(broken.path()), adapter(whole.path()));
    assert_eq!(metrics(broken.path()), metrics(whole.path()));
}

#[test]
fn damaged_checkpoints_are_named_and_passed_over() {
    let whole = tempfile::tempdir().unwrap();
    done(run(whole.path(), &config(), None).unwrap());
    let cut = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };
    // One of the two, and both: then training begins anew.
    for damaged in [&["step-0000009"][..], &["step-0000009", "step-0000008"]] {
        let broken = tempfile::tempdir().unwrap();
        run(broken.path(), &config(), Some(9)).unwrap();
        let checkpoints = broken.path().join("checkpoints");
        cut(checkpoints.join("step-0000009/optimizer.safetensors"));
        if damaged.len() == 2 {
            cut(checkpoints.join("step-0000008/state.json"));
        }
        let (named, first) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        let see = |progress: TrainProgress<'_>| match progress {
            TrainProgress::Damaged { folder } => named.lock().unwrap().push(folder.to_path_buf()),
            TrainProgress::Step { metrics, .. } => {
                let _ = first.compare_exchange(0, metrics.step, Ordering::Relaxed, Ordering::Relaxed);
            }
            _ => (),
        };
        done(run_seen(None, 30, broken.path(), &config(), None, &see).unwrap());
        let expected: Vec<PathBuf> = damaged.iter().map(|name| checkpoints.join(name)).collect();
        assert_eq!(named.into_inner().unwrap(), expected);
        assert_eq!(first.into_inner(), if damaged.len() == 1 { 9 } else { 1 });
        assert_eq!(adapter(broken.path()), adapter(whole.path()));
    }
}

#[test]
fn checkpoints_of_another_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &config(), Some(5)).unwrap();
    let other = TrainConfig { learning_rate: 2e-2, ..config() };
    let error = run(folder.path(), &other, None).unwrap_err();
    assert!(matches!(error, TrainError::OtherRun { .. }), "{error}");
}

#[test]
fn splitting_a_step_into_batches_changes_nothing_but_rounding() {
    let losses = |pack_tokens, packs_per_step| {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig { epochs: 1, pack_tokens, packs_per_step, ..config() };
        done(run(folder.path(), &config, None).unwrap());
        metrics(folder.path())
    };
    // All examples in one step: one batch, or many of a few examples each.
    let (one, many) = (losses(10_000, 1), losses(48, 1_000));
    assert_eq!((one.len(), many.len()), (1, 1));
    assert_eq!(one[0].trained_tokens, many[0].trained_tokens);
    assert!((one[0].loss - many[0].loss).abs() < 1e-5);
    assert!((one[0].gradient_norm - many[0].gradient_norm).abs() < 1e-4 * one[0].gradient_norm);
}

/// Ids of the examples of a step, from 1.
fn ids_of_step(config: &TrainConfig, step: usize) -> String {
    let packs = pack(&examples(30, 1), config.pack_tokens, config.seed, 0);
    let (first, count) = ((step - 1) * config.packs_per_step, config.packs_per_step);
    let places = packs[first..first + count].iter().flat_map(|(_, places)| places);
    places.map(|place| format!("1-{place}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn what_is_no_number_stops_the_run_names_its_examples_and_is_never_saved() {
    // What becomes no number first, at which step, and which checkpoint is there then.
    let cases = [
        (1e18, 0, Quantity::Loss, 2, Some("step-0000001")),
        (1e18, 1, Quantity::HeldOutLoss, 1, None),
        (1e39, 0, Quantity::Parameter, 1, None),
    ];
    for (learning_rate, held_out_every, expected, at, kept) in cases {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig { learning_rate, held_out_every, checkpoint_every: 1, warmup: 0.0, ..config() };
        let error = run(folder.path(), &config, None).unwrap_err();
        let TrainError::NotFinite { quantity, value, step, examples } = &error else { panic!("{error}") };
        assert_eq!((*quantity, *step), (expected, at), "{error}");
        assert!(!value.is_finite());
        assert_eq!(*examples, ids_of_step(&config, at));
        assert!(error.to_string().contains(&format!("at step {at}, on the examples 1-")), "{error}");
        let checkpoints = folder.path().join("checkpoints");
        let found: Vec<String> = fs::read_dir(&checkpoints).map_or_else(
            |_| Vec::new(),
            |entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
        );
        assert_eq!(found, Vec::from_iter(kept.map(str::to_owned)));
        if let Some(name) = kept {
            let adapter = LoraAdapter::load(&checkpoints.join(name), MODEL.decoder.config()).unwrap();
            assert!(adapter.parameters().all(|(_, values)| values.iter().all(|value| value.is_finite())));
        }
    }
}

#[test]
fn what_trains_nothing_is_refused_or_counts_for_nothing() {
    let trainer = || Trainer::new(&MODEL, None, &config()).unwrap();
    let untrained: Vec<Example> = examples(4, 1)
        .into_iter()
        .map(|example| Example { trained: vec![false; example.tokens.len()], ..example })
        .collect();
    let (nothing, _) = pack(&untrained, 10_000, 0, 0).remove(0);
    let (batch, _) = pack(&examples(4, 3), 10_000, 0, 0).remove(0);
    let error = trainer().step(&[StepBatch::Dialogues(&nothing)], 1e-3, 1).unwrap_err();
    assert!(error.to_string().contains("step 1 holds no trained token"), "{error}");
    let alone = trainer().step(&[StepBatch::Dialogues(&batch)], 1e-3, 1).unwrap();
    for place in [0, 1] {
        let mut batches = vec![StepBatch::Dialogues(&batch)];
        batches.insert(place, StepBatch::Dialogues(&nothing));
        let both = trainer().step(&batches, 1e-3, 1).unwrap();
        assert_eq!((both.loss, both.gradient_norm), (alone.loss, alone.gradient_norm));
    }
}

/// Losses of `steps` steps on one batch, every weight trained.
fn full_losses(config: &TrainConfig, steps: usize) -> Vec<f64> {
    let mut trainer = Trainer::new(&MODEL, None, config).unwrap();
    let (batch, _) = pack(&examples(4, 1), 10_000, 0, 0).remove(0);
    (1..=steps).map(|step| trainer.step(&[StepBatch::Dialogues(&batch)], 1e-3, step).unwrap().loss).collect()
}

#[test]
fn every_weight_can_be_trained_and_the_base_model_stays_as_it_was() {
    let config = TrainConfig { method: Method::Full, ..config() };
    let losses = full_losses(&config, 12);
    assert!(losses[11] < 0.7 * losses[0], "{losses:?}");
    // The second trainer starts from the same weights: the first one had a copy.
    assert_eq!(full_losses(&config, 2), losses[..2]);
    let recomputed = TrainConfig { recompute: true, ..config };
    assert_eq!(full_losses(&recomputed, 3), losses[..3]);
}

#[test]
fn full_training_resumes_from_its_own_checkpoint() {
    // The result of a full run is a model folder, which needs a tokenizer of the model's own; this one has none. So the
    // run is stopped before its end, and its checkpoints are what is compared.
    let config = TrainConfig { method: Method::Full, ..config() };
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), &config, Some(9)).unwrap();
    let broken = tempfile::tempdir().unwrap();
    run(broken.path(), &config, Some(4)).unwrap();
    run(broken.path(), &config, Some(9)).unwrap();
    let weights = |folder: &Path| fs::read(folder.join("checkpoints/step-0000009/weights.safetensors")).unwrap();
    assert!(weights(whole.path()) == weights(broken.path()), "the weights after nine steps differ");
    assert_eq!(metrics(broken.path()), metrics(whole.path()));
}

#[test]
fn noise_and_dropout_disturb_training_and_repeat() {
    let losses = |neftune_alpha, dropout| {
        let lora = LoraConfig { dropout, ..config().lora };
        let config = TrainConfig { neftune_alpha, lora, ..config() };
        let mut trainer = Trainer::new(&MODEL, None, &config).unwrap();
        let (batch, _) = pack(&examples(4, 1), 10_000, 0, 0).remove(0);
        (1..=4).map(|step| trainer.step(&[StepBatch::Dialogues(&batch)], 1e-2, step).unwrap().loss).collect::<Vec<_>>()
    };
    let plain = losses(0.0, 0.0);
    assert_ne!(losses(5.0, 0.0)[0], plain[0], "noise is there from the first step");
    // An adapter that is zero has nothing to drop; from the second step on it has.
    let dropped = losses(0.0, 0.5);
    assert_eq!(dropped[0], plain[0]);
    assert_ne!(dropped[1..], plain[1..]);
    assert_eq!(losses(5.0, 0.5), losses(5.0, 0.5));
}

#[test]
fn nonsense_settings_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = run(folder.path(), &TrainConfig { epochs: 0, ..config() }, None).unwrap_err();
    assert!(error.to_string().contains("`epochs`"), "{error}");
    let lora = LoraConfig { dropout: 1.0, ..config().lora };
    let error = run(folder.path(), &TrainConfig { lora, ..config() }, None).unwrap_err();
    assert!(error.to_string().contains("`lora.dropout`"), "{error}");
    let stop = AtomicBool::new(false);
    let error = train(
        Job {
            model: &MODEL,
            start: None,
            task: Task::Dialogues { train: &[], held_out: &[] },
            config: &config(),
            device: None,
        },
        folder.path(),
        &stop,
        &|_| (),
    )
    .unwrap_err();
    assert!(matches!(error, TrainError::NothingToTrain { .. }));
}

fn dialogue(id: &str, character_id: &str, answer: &str) -> Dialogue {
    Dialogue {
        dialogue_id: id.into(),
        character_id: character_id.into(),
        question_source: String::new(),
        strategy: None,
        messages: vec![Message::user("Who are you?"), Message::assistant(answer)],
        provenance: None,
    }
}

fn options(system: &SystemPrompt, max_tokens: usize) -> ExampleOptions<'_> {
    ExampleOptions { system, max_tokens, profile_dropout: ProfileDropout::default(), seed: 0 }
}

#[test]
fn examples_train_answers_only_and_name_what_is_left_out() {
    let character = Character::from_name("Ada Holm", "", "");
    let system = SystemPrompt::default();
    let dialogues = [
        dialogue("good", &character.character_id, "Nobody."),
        dialogue("long", &character.character_id, &"word ".repeat(400)),
        dialogue("orphan", "character-unknown", "Hm."),
        Dialogue { messages: vec![Message::user("Hello?")], ..dialogue("silent", "", "") },
    ];
    let built = build_examples(&MODEL, &dialogues, std::slice::from_ref(&character), options(&system, 300)).unwrap();
    assert_eq!(built.examples.len(), 1);
    // The limit asked for is 300, but the small model's context ends at 128.
    let left_out: Vec<(&str, bool)> = [("long", "128"), ("orphan", "character-unknown"), ("silent", "assistant")]
        .iter()
        .zip(&built.skipped)
        .map(|((id, word), skipped)| (*id, skipped.id == *id && skipped.reason.contains(word)))
        .collect();
    assert_eq!(left_out, [("long", true), ("orphan", true), ("silent", true)], "{:?}", built.skipped);
    // `Nobody.` and the end of the turn, seen as a person would check it.
    let mut batch = opencharacter_nn::PackedBatch::new();
    batch.push(&built.examples[0].tokens, &built.examples[0].trained);
    let shown = show_masks(&batch, &MODEL.tokenizer);
    let trained: Vec<&str> =
        shown.lines().filter(|line| line.contains(" yes ")).filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(trained, ["\"Nobody\"", "\".\"", "<|im_end|>"], "{shown}");
}

#[test]
fn a_dropped_part_of_the_profile_is_the_share_that_was_asked_for() {
    let mut character = Character::from_name("Ada Holm", "", "");
    character.persona = "A lighthouse keeper who hates the sea".into();
    let system = SystemPrompt::default();
    let dialogues: Vec<Dialogue> =
        (0..400).map(|index| dialogue(&index.to_string(), &character.character_id, "Nobody.")).collect();
    let cast = std::slice::from_ref(&character);
    let texts = |profile_dropout| {
        let options = ExampleOptions { profile_dropout, ..options(&system, 300) };
        let built = build_examples(&MODEL, &dialogues, cast, options).unwrap();
        assert!(built.skipped.is_empty(), "{:?}", built.skipped[0]);
        built.examples.iter().map(|example| MODEL.tokenizer.decode(&example.tokens)).collect::<Vec<String>>()
    };
    let count = |texts: &[String], persona: bool, name: bool| {
        texts.iter().filter(|text| text.contains("hates the sea") == persona && text.contains("Ada") == name).count()
    };
    assert_eq!(count(&texts(ProfileDropout::default()), true, true), 400);
    let dropout = ProfileDropout { persona_only: 0.3, profile_only: 0.2 };
    let dropped = texts(dropout);
    assert_eq!(dropped, texts(dropout));
    let [persona, profile, both] = [(true, false), (false, true), (true, true)].map(|(p, n)| count(&dropped, p, n));
    assert_eq!(persona + profile + both, 400);
    assert!((90..=150).contains(&persona) && (50..=110).contains(&profile), "{persona}, {profile}");
    // Who has no persona cannot be known by it alone.
    let bare = Character::from_name("Ada Holm", "", "");
    let options = ExampleOptions {
        profile_dropout: ProfileDropout { persona_only: 1.0, profile_only: 0.0 },
        ..options(&system, 300)
    };
    let built = build_examples(&MODEL, &dialogues[..1], std::slice::from_ref(&bare), options).unwrap();
    assert!(MODEL.tokenizer.decode(&built.examples[0].tokens).contains("Ada Holm"));
}

/// Pairs whose chosen sequence follows the rule of [`examples`], and whose rejected one does not.
fn pairs(count: usize, seed: u64) -> Vec<PreferenceExample> {
    examples(count, seed)
        .into_iter()
        .map(|chosen| {
            let mut random = KeyedRandom::new(seed, &["rejected", &chosen.id]);
            let mut rejected = chosen.clone();
            rejected.tokens.iter_mut().skip(3).for_each(|token| *token = random.below(64) as u32);
            PreferenceExample { id: chosen.id.clone(), chosen, rejected }
        })
        .collect()
}

fn prefer(folder: &Path, start: Option<&LoraAdapter>, stop_at: Option<usize>) -> Result<Outcome, TrainError> {
    prefer_counting(folder, start, stop_at).map(|(outcome, _)| outcome)
}

/// Also how many batches the reference was computed of.
fn prefer_counting(
    folder: &Path,
    start: Option<&LoraAdapter>,
    stop_at: Option<usize>,
) -> Result<(Outcome, usize), TrainError> {
    let (stop, references) = (AtomicBool::new(stop_at == Some(0)), AtomicUsize::new(0));
    let progress = |progress: TrainProgress<'_>| {
        if matches!(progress, TrainProgress::Reference { .. }) {
            references.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(progress, TrainProgress::Step { metrics, .. } if Some(metrics.step) == stop_at) {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let task = Task::Preferences { train: &pairs(30, 1), held_out: &pairs(8, 2) };
    let job = Job { model: &MODEL, start, task, config: &config(), device: None };
    let outcome = train(job, folder, &stop, &progress)?;
    Ok((outcome, references.into_inner()))
}

#[test]
fn preferences_are_learned_from_the_adapter_that_is_their_reference() {
    let first = tempfile::tempdir().unwrap();
    done(run(first.path(), &TrainConfig { epochs: 1, ..config() }, None).unwrap());
    let start = LoraAdapter::load(&first.path().join("adapter"), MODEL.decoder.config()).unwrap();
    let second = tempfile::tempdir().unwrap();
    let trained = done(prefer(second.path(), Some(&start), None).unwrap());
    // A model that is its own reference prefers nothing.
    assert!((trained.held_out_before.unwrap() - 2.0_f64.ln()).abs() < 1e-9, "{trained:?}");
    assert!(trained.held_out_after.unwrap() < 0.5, "{trained:?}");
    let metrics = metrics(second.path());
    assert_eq!(metrics[0].preferred, Some(0.0));
    assert!(metrics[metrics.len() - 1].preferred.unwrap() > 0.8, "{:?}", metrics[metrics.len() - 1]);
    assert_ne!(adapter(first.path()), adapter(second.path()));
    // From the base model it is another run.
    assert!(matches!(prefer(second.path(), None, Some(1)), Err(TrainError::OtherRun { .. })));
}

#[test]
fn preference_training_resumes_bit_for_bit_with_the_reference_of_its_start() {
    let whole = tempfile::tempdir().unwrap();
    done(prefer(whole.path(), None, None).unwrap());
    let broken = tempfile::tempdir().unwrap();
    assert_eq!(prefer(broken.path(), None, Some(0)).unwrap(), Outcome::Interrupted { step: 0 });
    let (outcome, references) = prefer_counting(broken.path(), None, Some(5)).unwrap();
    assert_eq!(outcome, Outcome::Interrupted { step: 5 });
    assert!(references > 3, "{references} batches");
    // What is known of the reference is not computed again.
    let (outcome, references) = prefer_counting(broken.path(), None, Some(7)).unwrap();
    assert_eq!((outcome, references), (Outcome::Interrupted { step: 7 }, 0));
    // A kill while the reference was written: its last line is torn and is computed again, not by the model of step 7.
    let path = broken.path().join("reference.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 9]).unwrap();
    let (outcome, references) = prefer_counting(broken.path(), None, None).unwrap();
    done(outcome);
    assert_eq!(references, 1);
    let sorted = |folder: &Path| {
        let text = fs::read_to_string(folder.join("reference.jsonl")).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(broken.path()), sorted(whole.path()));
    assert_eq!(sorted(whole.path()).len(), 1 + 30 + 8);
    assert_eq!(adapter(broken.path()), adapter(whole.path()));
    assert_eq!(metrics(broken.path()), metrics(whole.path()));
}

#[test]
fn pairs_train_what_differs_and_name_what_is_left_out() {
    let character = Character::from_name("Ada Holm", "", "");
    let pair = |id: &str, chosen: &str, rejected: &str| PreferencePair {
        pair_id: id.into(),
        character_id: character.character_id.clone(),
        prompt: vec![Message::user("Who are you?")],
        chosen: vec![Message::assistant(chosen)],
        rejected: vec![Message::assistant(rejected)],
        rejected_character_id: None,
    };
    let rows = [
        pair("good", "I am Ada.", "I am Bo."),
        pair("same", "I am Ada.", "I am Ada."),
        pair("long", "Ada.", &"word ".repeat(400)),
    ];
    let system = SystemPrompt::default();
    let built = build_preferences(&MODEL, &rows, std::slice::from_ref(&character), options(&system, 300)).unwrap();
    assert_eq!(built.examples.len(), 1);
    let reasons: Vec<(&str, bool)> = [("same", "are the same"), ("long", "rejected answer")]
        .iter()
        .zip(&built.skipped)
        .map(|((id, word), skipped)| (*id, skipped.id == *id && skipped.reason.contains(word)))
        .collect();
    assert_eq!(reasons, [("same", true), ("long", true)], "{:?}", built.skipped);
    let trained = |example: &Example| {
        let marked = example.tokens.iter().zip(&example.trained).filter(|(_, trained)| **trained);
        MODEL.tokenizer.decode(&marked.map(|(token, _)| *token).collect::<Vec<u32>>())
    };
    assert!(trained(&built.examples[0].chosen).starts_with(" Ada."), "{}", trained(&built.examples[0].chosen));
    assert!(trained(&built.examples[0].rejected).starts_with(" Bo."), "{}", trained(&built.examples[0].rejected));
}

/// Examples that the emulation trains on: it is slow.
const SMALL: usize = 9;

#[test]
fn a_device_trains_what_this_machine_trains() {
    // Steps small enough that rounding does not grow into another path.
    let config = TrainConfig { epochs: 1, packs_per_step: 1, learning_rate: 1e-3, weight_decay: 0.01, ..config() };
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = done(run_on(Place::Here, SMALL, here.path(), &config, None).unwrap());
    let device = Place::Device.device().unwrap();
    let reserved = AtomicUsize::new(0);
    let see = |progress: TrainProgress<'_>| {
        if let TrainProgress::Reserved { bytes } = progress {
            reserved.store(bytes, Ordering::Relaxed);
        }
    };
    let found = done(run_seen(Some(&device), SMALL, there.path(), &config, None, &see).unwrap());
    // But for the few integers that say where a batch's sequences lie, all memory was taken before the first step.
    let later = device.peak_bytes() - reserved.into_inner();
    assert!(later < device.peak_bytes() / 100, "{later} of {} bytes", device.peak_bytes());
    assert_eq!(found.parameters, expected.parameters);
    for (found, expected) in metrics(there.path()).iter().zip(metrics(here.path())) {
        let step = expected.step;
        assert!((found.loss - expected.loss).abs() < 1e-4 * expected.loss, "step {step}");
        let norms = (found.gradient_norm - expected.gradient_norm).abs() / expected.gradient_norm;
        assert!(norms < 1e-3, "step {step}: norms differ by {norms}");
    }
    let (found, expected) = (found.held_out_after.unwrap(), expected.held_out_after.unwrap());
    assert!((found - expected).abs() < 1e-4 * expected, "{found} against {expected}");
}

#[test]
fn every_weight_trained_on_a_device_resumes_bit_for_bit_and_goes_on_elsewhere() {
    // Stopped before the end, as in `full_training_resumes_from_its_own_checkpoint`.
    let config = TrainConfig {
        method: Method::Full,
        packs_per_step: 1,
        learning_rate: 1e-3,
        checkpoint_every: 1,
        held_out_every: 0,
        ..config()
    };
    let [here, whole, broken, moved] = [(); 4].map(|()| tempfile::tempdir().unwrap());
    run_on(Place::Here, SMALL, here.path(), &config, Some(2)).unwrap();
    run_on(Place::Device, SMALL, whole.path(), &config, Some(2)).unwrap();
    for (folder, place) in [(&broken, Place::Device), (&moved, Place::Here)] {
        run_on(Place::Device, SMALL, folder.path(), &config, Some(1)).unwrap();
        run_on(place, SMALL, folder.path(), &config, Some(2)).unwrap();
    }
    let file = |folder: &Path, name: &str| fs::read(folder.join("checkpoints/step-0000002").join(name)).unwrap();
    for name in ["weights.safetensors", "optimizer.safetensors"] {
        assert!(file(whole.path(), name) == file(broken.path(), name), "{name} after two steps differs");
    }
    let expected = metrics(here.path());
    for folder in [&whole, &moved] {
        let found = metrics(folder.path());
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let (found, expected) = (found.loss, expected.loss);
            assert!((found - expected).abs() < 1e-4 * expected, "{found} against {expected}");
        }
    }
}

#[test]
fn training_on_a_device_resumes_bit_for_bit_and_goes_on_elsewhere() {
    let config = TrainConfig { epochs: 1, packs_per_step: 1, learning_rate: 1e-3, ..config() };
    let [whole, broken, moved] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let trained = done(run_on(Place::Device, SMALL, whole.path(), &config, None).unwrap());
    for folder in [&broken, &moved] {
        let stopped = run_on(Place::Device, SMALL, folder.path(), &config, Some(2)).unwrap();
        assert_eq!(stopped, Outcome::Interrupted { step: 2 });
    }
    let resumed = done(run_on(Place::Device, SMALL, broken.path(), &config, None).unwrap());
    assert_eq!(resumed.held_out_after, trained.held_out_after);
    assert_eq!(metrics(broken.path()), metrics(whole.path()));
    let elsewhere = done(run_on(Place::Here, SMALL, moved.path(), &config, None).unwrap());
    let (found, expected) = (elsewhere.held_out_after.unwrap(), trained.held_out_after.unwrap());
    assert!((found - expected).abs() < 1e-4 * expected, "{found} against {expected}");
}
