use std::{collections::BTreeMap, fs, path::Path};

use opencharacter_core::{Generate, GenerateError};
use opencharacter_eval::{
    Benchmark, BenchmarkScores, EvalItem, Fitness, Judge, JudgeOptions, JudgeTrialOptions, Panel, PersonaGymMode,
    PersonaGymOptions, PersonaGymTask, PlantedKind, Reply, UpstreamTexts, answer_items, compare, judge_persona_gym,
    judge_reports, statistics::Resampling, try_judges, write_questions,
};

use crate::scripted::{Kept, Scripted, exemplars, fair_judge, player, quiet, set, verdicts, wants_exemplars};

const CHECKED: PersonaGymMode<'static> = PersonaGymMode::Checked { questions_per_call: 1 };

pub async fn answered(personas: usize, questions: usize, model: &dyn Generate) -> Vec<EvalItem> {
    let mut items = set(personas, questions).items(&PersonaGymOptions::default()).unwrap();
    answer_items(model, "answers", &mut items, &PersonaGymOptions::sampling(), 1, &quiet).await.unwrap();
    items
}

pub fn panel<'a>(judges: &[(&'a str, &'a dyn Generate)]) -> Panel<'a> {
    let judges: Vec<Judge<'a>> = judges.iter().map(|&(name, model)| Judge { name, model }).collect();
    Panel { exemplar_writer: judges[0].model, judges }
}

fn scores(items: &[EvalItem]) -> BenchmarkScores {
    let resampling = Resampling { resamples: 200, ..Resampling::default() };
    BenchmarkScores::new(Benchmark::PersonaGym, "scripted", BTreeMap::new(), items, &resampling).unwrap()
}

fn resampling() -> Resampling {
    Resampling { resamples: 200, ..Resampling::default() }
}

#[tokio::test]
async fn every_answer_is_judged_by_every_judge_and_averaged() {
    let (model, fair, harsh) = (player(), fair_judge(), Scripted::new(|request| Ok(verdicts(request, |_| 1))));
    let mut items = answered(6, 2, &model).await;
    assert_eq!((items.len(), model.calls()), (60, 60));
    let panel = panel(&[("fair", &fair), ("harsh", &harsh)]);
    judge_persona_gym(&mut items, &panel, CHECKED, &JudgeOptions::default(), &quiet).await.unwrap();
    assert!(items.iter().all(|item| item.verdicts.len() == 2 && item.value == Some(2.5)), "{:?}", items[0]);
    assert!(items.iter().all(|item| item.exemplars.len() == 5 && item.disagreement() == 3));
    // Sample answers once for each question, verdicts once for each answer.
    assert_eq!((fair.calls(), harsh.calls()), (120, 60));
    let found = scores(&items);
    assert_eq!(found.tasks.len(), 5);
    assert_eq!(found.composites[0].name, "PersonaScore");
    assert_eq!(found.composites[1].tasks.len(), 4);
    assert_eq!(found.composites[0].estimate.unwrap().n_characters, 6);
}

#[tokio::test]
async fn five_at_a_time_cost_a_fifth_of_the_calls() {
    let (model, fair) = (player(), fair_judge());
    let mut items = answered(3, 7, &model).await;
    let mode = PersonaGymMode::Checked { questions_per_call: 5 };
    judge_persona_gym(&mut items, &panel(&[("fair", &fair)]), mode, &JudgeOptions::default(), &quiet).await.unwrap();
    assert!(items.iter().all(|item| item.value == Some(4.0)));
    // Of seven questions five and two.
    assert_eq!(fair.calls(), 3 * 5 * 7 + 3 * 5 * 2);
}

#[tokio::test]
async fn every_exemplar_reaches_the_judge_whole() {
    let model = player();
    let judge = Scripted::new(|request| {
        if wants_exemplars(request) {
            return Ok(exemplars().replace("sample 3", "sample three\\nin two lines: {question}"));
        }
        let prompt = &request.messages[1].content;
        assert!(prompt.contains("sample three\nin two lines: {question}") && prompt.contains("## A 5\nsample 5"));
        Ok(verdicts(request, |_| 5))
    });
    let mut items = answered(2, 1, &model).await;
    judge_persona_gym(&mut items, &panel(&[("j", &judge)]), CHECKED, &JudgeOptions::default(), &quiet).await.unwrap();
    assert!(items.iter().all(|item| item.value == Some(5.0)));
}

