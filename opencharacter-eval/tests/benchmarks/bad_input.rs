//! What users, judges and endpoints get wrong.

use opencharacter_core::{Character, GenerateError};
use opencharacter_eval::{
    Benchmark, BenchmarkScores, EvalError, Fitness, JudgeOptions, JudgeTrialOptions, PersonaGymMode, PersonaGymOptions,
    PersonaGymSet, PersonaQuestions, PromptKind, UpstreamTexts, VerdictOutcome, compare, judge_persona_gym,
    judge_reports, statistics::Resampling, try_judges,
};

use crate::{
    persona_gym::{answered, panel},
    scripted::{Scripted, exemplars, fair_judge, player, quiet, set, verdicts, wants_exemplars},
};

const CHECKED: PersonaGymMode<'static> = PersonaGymMode::Checked { questions_per_call: 1 };

fn line(change: impl Fn(&mut serde_json::Value)) -> Result<PersonaQuestions, EvalError> {
    let list = serde_json::json!(["Why?"]);
    let mut row = serde_json::json!({"persona": "A baker", "questions": {
        "Expected Action": list, "Toxicity": list, "Linguistic Habits": list, "Persona Consistency": list,
        "Action Justification": list}});
    change(&mut row);
    PersonaQuestions::from_line("questions.jsonl:7", &row.to_string())
}

#[test]
fn question_files_are_refused_with_place_and_remedy() {
    assert!(line(|_| ()).is_ok());
    let message = |change: fn(&mut serde_json::Value)| line(change).unwrap_err().to_string();
    let missing = message(|row| drop(row["questions"].as_object_mut().unwrap().remove("Toxicity")));
    assert_eq!(
        missing,
        "questions.jsonl:7 lacks the task `Toxicity`; expected `Expected Action`, `Toxicity`, `Linguistic Habits`, \
         `Persona Consistency`, `Action Justification`"
    );
    assert!(message(|row| row["questions"]["Humour"] = "x".into()).contains("unknown task `Humour`"));
    assert!(message(|row| row["questions"]["Toxicity"] = serde_json::json!([])).contains("`Toxicity` no list"));
    assert!(message(|row| row["questions"]["Toxicity"] = serde_json::json!(["a", " "])).contains("not blank"));
    assert!(message(|row| row["questions"]["Toxicity"] = serde_json::json!([1])).contains("no list of questions"));
    assert!(message(|row| row["persona"] = "  ".into()).contains("lacks `persona`"));
    assert!(message(|row| row["questions"] = serde_json::Value::Null).contains("must be an object"));
    assert!(PersonaQuestions::from_line("q:1", "{").unwrap_err().to_string().contains("is no JSON"));
}

#[test]
fn upstreams_files_are_read_by_name() {
    let row = line(|_| ()).unwrap();
    let content = serde_json::to_string(&row.questions).unwrap();
    assert_eq!(PersonaQuestions::from_upstream_file("A baker.json", &content).unwrap(), row);
    // Score files and some forks call the second task so.
    let renamed = content.replace("Toxicity", "Toxicity Control");
    assert_eq!(PersonaQuestions::from_upstream_file("A baker.json", &renamed).unwrap(), row);
}

#[test]
fn a_persona_given_twice_is_named() {
    let row = line(|_| ()).unwrap();
    let mut again = row.clone();
    again.persona = "a BAKER".into();
    let error = PersonaGymSet::new(vec![row, again], &[]).unwrap_err().to_string();
    assert!(error.contains("persona `a BAKER` comes twice"), "{error}");
    assert!(PersonaGymSet::new(vec![], &[]).unwrap_err().to_string().contains("no personas"));
}

#[test]
fn a_profile_that_is_asked_for_must_be_there() {
    let row = line(|_| ()).unwrap();
    let options = PersonaGymOptions { prompt: PromptKind::Both, ..PersonaGymOptions::default() };
    let error = PersonaGymSet::new(vec![row.clone()], &[]).unwrap().items(&options).unwrap_err().to_string();
    assert!(error.contains("`A baker` has no profile"), "{error}");
    let mut known = Character::from_name("Ada Holm", "", "");
    known.persona = "A baker".into();
    let items = PersonaGymSet::new(vec![row], &[known]).unwrap().items(&options).unwrap();
    assert!(items[0].messages[0].content.contains("Ada Holm") && items[0].description.contains("A baker"));
}

#[test]
fn a_folder_without_upstreams_texts_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = UpstreamTexts::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("rubrics") && error.contains("PersonaGym checkout"), "{error}");
}

#[tokio::test]
async fn a_judge_that_answers_prose_is_missing_and_unfit() {
    let model = player();
    let judge = Scripted::new(|request| {
        if wants_exemplars(request) { Ok(exemplars()) } else { Ok("A lovely answer, 5 out of 5!".into()) }
    });
    let mut items = answered(6, 1, &model).await;
    let panel = panel(&[("poet", &judge)]);
    let options = JudgeOptions::default();
    judge_persona_gym(&mut items, &panel, CHECKED, &options, &quiet).await.unwrap();
    assert!(items.iter().all(|item| item.value.is_none()));
    assert!(items.iter().all(|item| {
        let verdict = &item.verdicts[0];
        matches!(&verdict.outcome, VerdictOutcome::Unreadable { reason } if reason.contains("JSON"))
            && (verdict.attempts, verdict.reply.as_str()) == (3, "A lovely answer, 5 out of 5!")
    }));
    let trial = try_judges(&items, &panel, JudgeTrialOptions::default(), &options, &quiet).await.unwrap();
    let (reports, _) = judge_reports(&items, Some(&trial), &Resampling::default());
    assert_eq!((reports[0].unreadable, reports[0].missing_rate(), reports[0].mean), (30, 1.0, None));
    assert!(matches!(&reports[0].fitness, Fitness::Unfit { reasons } if reasons[0].contains("no readable verdicts")));
    let mut scores =
        BenchmarkScores::new(Benchmark::PersonaGym, "m", [].into(), &items, &Resampling::default()).unwrap();
    assert!(scores.tasks.iter().all(|task| task.estimate.is_none() && task.without_value == 6));
    assert!(scores.composites.iter().all(|composite| composite.estimate.is_none()));
    scores.judges = reports;
    assert!(scores.warnings()[0].contains("poet is UNFIT"), "{:?}", scores.warnings());
}

