use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use opencharacter_core::{
    Character, Dialogue, GenerateRequest, Instruction, Persona, Role, ScoreRequest, Strategy, Turn,
};
use opencharacter_ledger::{
    Ledger, LedgeredModel,
    scripted::{Scripted, unavailable},
};
use opencharacter_synth::{
    Budget, Cast, Collected, DialogueOptions, Prices, ProfileOptions, RejectedItem, Summary, SynthError, Templates,
    Work, in_memory, synthesize_dialogues, synthesize_distinct_profiles, synthesize_profiles,
};
use tempfile::TempDir;

fn personas(count: usize) -> Vec<Persona> {
    (0..count).map(|number| Persona::new(&format!("A keeper of lighthouse number {number}"), "test", "MIT")).collect()
}

fn characters(count: usize) -> Vec<Character> {
    let named = |number: usize| Character {
        persona: format!("A keeper of lighthouse number {number}"),
        ..Character::from_name(&format!("Keeper {number}"), "test", "MIT")
    };
    (0..count).map(named).collect()
}

fn instruction(turns: &[(&str, Option<&str>)]) -> Instruction {
    let turn = |&(user, answer): &(&str, Option<&str>)| Turn { user: user.into(), answer: answer.map(str::to_owned) };
    Instruction::new(turns.iter().map(turn).collect(), "test", "MIT")
}

fn profile_json(name: &str) -> String {
    serde_json::json!({
        "name": name, "age": 52, "gender": "Female", "race": "White", "birth_place": "Vardø, Norway",
        "appearance": "Small, with white hair and a patched coat.",
        "general_experience": "She kept the light for thirty years and lost a brother to the water in 1981.",
        "personality": "Dry and stubborn; she counts steps aloud and fears silence.",
    })
    .to_string()
}

struct Run {
    directory: TempDir,
}

/// What came of a stage, in figures and rows.
#[derive(Debug, PartialEq)]
struct Made<T> {
    summary: Summary,
    rows: Vec<T>,
    rejected: Vec<RejectedItem>,
}

async fn profiles_within(
    work: Work<'_>,
    personas: &[Persona],
    templates: &Templates,
) -> Result<Made<Character>, SynthError> {
    let mut made = Collected::default();
    let personas = in_memory(personas.iter().cloned());
    let summary = synthesize_profiles(personas, &ProfileOptions::default(), templates, work, &mut made).await?;
    Ok(Made { summary, rows: made.rows, rejected: made.rejected })
}

impl Run {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    async fn profiles(&self, model: &Scripted, personas: &[Persona]) -> Result<Made<Character>, SynthError> {
        let ledger = Ledger::open(self.directory.path())?;
        let model = LedgeredModel::new(model, &ledger);
        let work = Work { total: personas.len(), ..Work::new(model, &|_| ()) };
        profiles_within(work, personas, &Templates::default()).await
    }

    async fn dialogues(
        &self,
        model: &Scripted,
        instructions: &[Instruction],
        options: &DialogueOptions,
    ) -> Result<Made<Dialogue>, SynthError> {
        let ledger = Ledger::open(self.directory.path())?;
        let model = LedgeredModel::new(model, &ledger);
        let (characters, templates) = (characters(6), Templates::default());
        let (cast, mut made) = (Cast::new(&characters), Collected::default());
        let work = Work::new(model, &|_| ());
        let instructions = in_memory(instructions.iter().cloned());
        let summary = synthesize_dialogues(&cast, instructions, options, &templates, work, &mut made).await?;
        Ok(Made { summary, rows: made.rows, rejected: made.rejected })
    }
}

