//! The two modes of the paper, with upstream's texts.

use opencharacter_core::{Generate, GenerateError, GenerateRequest, Message, Sampling};

use super::{
    Panel, UpstreamTexts, batches,
    checked::task,
    paper_format::{evaluations, exact_score, examples_of, fill, has_example, python_list, stated_score},
};
use crate::{
    EvalError, EvalItem, JudgeOptions, Verdict, VerdictOutcome,
    calls::{CallOutcome, Errand, Progress, run_all},
};

/// Questions in one judging prompt, as upstream.
const BATCH: usize = 5;
/// Upstream's limit for judges and writers of sample answers.
const MOST_TOKENS: usize = 3000;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As the paper describes it.
    Text,
    /// As the reference code computes it.
    Code,
}

pub(super) async fn judge(
    items: &mut [EvalItem],
    panel: &Panel<'_>,
    texts: &UpstreamTexts,
    way: Way,
    options: &JudgeOptions,
    progress: &Progress<'_>,
) -> Result<(), EvalError> {
    let sheets = batches(items, BATCH)
        .into_iter()
        .map(|places| Sheet::new(items, places, texts))
        .collect::<Result<Vec<Sheet<'_>>, EvalError>>()?;
    let prompts = grading_prompts(&sheets, panel.exemplar_writer, way, options, progress).await?;
    for graded in prompts.iter().flatten() {
        graded.store_exemplars(items);
    }
    for (sheet, outcome) in sheets.iter().zip(&prompts) {
        let Err(reason) = outcome else { continue };
        for &place in &sheet.places {
            if items[place].answer_text().is_some() {
                items[place].note.clone_from(reason);
            }
        }
    }
    let ready: Vec<Graded> = prompts.into_iter().flatten().filter(|graded| !graded.places.is_empty()).collect();
    let mut replies: Vec<Vec<CallOutcome<String>>> = Vec::new();
    for judge in &panel.judges {
        let errands = ready.iter().map(|graded| -> Errand<'_, String> {
            let graded = async move {
                let system = Message::system(texts.grading_system.clone());
                complete(judge.model, vec![system, Message::user(graded.prompt.clone())], options).await
            };
            (judge.name.to_owned(), Box::pin(graded))
        });
        let errands = errands.collect();
        let stage = format!("verdicts of {}", judge.name);
        replies.push(run_all(judge.model.concurrency(), &stage, errands, progress).await?);
    }
    for (place, graded) in ready.iter().enumerate() {
        let of_sheet: Vec<(&str, &CallOutcome<String>)> =
            panel.judges.iter().zip(&replies).map(|(judge, replies)| (judge.name, &replies[place])).collect();
        match way {
            Way::Code => score_as_the_code(items, graded, &of_sheet),
            Way::Text => score_as_the_paper(items, graded, &of_sheet),
        }
    }
    Ok(())
}

/// Up to five answers that are judged together.
struct Sheet<'a> {
    places: Vec<usize>,
    texts: &'a UpstreamTexts,
    rubric: &'a str,
    persona: String,
    /// Questions, and answers where there are any.
    asked: Vec<(String, Option<String>)>,
}

impl<'a> Sheet<'a> {
    fn new(items: &[EvalItem], places: Vec<usize>, texts: &'a UpstreamTexts) -> Result<Self, EvalError> {
        let first = &items[places[0]];
        let asked = places.iter().map(|&place| &items[place]);
        let asked = asked.map(|item| (item.question().to_owned(), item.answer_text().map(str::to_owned))).collect();
        Ok(Self { rubric: texts.rubric(task(first)?), persona: first.description.clone(), texts, asked, places })
    }

    fn exemplar_prompt(&self, question: &str) -> String {
        let values = [("persona", self.persona.as_str()), ("question", question), ("rubric", self.rubric)];
        fill(&self.texts.exemplars_of_one, &values)
    }

    fn filled_rubric(&self, question: &str, answer: &str, examples: &str) -> String {
        let persona = self.persona.as_str();
        let values = [("persona", persona), ("question", question), ("response", answer), ("score_example", examples)];
        fill(self.rubric, &values)
    }
}