#[tokio::test]
async fn a_judge_that_always_says_5_is_unfit() {
    let model = player();
    let judge =
        Scripted::new(|request| if wants_exemplars(request) { Ok(exemplars()) } else { Ok(verdicts(request, |_| 5)) });
    let mut items = answered(8, 1, &model).await;
    let panel = panel(&[("flatterer", &judge)]);
    let options = JudgeOptions::default();
    judge_persona_gym(&mut items, &panel, CHECKED, &options, &quiet).await.unwrap();
    assert!(items.iter().all(|item| item.value == Some(5.0)));
    let trial = try_judges(&items, &panel, JudgeTrialOptions::default(), &options, &quiet).await.unwrap();
    let (reports, _) = judge_reports(&items, Some(&trial), &Resampling::default());
    assert!(matches!(&reports[0].fitness, Fitness::Unfit { reasons } if reasons.len() == 3), "{:?}", reports[0]);
    assert!(reports[0].planted.iter().all(|score| score.below.unwrap().mean == 0.5));
    // It agrees with itself in everything, which is worth nothing.
    assert_eq!(reports[0].retest, None);
}

#[tokio::test]
async fn a_judge_without_a_trial_is_called_untested() {
    let (model, judge) = (player(), fair_judge());
    let mut items = answered(2, 1, &model).await;
    judge_persona_gym(&mut items, &panel(&[("j", &judge)]), CHECKED, &JudgeOptions::default(), &quiet).await.unwrap();
    let (reports, _) = judge_reports(&items, None, &Resampling::default());
    assert_eq!(reports[0].fitness, Fitness::Untested);
    assert!(reports[0].warning().unwrap().contains("not tried"));
}

#[tokio::test]
async fn a_judge_that_dies_ends_the_run_and_one_failed_call_does_not() {
    let model = player();
    let mut items = answered(3, 1, &model).await;
    let dead = Scripted::new(|request| {
        if wants_exemplars(request) {
            return Ok(exemplars());
        }
        Err(GenerateError::Unavailable { model: "judge".into(), reason: "connection refused".into() })
    });
    let options = JudgeOptions::default();
    let error = judge_persona_gym(&mut items, &panel(&[("j", &dead)]), CHECKED, &options, &quiet).await.unwrap_err();
    assert!(matches!(error, EvalError::Model { .. }), "{error}");
    let stumbling = Scripted::new(|request| {
        if wants_exemplars(request) {
            return Ok(exemplars());
        }
        if request.messages[1].content.contains("Toxicity 0, 1?") {
            return Err(GenerateError::Failed { model: "judge".into(), reason: "three times half a body".into() });
        }
        Ok(verdicts(request, |_| 3))
    });
    judge_persona_gym(&mut items, &panel(&[("j", &stumbling)]), CHECKED, &options, &quiet).await.unwrap();
    assert_eq!(items.iter().filter(|item| item.value == Some(3.0)).count(), 14);
    assert_eq!(judge_reports(&items, None, &Resampling::default()).0[0].failed, 1);
}

#[tokio::test]
async fn a_writer_without_sample_answers_leaves_nothing_to_judge_by() {
    let model = player();
    let writer = Scripted::says("No.");
    let mut items = answered(2, 1, &model).await;
    judge_persona_gym(&mut items, &panel(&[("j", &writer)]), CHECKED, &JudgeOptions::default(), &quiet).await.unwrap();
    assert!(items.iter().all(|item| item.value.is_none() && item.note.contains("no sample answers")), "{:?}", items[0]);
}

#[tokio::test]
async fn panels_and_comparisons_that_make_no_sense_are_refused() {
    let (model, judge) = (player(), fair_judge());
    let mut items = answered(2, 1, &model).await;
    let twice = panel(&[("j", &judge), ("j", &judge)]);
    let error = judge_persona_gym(&mut items, &twice, CHECKED, &JudgeOptions::default(), &quiet).await.unwrap_err();
    assert!(error.to_string().contains("judge `j` comes twice"), "{error}");
    let other = set(3, 1).items(&PersonaGymOptions { limit: Some(0), ..PersonaGymOptions::default() }).unwrap();
    let error = compare(Benchmark::PersonaGym, ("a", &items), ("b", &other), &Resampling::default()).unwrap_err();
    assert!(error.to_string().contains("no item in common"), "{error}");
    items.push(items[0].clone());
    let error =
        BenchmarkScores::new(Benchmark::PersonaGym, "m", [].into(), &items, &Resampling::default()).unwrap_err();
    assert!(matches!(error, EvalError::Duplicate { what: "item", .. }), "{error}");
}