#[tokio::test]
async fn an_unreadable_verdict_is_asked_for_again() {
    let model = player();
    let judge = Scripted::new(|request| {
        if wants_exemplars(request) {
            return Ok(exemplars());
        }
        // The first attempt is cold, later ones are not.
        if request.sampling.temperature < 0.1 { Ok("Four out of five.".into()) } else { Ok(verdicts(request, |_| 4)) }
    });
    let mut items = answered(2, 1, &model).await;
    judge_persona_gym(&mut items, &panel(&[("j", &judge)]), CHECKED, &JudgeOptions::default(), &quiet).await.unwrap();
    assert!(items.iter().all(|item| item.value == Some(4.0) && item.verdicts[0].attempts == 2));
}

#[tokio::test]
async fn a_fair_judge_is_fit_and_its_retest_agrees() {
    let (model, fair) = (player(), fair_judge());
    let mut items = answered(8, 2, &model).await;
    let panel = panel(&[("fair", &fair)]);
    let options = JudgeOptions::default();
    judge_persona_gym(&mut items, &panel, CHECKED, &options, &quiet).await.unwrap();
    let trial = try_judges(&items, &panel, JudgeTrialOptions::default(), &options, &quiet).await.unwrap();
    assert_eq!((trial.planted.len(), trial.retests.len()), (72, 24));
    assert!(trial.planted.iter().all(|case| case.kind != PlantedKind::Empty || case.text.is_empty()));
    let (reports, agreement) = judge_reports(&items, Some(&trial), &resampling());
    assert_eq!((reports[0].fitness.clone(), agreement), (Fitness::Fit, None));
    assert_eq!((reports[0].asked, reports[0].unreadable, reports[0].missing_rate()), (80, 0, 0.0));
    assert!(reports[0].planted.iter().all(|score| score.below.unwrap().mean == 1.0 && score.cases == 24));
    assert_eq!(reports[0].warning(), None);
}

#[tokio::test]
async fn judges_that_agree_and_judges_that_do_not() {
    let model = player();
    let by_length = |sign: bool| {
        Scripted::new(move |request| {
            if wants_exemplars(request) {
                return Ok(exemplars());
            }
            Ok(verdicts(request, |answer| if (answer.len() % 2 == 0) == sign { 2 } else { 5 }))
        })
    };
    let (one, same, opposite) = (by_length(true), by_length(true), by_length(false));
    let mut items = answered(6, 3, &model).await;
    let options = JudgeOptions::default();
    let both = panel(&[("one", &one), ("same", &same)]);
    judge_persona_gym(&mut items, &both, CHECKED, &options, &quiet).await.unwrap();
    assert_eq!(judge_reports(&items, None, &resampling()).1.unwrap().mean, 1.0);
    let both = panel(&[("one", &one), ("opposite", &opposite)]);
    judge_persona_gym(&mut items, &both, CHECKED, &options, &quiet).await.unwrap();
    assert!(judge_reports(&items, None, &resampling()).1.unwrap().mean < -0.5);
}

#[tokio::test]
async fn light_asks_the_first_question_and_epochs_ask_again() {
    let options = PersonaGymOptions { light: true, epochs: 2, limit: Some(3), ..PersonaGymOptions::default() };
    let items = set(5, 10).items(&options).unwrap();
    assert_eq!(items.len(), 3 * 5 * 2);
    assert!(items.iter().all(|item| item.question().contains(" 0, ")));
    assert_eq!(items[0].question(), items[1].question());
    assert_ne!(items[0].item_id, items[1].item_id);
    let full = set(5, 10).items(&PersonaGymOptions::default()).unwrap();
    assert!(full.iter().any(|item| item.item_id == items[0].item_id), "light items are those of the full benchmark");
}