#[tokio::test]
async fn characters_come_in_the_order_of_personas_and_a_rerun_costs_nothing() {
    let run = Run::new();
    let personas = personas(12);
    let scripted = Scripted::new(|_| Ok(profile_json("Ada Holm")));
    let made = run.profiles(&scripted, &personas).await.unwrap();
    assert_eq!(scripted.calls(), (12, 0));
    let ids = |rows: &[Character]| rows.iter().map(|row| row.character_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&made.rows), personas.iter().map(|persona| persona.character_id.clone()).collect::<Vec<_>>());
    let first = &made.rows[0];
    assert_eq!(
        (first.profile.name.as_str(), first.profile.age.as_str(), first.license.as_str()),
        ("Ada Holm", "52", "MIT")
    );
    let provenance = first.provenance.as_ref().unwrap();
    assert_eq!((provenance.teacher.as_str(), provenance.ledger_keys.len()), ("scripted", 1));
    assert_eq!(provenance.templates["profile"], Templates::default().profile.hash());

    let again = Scripted::new(|_| panic!("no call is needed"));
    assert_eq!(run.profiles(&again, &personas).await.unwrap(), made);
}

#[tokio::test]
async fn the_order_of_arrival_changes_nothing() {
    let echo_seed = |request: &GenerateRequest| Ok(format!("I count {} waves.", request.sampling.seed));
    let instructions = [instruction(&[("Do you sleep?", None), ("And then?", None)]), instruction(&[("Why?", None)])];
    let options = DialogueOptions { candidates: 2, ..DialogueOptions::default() };
    let likelihood = |request: &ScoreRequest| -(request.messages.iter().map(|m| m.content.len()).sum::<usize>() as f64);
    let mut made = Vec::new();
    for salt in 0..3 {
        let scripted = Scripted::new(echo_seed).with_likelihood(likelihood).with_latency(salt);
        made.push(Run::new().dialogues(&scripted, &instructions, &options).await.unwrap());
    }
    assert_eq!(made[0].rows.len(), 6);
    assert_eq!(made[0], made[1]);
    assert_eq!(made[0], made[2]);
}

#[tokio::test]
async fn rejections_carry_reasons_and_attempts_are_bounded() {
    let run = Run::new();
    let personas = personas(3);
    let attempts = AtomicUsize::new(0);
    let stubborn = personas[1].persona.clone();
    let late = personas[2].persona.clone();
    let scripted = Scripted::new(move |request| {
        let prompt = &request.messages[0].content;
        if prompt.contains(&stubborn) {
            return Ok(profile_json("John Doe"));
        }
        if prompt.contains(&late) && attempts.fetch_add(1, Ordering::Relaxed) < 2 {
            return Ok("I would rather not.".into());
        }
        Ok(profile_json("Ada Holm"))
    });
    let made = run.profiles(&scripted, &personas).await.unwrap();
    assert_eq!(made.rows.len(), 2);
    assert_eq!(scripted.calls().0, 1 + 4 + 3);
    assert_eq!(made.rejected.len(), 1);
    assert_eq!(made.rejected[0].item, personas[1].character_id);
    assert_eq!(made.rejected[0].reasons, vec!["placeholder name: `John Doe`"; 4]);
    let table: Vec<(&str, usize)> = made.summary.reasons.iter().map(|(rule, count)| (rule.as_str(), *count)).collect();
    assert_eq!(table, [("not the asked JSON", 2), ("placeholder name", 4)]);

    let again = Scripted::new(|_| panic!("rejected answers are not asked for again"));
    assert_eq!(run.profiles(&again, &personas).await.unwrap(), made);
}

#[tokio::test]
async fn every_attempt_has_a_seed_of_its_own() {
    let seeds = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&seeds);
    let scripted = Scripted::new(move |request| {
        seen.lock().unwrap().push(request.sampling.seed);
        Ok("no".into())
    });
    Run::new().profiles(&scripted, &personas(2)).await.unwrap();
    let mut seeds = seeds.lock().unwrap().clone();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 8);
}

#[tokio::test]
async fn a_lost_model_stops_the_stage_and_a_rerun_asks_only_for_the_rest() {
    let run = Run::new();
    let personas = personas(20);
    let left = AtomicUsize::new(7);
    let failing = Scripted::new(move |_| {
        let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
        if spent { Err(unavailable()) } else { Ok(profile_json("Ada Holm")) }
    });
    let error = run.profiles(&failing, &personas).await.unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, SynthError::Stopped { done: 7, total: 20, .. }), "{message}");
    assert!(message.contains("connection refused") && message.contains("again to resume"), "{message}");
    assert!(failing.calls().0 <= 7 + 4, "no item is begun once the model is gone: {:?}", failing.calls());

    let working = Scripted::new(|_| Ok(profile_json("Ada Holm")));
    let made = run.profiles(&working, &personas).await.unwrap();
    assert_eq!((made.rows.len(), made.rejected.len()), (20, 0));
    assert_eq!(working.calls().0, 13);
}