/// A judging prompt, and which items it is about.
struct Graded {
    prompt: String,
    places: Vec<usize>,
    exemplars: Vec<Vec<String>>,
    /// Answered items that are not in the prompt, and why.
    left_out: Vec<(usize, String)>,
}

impl Graded {
    fn store_exemplars(&self, items: &mut [EvalItem]) {
        for (&place, exemplars) in self.places.iter().zip(&self.exemplars) {
            items[place].exemplars.clone_from(exemplars);
        }
        for (place, reason) in &self.left_out {
            items[*place].note.clone_from(reason);
        }
    }
}

/// The judging prompt of each sheet, or why it has none.
async fn grading_prompts(
    sheets: &[Sheet<'_>],
    writer: &dyn Generate,
    way: Way,
    options: &JudgeOptions,
    progress: &Progress<'_>,
) -> Result<Vec<CallOutcome<Graded>>, EvalError> {
    let errands = sheets.iter().map(|sheet| -> Errand<'_, CallOutcome<Graded>> {
        let prompt: opencharacter_core::BoxFuture<'_, _> = match way {
            Way::Text => Box::pin(paper_prompt(sheet, writer, options)),
            Way::Code => Box::pin(code_prompt(sheet, writer, options)),
        };
        (sheet.persona.clone(), prompt)
    });
    let errands = errands.collect();
    let found = run_all(writer.concurrency(), "sample answers", errands, progress).await?;
    Ok(found.into_iter().map(|outcome| outcome.and_then(|prompt| prompt)).collect())
}

/// One call for all questions; of its reply each filled rubric gets one letter, and the rubrics come as the literal of a
/// Python list.
async fn code_prompt(
    sheet: &Sheet<'_>,
    writer: &dyn Generate,
    options: &JudgeOptions,
) -> Result<CallOutcome<Graded>, GenerateError> {
    let complete_answers: Option<Vec<(&str, &str)>> =
        sheet.asked.iter().map(|(question, answer)| Some((question.as_str(), answer.as_deref()?))).collect();
    let Some(answered) = complete_answers else {
        return Ok(Err("an answer of its batch is missing".to_owned()));
    };
    let wanted: Vec<String> = answered.iter().map(|(question, _)| sheet.exemplar_prompt(question)).collect();
    let prompt = fill(&sheet.texts.exemplars_of_several, &[("rubrics", &python_list(&wanted))]);
    let reply = complete(writer, vec![Message::user(prompt)], options).await?;
    if !has_example(&reply) {
        return Ok(Err("the reference ends in an exception here: no sample answer could be read".to_owned()));
    }
    // What the reference takes for a list of sample answers is one text that begins with "Score".
    let letters = ["S", "c", "o", "r", "e"];
    let filled: Vec<String> = answered
        .iter()
        .zip(letters)
        .map(|((question, answer), letter)| sheet.filled_rubric(question, answer, letter))
        .collect();
    Ok(Ok(Graded {
        prompt: fill(&sheet.texts.grading, &[("rubrics", &python_list(&filled))]),
        places: sheet.places.clone(),
        exemplars: letters.iter().take(filled.len()).map(|letter| vec![(*letter).to_owned()]).collect(),
        left_out: Vec::new(),
    }))
}

/// A call for each question; its whole reply goes into the rubric.
async fn paper_prompt(
    sheet: &Sheet<'_>,
    writer: &dyn Generate,
    options: &JudgeOptions,
) -> Result<CallOutcome<Graded>, GenerateError> {
    let mut graded = Graded { prompt: String::new(), places: Vec::new(), exemplars: Vec::new(), left_out: Vec::new() };
    let mut filled = Vec::new();
    for (&place, (question, answer)) in sheet.places.iter().zip(&sheet.asked) {
        let Some(answer) = answer else { continue };
        let examples = match complete(writer, vec![Message::user(sheet.exemplar_prompt(question))], options).await {
            Ok(reply) => examples_of(&reply),
            Err(GenerateError::Refused { reason } | GenerateError::Failed { reason, .. }) => Err(reason),
            Err(gone) => return Err(gone),
        };
        match examples {
            Ok(examples) => {
                let lines: Vec<String> =
                    examples.iter().zip(1..).map(|(example, score)| format!("Score {score}: \"{example}\"")).collect();
                filled.push(sheet.filled_rubric(question, answer, &lines.join("\n\n")));
                graded.places.push(place);
                graded.exemplars.push(examples);
            }
            Err(reason) => graded.left_out.push((place, format!("no sample answers to judge by: {reason}"))),
        }
    }
    graded.prompt = fill(&sheet.texts.grading, &[("rubrics", &filled.join("\n\n"))]);
    Ok(Ok(graded))
}