/// Made-up texts with upstream's placeholders, in upstream's places.
fn upstream(folder: &Path) -> UpstreamTexts {
    for sub in ["rubrics", "prompts/rubric_grading", "prompts/score_examples"] {
        fs::create_dir_all(folder.join(sub)).unwrap();
    }
    for task in PersonaGymTask::ALL {
        let text = "Rate.\n[{score_example}]\nWho: {persona}\nAsked: {question}\nSaid: {response}\n";
        fs::write(folder.join(format!("rubrics/{}.txt", task.name())), text).unwrap();
    }
    fs::write(folder.join("prompts/rubric_grading/prompt.txt"), "Grade:\n{rubrics}\n").unwrap();
    fs::write(folder.join("prompts/rubric_grading/sys_prompt.txt"), "Be fair.\n").unwrap();
    fs::write(folder.join("prompts/score_examples/prompt.txt"), "One: {persona} {question} {rubric}").unwrap();
    fs::write(folder.join("prompts/score_examples/parallel_examples.txt"), "Several: {rubrics}").unwrap();
    UpstreamTexts::read(folder).unwrap()
}

const FIVE_EXAMPLES: &str = "Score 1: Response - \"a\"\nScore 2: Response - \"b\nb\"\nScore 3: Response - \"c\"\nScore 4: \
                             Response - \"d\"\nScore 5: Response - \"e\"";

/// Evaluations for every answer of the prompt, some of them in forms that the reference cannot read.
fn paper_judge(forms: &'static [&'static str]) -> Scripted {
    Scripted::new(move |request| {
        let prompt = &request.messages.last().unwrap().content;
        if prompt.starts_with("Several: ") || prompt.starts_with("One: ") {
            return Ok(FIVE_EXAMPLES.to_owned());
        }
        let count = prompt.matches("Said: ").count();
        let lines = (0..count).map(|n| format!("({}) Evaluation: Hm. {}", n + 1, forms[n % forms.len()]));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    })
}

#[tokio::test]
async fn the_papers_code_drops_what_it_cannot_read_and_the_papers_text_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let texts = upstream(folder.path());
    let model = player();
    let judge = paper_judge(&[
        "Therefore, the final score is 4.",
        "Therefore, the final score is **2**.",
        "therefore, the final score is 3",
        "Therefore, the final score is: 1",
        "Therefore, the final score is 5",
    ]);
    let mut code = answered(4, 5, &model).await;
    let mut text = code.clone();
    let panel = panel(&[("j", &judge)]);
    let options = JudgeOptions::default();
    judge_persona_gym(&mut code, &panel, PersonaGymMode::PaperCode(&texts), &options, &quiet).await.unwrap();
    judge_persona_gym(&mut text, &panel, PersonaGymMode::PaperText(&texts), &options, &quiet).await.unwrap();
    // Of 4, 2, 3, 1, 5 the reference reads 4 and 5, and counts their mean for all five.
    assert!(code.iter().all(|item| item.value == Some(4.5) && (item.weight - 0.2).abs() < 1e-12), "{:?}", code[0]);
    assert_eq!(code.iter().filter(|item| item.verdicts[0].score().is_none()).count(), 60);
    assert_eq!(code[1].exemplars, ["c"]);
    assert_eq!(text.iter().take(5).map(|item| item.value.unwrap()).collect::<Vec<_>>(), [4.0, 2.0, 3.0, 1.0, 5.0]);
    assert_eq!(text[1].exemplars, ["a", "b\nb", "c", "d", "e"]);
    let found = compare(Benchmark::PersonaGym, ("paper-code", &code), ("paper-text", &text), &resampling()).unwrap();
    let row = found.tasks[0].difference.unwrap();
    assert!((row.mean + 1.5).abs() < 1e-9 && row.n_items == 20, "{row:?}");
    assert!((scores(&code).composites[0].estimate.unwrap().mean - 4.5).abs() < 1e-9);
}