#[tokio::test]
async fn a_refused_request_rejects_its_item_only() {
    let personas = personas(3);
    let refused = personas[1].persona.clone();
    let scripted = Scripted::new(move |request| {
        if request.messages[0].content.contains(&refused) {
            return Err(opencharacter_core::GenerateError::Refused { reason: "too long".into() });
        }
        Ok(profile_json("Ada Holm"))
    });
    let made = Run::new().profiles(&scripted, &personas).await.unwrap();
    assert_eq!(made.rows.len(), 2);
    assert_eq!(made.rejected[0].reasons, ["the request was refused: too long"]);
    assert_eq!(scripted.calls().0, 3, "the same request is not made twice");
}

#[tokio::test]
async fn a_dropped_run_keeps_what_was_answered() {
    let run = Run::new();
    let personas = personas(20);
    let scripted = std::sync::Arc::new(Scripted::new(|_| Ok(profile_json("Ada Holm"))));
    let recorded = {
        let ledger = Ledger::open(run.directory.path()).unwrap();
        let model = LedgeredModel::new(scripted.as_ref(), &ledger);
        let templates = Templates::default();
        let work = profiles_within(Work::new(model, &|_| ()), &personas, &templates);
        let six_are_done = async {
            while ledger.len() < 6 {
                tokio::time::sleep(std::time::Duration::from_micros(200)).await;
            }
        };
        tokio::select! {
            _ = work => panic!("it should have been dropped in the middle"),
            () = six_are_done => ledger.len(),
        }
    };
    assert!((6..20).contains(&recorded));
    let rest = Scripted::new(|_| Ok(profile_json("Ada Holm")));
    assert_eq!(run.profiles(&rest, &personas).await.unwrap().rows.len(), 20);
    assert_eq!(rest.calls().0, 20 - recorded);
}

#[tokio::test]
async fn generated_dialogues_see_their_character_and_their_history() {
    let scripted = Scripted::new(|request| {
        assert_eq!(request.messages[0].role, Role::System);
        assert!(request.messages[0].content.contains("A keeper of lighthouse number"));
        let turn = request.messages.len() / 2;
        if turn == 2 {
            assert_eq!(request.messages[2].content, "It is turn 1 by my clock.");
        }
        Ok(format!("It is turn {turn} by my clock."))
    });
    let instructions = [instruction(&[("What time is it?", None), ("And now?", None)])];
    let made = Run::new().dialogues(&scripted, &instructions, &DialogueOptions::default()).await.unwrap();
    assert_eq!(made.rows.len(), 3);
    for row in &made.rows {
        let said: Vec<(Role, &str)> = row.messages.iter().map(|m| (m.role, m.content.as_str())).collect();
        assert_eq!(
            said,
            [
                (Role::User, "What time is it?"),
                (Role::Assistant, "It is turn 1 by my clock."),
                (Role::User, "And now?"),
                (Role::Assistant, "It is turn 2 by my clock."),
            ]
        );
        let provenance = row.provenance.as_ref().unwrap();
        assert_eq!(provenance.instruction_id.as_deref(), Some(instructions[0].instruction_id.as_str()));
        assert_eq!(provenance.ledger_keys.len(), 2);
        assert_eq!(provenance.templates.keys().collect::<Vec<_>>(), ["system"]);
    }
    let mut drawn: Vec<&str> = made.rows.iter().map(|row| row.character_id.as_str()).collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 3, "different characters");
}