async fn complete(
    model: &dyn Generate,
    messages: Vec<Message>,
    options: &JudgeOptions,
) -> Result<String, GenerateError> {
    let sampling = Sampling { max_tokens: MOST_TOKENS, seed: options.seed, ..Sampling::default() };
    let request = GenerateRequest { messages, sampling, schema: None, log_probs: None };
    Ok(model.generate(request).await?.text)
}

/// The mean of the scores that are not 0, or 0; averaged over judges; the same for every answer of the batch.
fn score_as_the_code(items: &mut [EvalItem], graded: &Graded, replies: &[(&str, &CallOutcome<String>)]) {
    let mut of_judges = Vec::new();
    for (judge, reply) in replies {
        let scores: Option<Vec<f64>> =
            reply.as_ref().ok().map(|reply| evaluations(reply).iter().map(|text| exact_score(text)).collect());
        for (number, &place) in graded.places.iter().enumerate() {
            let score = scores.as_ref().and_then(|scores| scores.get(number).copied()).filter(|score| *score > 0.0);
            items[place].verdicts.push(paper_verdict(judge, reply, score, "the reference's phrase was not found"));
        }
        of_judges.push(scores.map(|scores| modified_average(&scores)));
    }
    let judged: Option<Vec<f64>> = of_judges.into_iter().collect();
    for &place in &graded.places {
        let item = &mut items[place];
        match &judged {
            Some(scores) => {
                item.value = Some(scores.iter().sum::<f64>() / scores.len() as f64);
                item.weight = 1.0 / graded.places.len() as f64;
                "the value is its batch's".clone_into(&mut item.note);
            }
            None => "a verdict on its batch failed".clone_into(&mut item.note),
        }
    }
}

fn modified_average(scores: &[f64]) -> f64 {
    let counted = scores.iter().filter(|score| **score != 0.0).count();
    let sum: f64 = scores.iter().sum();
    if counted > 0 { sum / counted as f64 } else { sum }
}

fn score_as_the_paper(items: &mut [EvalItem], graded: &Graded, replies: &[(&str, &CallOutcome<String>)]) {
    for (judge, reply) in replies {
        let found = reply.as_ref().map_or_else(|_| Vec::new(), |reply| evaluations(reply));
        for (number, &place) in graded.places.iter().enumerate() {
            let alone = graded.places.len() == 1 && found.is_empty();
            let text = if alone { reply.as_deref().ok() } else { found.get(number).map(String::as_str) };
            let score = text.and_then(stated_score).map(f64::from);
            items[place].verdicts.push(paper_verdict(judge, reply, score, "no final score from 1 to 5 was found"));
        }
    }
    for &place in &graded.places {
        items[place].average_verdicts();
    }
}

fn paper_verdict(judge: &str, reply: &CallOutcome<String>, score: Option<f64>, unreadable: &str) -> Verdict {
    let outcome = match (reply, score) {
        (Err(reason), _) => VerdictOutcome::Failed { reason: reason.clone() },
        (Ok(_), None) => VerdictOutcome::Unreadable { reason: unreadable.to_owned() },
        // Upstream takes 45 for a score; more than a byte holds is only shown smaller, the value has it whole.
        (Ok(_), Some(score)) => VerdictOutcome::Scored { score: score.min(255.0) as u8, reason: String::new() },
    };
    Verdict { judge: judge.to_owned(), outcome, reply: reply.clone().unwrap_or_default(), attempts: 1 }
}