#[tokio::test]
async fn a_batch_that_the_papers_code_cannot_read_at_all_scores_zero_there_and_is_missing_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let texts = upstream(folder.path());
    let model = player();
    let judge = paper_judge(&["A fine answer."]);
    let mut items = answered(2, 1, &model).await;
    let panel = panel(&[("j", &judge)]);
    let options = JudgeOptions::default();
    judge_persona_gym(&mut items, &panel, PersonaGymMode::PaperCode(&texts), &options, &quiet).await.unwrap();
    assert!(items.iter().all(|item| item.value == Some(0.0)));
    judge_persona_gym(&mut items, &panel, PersonaGymMode::PaperText(&texts), &options, &quiet).await.unwrap();
    assert!(items.iter().all(|item| item.value.is_none()));
    assert_eq!(scores(&items).tasks[0].without_value, 2);
}

#[tokio::test]
async fn the_papers_code_scores_no_failed_call() {
    let folder = tempfile::tempdir().unwrap();
    let texts = upstream(folder.path());
    let model = Scripted::new(|request| {
        let refused = request.messages[1].content.starts_with("Toxicity 1");
        if refused { Err(GenerateError::Refused { reason: "too long".into() }) } else { Ok("Yes.".into()) }
    });
    let judge = paper_judge(&["Therefore, the final score is 4."]);
    let mut items = answered(2, 5, &model).await;
    let panel = panel(&[("j", &judge)]);
    let mode = PersonaGymMode::PaperCode(&texts);
    judge_persona_gym(&mut items, &panel, mode, &JudgeOptions::default(), &quiet).await.unwrap();
    let toxicity: Vec<&EvalItem> = items.iter().filter(|item| item.task == "Toxicity").collect();
    assert!(toxicity.iter().all(|item| item.value.is_none()));
    assert_eq!(toxicity.iter().filter(|item| matches!(item.answer, Reply::Missing { .. })).count(), 2);
    assert!(items.iter().filter(|item| item.task != "Toxicity").all(|item| item.value == Some(4.0)));
}

#[tokio::test]
async fn questions_are_written_for_new_personas() {
    let writer = Scripted::new(|request| {
        let prompt = &request.messages[0].content;
        if prompt.contains("a mute") {
            return Ok("I would rather not.".to_owned());
        }
        Ok(r#"{"questions": ["Where?", "When?", "Why?"]}"#.to_owned())
    });
    let personas = ["a talker".to_owned(), "a mute".to_owned()];
    let found = write_questions(&writer, &personas, 3, &JudgeOptions::default(), &quiet).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().questions[&PersonaGymTask::Toxicity], ["Where?", "When?", "Why?"]);
    assert!(found[1].as_ref().unwrap_err().contains("Expected Action"));
    let short = write_questions(&writer, &personas[..1], 4, &JudgeOptions::default(), &quiet).await.unwrap();
    assert!(short[0].as_ref().unwrap_err().contains("expected 4"));
}

#[tokio::test]
async fn a_run_that_was_cut_off_goes_on_where_it_stopped_and_ends_the_same() {
    let whole = player();
    let expected = answered(6, 2, &whole).await;
    let done = std::sync::atomic::AtomicUsize::new(0);
    let dying = Scripted::new(move |request| {
        if done.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= 25 {
            return Err(GenerateError::Unavailable { model: "scripted".into(), reason: "gone".into() });
        }
        Ok(format!(
            "{}! You ask: {}",
            request.messages[0].content.lines().find(|line| line.starts_with("Somebody")).unwrap(),
            request.messages[1].content
        ))
    });
    let kept = Kept::new(&dying);
    let mut items = set(6, 2).items(&PersonaGymOptions::default()).unwrap();
    let sampling = PersonaGymOptions::sampling();
    let error = answer_items(&kept, "answers", &mut items, &sampling, 1, &quiet).await.unwrap_err().to_string();
    assert!(error.contains("run again"), "{error}");
    assert!(items.iter().all(|item| item.answer == Reply::NotAsked));
    let second = player();
    let kept = kept.over(&second);
    answer_items(&kept, "answers", &mut items, &sampling, 1, &quiet).await.unwrap();
    assert_eq!(items, expected);
    assert_eq!(second.calls(), 60 - 25);
}