#[tokio::test]
async fn rewriting_needs_answers_and_changes_them() {
    let scripted = Scripted::new(|request| {
        let prompt = &request.messages[0].content;
        assert!(prompt.contains("Plain answer: Paris is the capital."), "{prompt}");
        assert!(prompt.contains("A keeper of lighthouse number"), "{prompt}");
        Ok(if prompt.contains("Name: Keeper 0") { "Paris is the capital!".into() } else { "Paris, they say.".into() })
    });
    let instructions = [
        instruction(&[("Capital of France?", Some("Paris is the capital."))]),
        instruction(&[("Half answered?", Some("Yes.")), ("And this?", None)]),
        instruction(&[("Not answered?", None)]),
    ];
    let options =
        DialogueOptions { strategy: Strategy::Rewrite, characters_per_instruction: 6, ..DialogueOptions::default() };
    let made = Run::new().dialogues(&scripted, &instructions, &options).await.unwrap();
    assert_eq!(made.rows.len(), 5);
    assert!(made.rows.iter().all(|row| row.messages[0].content == "Capital of France?"));
    assert!(made.rows.iter().all(|row| row.messages[1].content == "Paris, they say."));
    let rules: Vec<&str> = made.rejected.iter().map(|item| item.reasons[0].split(": ").next().unwrap()).collect();
    assert_eq!(rules, ["unchanged", "no answer to rewrite", "no answer to rewrite"]);
    assert_eq!(made.rejected[2].item, instructions[2].instruction_id);

    let error = Run::new().dialogues(&scripted, &instructions[1..], &options).await.unwrap_err();
    assert!(error.to_string().contains("none of the 2 instructions"), "{error}");
}

#[tokio::test]
async fn of_several_candidates_the_most_specific_is_kept() {
    // Both answers are likely from anybody, the second likelier; only the first is likelier from its own character.
    let counter = AtomicUsize::new(0);
    let scripted = Scripted::new(move |_| {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        Ok(if number % 3 == 1 { "My lamp burns on.".into() } else { format!("It is a fine day, number {number}.") })
    })
    .with_likelihood(|request| {
        let is_own = request.messages[0].content.contains("Keeper 2");
        let answer = &request.messages.last().unwrap().content;
        match (answer.contains("lamp"), is_own) {
            (true, true) => -8.0,
            (true, false) => -20.0,
            (false, true) => -1.0,
            (false, false) => -2.0,
        }
    });
    let pool = characters(6);
    let instructions: Vec<Instruction> =
        (0..40).map(|number| instruction(&[(&format!("Question {number}?"), None)])).collect();
    let options = DialogueOptions { candidates: 3, characters_per_instruction: 1, ..DialogueOptions::default() };
    let cast = Cast::new(&pool);
    let own = instructions
        .iter()
        .find(|instruction| cast.draw(instruction, 1, options.seed)[0].profile.name == "Keeper 2")
        .expect("forty draws of six meet Keeper 2 for this seed");
    let made = Run::new().dialogues(&scripted, std::slice::from_ref(own), &options).await.unwrap();
    let row = &made.rows[0];
    assert_eq!(row.messages[1].content, "My lamp burns on.");
    let provenance = row.provenance.as_ref().unwrap();
    assert_eq!(provenance.specificity, Some(-8.0 - -20.0));
    assert_eq!(provenance.ledger_keys.len(), 1 + 3, "the answer, its own score and two others'");
    assert_eq!(scripted.calls(), (3, 9));
}

#[test]
fn plans_ignore_the_order_of_their_lists() {
    let (pool, options) = (characters(9), DialogueOptions::default());
    let instructions: Vec<Instruction> = (0..5).map(|number| instruction(&[(&format!("{number}?"), None)])).collect();
    let named = |pool: &[Character], instructions: &[Instruction]| {
        let cast = Cast::new(pool);
        let mut pairs: Vec<(String, String)> = instructions
            .iter()
            .flat_map(|instruction| {
                let drawn = cast.draw(instruction, options.characters_per_instruction, options.seed);
                drawn.into_iter().map(|one| (one.character_id.clone(), instruction.instruction_id.clone()))
            })
            .collect();
        pairs.sort();
        pairs
    };
    let reversed = |count: &[Character]| count.iter().rev().cloned().collect::<Vec<_>>();
    let backwards: Vec<Instruction> = instructions.iter().rev().cloned().collect();
    assert_eq!(named(&pool, &instructions), named(&reversed(&pool), &backwards));
    assert_eq!(named(&pool, &instructions).len(), 15);
}

