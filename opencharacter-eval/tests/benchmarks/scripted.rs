//! Models that answer by a function, and a stand-in for the ledger.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use opencharacter_core::{
    BoxFuture, Completion, FinishReason, Generate, GenerateError, GenerateRequest, Score, ScoreRequest, TextSink,
};
use opencharacter_eval::{PersonaGymSet, PersonaGymTask, PersonaQuestions};
use serde_json::{Value, json};

type Answer = dyn Fn(&GenerateRequest) -> Result<String, GenerateError> + Send + Sync;

/// Answers each request by a function, and counts the requests.
pub struct Scripted {
    answer: Box<Answer>,
    pub calls: AtomicUsize,
}

impl Scripted {
    pub fn new(answer: impl Fn(&GenerateRequest) -> Result<String, GenerateError> + Send + Sync + 'static) -> Self {
        Self { answer: Box::new(answer), calls: AtomicUsize::new(0) }
    }

    pub fn says(text: &'static str) -> Self {
        Self::new(move |_| Ok(text.to_owned()))
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Generate for Scripted {
    fn fingerprint(&self) -> &'static str {
        "scripted"
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.calls.fetch_add(1, Ordering::SeqCst);
            Ok(completion((self.answer)(&request)?))
        })
    }

    fn stream(&self, request: GenerateRequest, _: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.generate(request)
    }

    fn score(&self, _: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(async { Err(GenerateError::Refused { reason: "scripted models score nothing".into() }) })
    }
}

fn completion(text: String) -> Completion {
    let log_probs = Vec::new();
    Completion { text, finish: FinishReason::Stop, prompt_tokens: 1, cached_tokens: 0, completion_tokens: 1, log_probs }
}

/// Keeps answers by request, as a ledger does, and failures not at all.
pub struct Kept<'a> {
    pub model: &'a Scripted,
    answers: Mutex<HashMap<String, String>>,
}

impl<'a> Kept<'a> {
    pub fn new(model: &'a Scripted) -> Self {
        Self { model, answers: Mutex::new(HashMap::new()) }
    }

    pub fn over(self, model: &'a Scripted) -> Self {
        Self { model, ..self }
    }
}

impl Generate for Kept<'_> {
    fn fingerprint(&self) -> &'static str {
        "scripted"
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            let key = serde_json::to_string(&request).unwrap();
            let known = self.answers.lock().unwrap().get(&key).cloned();
            if let Some(text) = known {
                return Ok(completion(text));
            }
            let found = self.model.generate(request).await?;
            self.answers.lock().unwrap().insert(key, found.text.clone());
            Ok(found)
        })
    }

    fn stream(&self, request: GenerateRequest, _: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.generate(request)
    }

    fn score(&self, request: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        self.model.score(request)
    }
}

pub fn quiet(_: &str, _: usize, _: usize) {}

/// `personas` personas of different trades, `questions` questions of each task.
pub fn set(personas: usize, questions: usize) -> PersonaGymSet {
    let trade = |index: usize| ["baker", "judge", "diver", "nun", "clown", "farmer"][index % 6];
    let row = |index: usize| PersonaQuestions {
        persona: format!("Somebody who works as {} and keeps {}", trade(index), "cat ".repeat(index / 6 + 1).trim()),
        questions: PersonaGymTask::ALL
            .map(|task| (task, (0..questions).map(|number| format!("{} {number}, {index}?", task.name())).collect()))
            .into(),
    };
    PersonaGymSet::new((0..personas).map(row).collect(), &[]).unwrap()
}

/// Says who it is: what a good judge wants.
pub fn player() -> Scripted {
    Scripted::new(|request| {
        let system = &request.messages[0].content;
        let who = system.lines().find(|line| line.starts_with("Somebody")).unwrap();
        Ok(format!("{who}! You ask: {}", request.messages[1].content))
    })
}

/// Whether a request is for sample answers.
pub fn wants_exemplars(request: &GenerateRequest) -> bool {
    request.schema.as_ref().is_some_and(|schema| schema["properties"].get("score_1").is_some())
}

pub fn exemplars() -> String {
    let examples: HashMap<String, String> =
        (1..=5).map(|score| (format!("score_{score}"), format!("sample {score}"))).collect();
    serde_json::to_string(&examples).unwrap()
}

/// A verdict in the form that the request asks for.
pub fn verdicts(request: &GenerateRequest, score: impl Fn(&str) -> u64) -> String {
    let prompt = &request.messages.last().unwrap().content;
    let answers: Vec<&str> =
        prompt.split("<answer>\n").skip(1).map(|rest| rest.split("\n</answer>").next().unwrap()).collect();
    let verdict = |answer: &&str| json!({"reason": "because", "score": score(answer)});
    let all: Vec<Value> = answers.iter().map(verdict).collect();
    if all.len() == 1 { all[0].to_string() } else { json!({"verdicts": all}).to_string() }
}

/// Gives 4 to an answer that says who the character of the prompt is, 2 to others, 1 to an empty one.
pub fn fair_judge() -> Scripted {
    Scripted::new(|request| {
        if wants_exemplars(request) {
            return Ok(exemplars());
        }
        let prompt = request.messages.last().unwrap().content.clone();
        let who = prompt.split("# Character\n").nth(1).unwrap().lines().next().unwrap().to_owned();
        Ok(verdicts(request, |answer| match answer {
            "" => 1,
            answer if answer.contains(&format!("{who}!")) => 4,
            _ => 2,
        }))
    })
}