#[tokio::test]
async fn progress_counts_every_item() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let scripted = Scripted::new(|_| Ok(profile_json("Ada Holm")));
    let model = LedgeredModel::new(&scripted, &ledger);
    let events = Mutex::new(Vec::new());
    let progress = |event| events.lock().unwrap().push(event);
    let work = Work { total: 5, ..Work::new(model, &progress) };
    profiles_within(work, &personas(5), &Templates::default()).await.unwrap();
    let events = events.into_inner().unwrap();
    assert_eq!(events.iter().map(|event| event.done).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let last = events.last().unwrap();
    assert_eq!((last.total, last.accepted, last.rejected, last.stage), (5, 5, 0, "profiles"));
    assert_eq!(last.tokens, ledger.session("profiles").completion_tokens);
    assert!(last.tokens > 0);
}

#[test]
fn templates_can_be_copied_changed_and_not_misspelt() {
    let directory = tempfile::tempdir().unwrap();
    let built_in = Templates::default();
    built_in.write_to(directory.path()).unwrap();
    assert_eq!(Templates::from_dir(directory.path()).unwrap(), built_in);
    assert!(built_in.write_to(directory.path()).is_err(), "nothing is written over");

    std::fs::write(directory.path().join("profile.jinja"), "Who is {{ persona }}?").unwrap();
    let changed = Templates::from_dir(directory.path()).unwrap();
    assert_ne!(changed.hashes()["profile"], built_in.hashes()["profile"]);
    assert_eq!(changed.hashes()["rewrite"], built_in.hashes()["rewrite"]);

    std::fs::write(directory.path().join("profil.jinja"), "").unwrap();
    let message = Templates::from_dir(directory.path()).unwrap_err().to_string();
    assert!(message.contains("profil.jinja") && message.contains("`profile.jinja`"), "{message}");
}

#[tokio::test]
async fn an_unknown_placeholder_stops_before_any_call() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let scripted = Scripted::new(|_| Ok(String::new()));
    let model = LedgeredModel::new(&scripted, &ledger);
    let profile = opencharacter_core::PromptTemplate::new("profile", "{{ persnoa }}");
    let templates = Templates { profile, ..Templates::default() };
    let made = profiles_within(Work::new(model, &|_| ()), &personas(2), &templates).await;
    assert!(matches!(made, Err(SynthError::Prompt(_))));
    assert_eq!(scripted.calls(), (0, 0));
}

#[tokio::test]
async fn the_built_in_prompts_show_what_is_known() {
    let prompts = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&prompts);
    let scripted = Scripted::new(move |request| {
        seen.lock().unwrap().push((request.messages[0].content.clone(), request.schema.clone().unwrap()));
        Ok(profile_json("Ada Holm"))
    });
    let stated = [Persona::new("Lucía, a 29-year-old woman, digs tunnels", "", ""), Persona::new("A plumber", "", "")];
    Run::new().profiles(&scripted, &stated).await.unwrap();
    let prompts = prompts.lock().unwrap();
    let (told, schema) = prompts.iter().find(|(prompt, _)| prompt.contains("Lucía")).unwrap();
    assert!(told.contains("The name is Lucía.") && told.contains("The age is 29."), "{told}");
    assert_eq!(schema["properties"]["age"]["maximum"], 29);
    let (free, schema) = prompts.iter().find(|(prompt, _)| prompt.contains("A plumber")).unwrap();
    assert!(free.contains("begins with one of"), "{free}");
    assert_eq!(schema["properties"]["age"]["maximum"], 110);
}

/// Which rows `count` gives does not depend on who answers first, and no call is made that is not needed.
#[tokio::test]
async fn so_many_rows_as_asked_the_first_that_are_accepted_and_no_call_more() {
    let personas = personas(60);
    let mut made = Vec::new();
    for salt in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        // Every third persona gets no valid profile.
        let scripted = Scripted::new(|request| {
            let number: usize =
                request.messages[0].content.split("number ").nth(1).unwrap()[..2].trim().parse().unwrap_or(0);
            Ok(profile_json(if number % 3 == 1 { "John Doe" } else { "Ada Holm" }))
        })
        .with_latency(salt);
        let model = LedgeredModel::new(&scripted, &ledger);
        let work = Work { count: Some(20), ..Work::new(model, &|_| ()) };
        made.push(profiles_within(work, &personas, &Templates::default()).await.unwrap());
        let items = made[0].summary.accepted + made[0].summary.rejected;
        assert_eq!(scripted.calls().0, 20 + 4 * made[0].summary.rejected, "{items} items");
    }
    assert_eq!(made[0].rows.len(), 20);
    assert_eq!(made[0], made[1]);
    assert_eq!(made[0], made[2]);
}

#[tokio::test]
async fn a_budget_ends_a_stage_early_and_a_larger_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let personas = personas(40);
    let scripted = Scripted::new(|_| Ok(profile_json("Ada Holm")));
    let ledger = Ledger::open(directory.path()).unwrap();
    let model = LedgeredModel::new(&scripted, &ledger);
    let prices = Prices { input: 0.0, output: 1e6 };
    let each = profile_json("Ada Holm").split(' ').count();
    let most = (10 * each) as f64;
    let budget = Budget { max_cost: Some(most), prices, ..Budget::default() };
    let work = Work { budget, ..Work::new(model, &|_| ()) };
    let made = profiles_within(work, &personas, &Templates::default()).await.unwrap();
    assert_eq!(made.summary.stopped_by.as_deref(), Some(format!("the limit of {most} in cost").as_str()));
    assert!((8..=10).contains(&made.rows.len()), "{} rows of {each} tokens", made.rows.len());
    assert!(ledger.report().total["profiles"].completion_tokens <= 10 * each);

    let calls = scripted.calls().0;
    let again = profiles_within(work, &personas, &Templates::default()).await.unwrap();
    assert_eq!((&again, scripted.calls().0), (&made, calls), "the same limit keeps what is recorded and asks nothing");

    let budget = Budget { max_tokens: Some(1_000_000), ..Budget::default() };
    let work = Work { budget, ..Work::new(model, &|_| ()) };
    let made = profiles_within(work, &personas, &Templates::default()).await.unwrap();
    assert_eq!((made.rows.len(), made.summary.stopped_by, scripted.calls().0), (40, None, 40));
}

/// Names come from a short list, the first that the prompt does not exclude; one persona states a name that another has.
#[tokio::test]
async fn nobody_shares_a_name_and_the_first_keeps_it() {
    const NAMES: [&str; 6] = ["Ada Holm", "Bo Lund", "Cai Moe", "Dag Nes", "Eva Ost", "Fay Pol"];
    let mut personas = personas(5);
    personas.push(Persona::new("A keeper named Ada Holm", "test", "MIT"));
    let mut made = Vec::new();
    for latency in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        let scripted = Scripted::new(|request| {
            let prompt = &request.messages[0].content;
            let name = NAMES
                .into_iter()
                .find(|name| !prompt.contains(&format!("than {name}")) && !prompt.contains(&format!(", {name}")));
            Ok(profile_json(name.unwrap()))
        })
        .with_latency(latency);
        let work = Work::new(LedgeredModel::new(&scripted, &ledger), &|_| ());
        let mut collected = Collected::default();
        let again = async || Ok(in_memory(personas.iter().cloned()));
        let (options, templates) = (ProfileOptions::default(), Templates::default());
        synthesize_distinct_profiles(again, &options, &templates, work, &mut collected).await.unwrap();
        let names: Vec<&str> = collected.rows.iter().map(|row| row.profile.name.as_str()).collect();
        assert_eq!(names, ["Ada Holm", "Bo Lund", "Cai Moe", "Dag Nes", "Eva Ost", "Ada Holm"]);
        // 6 first profiles, then one round per name with those that still share one.
        assert_eq!(scripted.calls().0, 6 + 4 + 3 + 2 + 1);
        made.push(collected);
    }
    assert_eq!(made[0], made[1]);
    assert_eq!(made[0], made[2]);
}
