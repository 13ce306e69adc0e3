//! The conformance checks find each fault, and nothing in a model without one.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opencharacter_core::{
    BoxFuture, Completion, FinishReason, Generate, GenerateError, GenerateRequest, KeyedRandom, Score, ScoreRequest,
    TextSink, conformance::examine,
};
use serde_json::json;
use tokio::sync::Semaphore;

/// What a model does wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    DrawsAtTemperatureZero,
    IgnoresTheSeed,
    ForgetsTheSeed,
    MindsItsCompany,
    IgnoresMaxTokens,
    CallsACutAnEnd,
    KeepsTheStopString,
    LosesAPiece,
    IgnoresTheSchema,
    CountsNothing,
    AnswersNothingAtAll,
    TakesAnySchema,
    KeepsPlacesOfDroppedCalls,
    ChangesItsName,
}

/// Words drawn by the conversation's length and the seed.
struct Toy {
    fault: Fault,
    places: Arc<Semaphore>,
    calls: AtomicU64,
    names: [String; 2],
}

const PLACES: usize = 16;
const WORDS: [&str; 8] = ["lamp", "sea", "storm", "rock", "salt", "gull", "boat", "fog"];

impl Toy {
    fn new(fault: Fault) -> Self {
        let names = ["toy".to_owned(), "toy, again".to_owned()];
        Self { fault, places: Arc::new(Semaphore::new(PLACES)), calls: AtomicU64::new(0), names }
    }

    async fn answer(&self, request: GenerateRequest) -> Result<Completion, GenerateError> {
        let refused = |reason: &str| Err(GenerateError::Refused { reason: reason.into() });
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.fault != Fault::AnswersNothingAtAll && request.check().is_err() {
            return refused("nothing was asked");
        }
        let known = request.schema.as_ref().is_none_or(|schema| schema["type"] == "object");
        if !known && self.fault != Fault::TakesAnySchema {
            return refused("no schema");
        }
        let permit = Arc::clone(&self.places).acquire_owned().await.unwrap();
        let time = Duration::from_millis(request.sampling.max_tokens as u64);
        if self.fault == Fault::KeepsPlacesOfDroppedCalls {
            permit.forget();
            tokio::time::sleep(time).await;
            self.places.add_permits(1);
        } else {
            tokio::time::sleep(time).await;
        }
        let crowded = self.places.available_permits() < PLACES - 2;
        Ok(self.words(&request, call, crowded))
    }

    fn words(&self, request: &GenerateRequest, call: u64, crowded: bool) -> Completion {
        let sampling = &request.sampling;
        let seed = match self.fault {
            Fault::DrawsAtTemperatureZero => call,
            Fault::IgnoresTheSeed => 0,
            Fault::ForgetsTheSeed if sampling.temperature == 1.0 => call,
            Fault::MindsItsCompany if crowded => 1_000 + sampling.seed,
            _ if sampling.temperature == 0.0 => 0,
            _ => sampling.seed,
        };
        let mut random = KeyedRandom::new(seed, &["toy"]);
        let mut words: Vec<&str> = (0..1000).map(|_| WORDS[random.below(WORDS.len())]).collect();
        let mut finish = FinishReason::Stop;
        if words.len() > sampling.max_tokens {
            finish = FinishReason::Length;
            words.truncate(sampling.max_tokens + 3 * usize::from(self.fault == Fault::IgnoresMaxTokens));
        }
        if self.fault == Fault::CallsACutAnEnd {
            finish = FinishReason::Stop;
        }
        let mut text = words.join(" ");
        if let Some(place) = sampling.stop.iter().filter_map(|stop| text.find(stop)).min() {
            text.truncate(place + 2 * usize::from(self.fault == Fault::KeepsTheStopString));
            finish = FinishReason::Stop;
        }
        if request.schema.is_some() && self.fault != Fault::IgnoresTheSchema {
            text = json!({"lamp": "lit", "age": 18 + random.below(72), "storms": [true, false]}).to_string();
            finish = FinishReason::Stop;
        }
        let counted = usize::from(self.fault != Fault::CountsNothing);
        Completion {
            completion_tokens: text.split_whitespace().count(),
            text,
            finish,
            prompt_tokens: 7 * request.messages.len() * counted,
            cached_tokens: 0,
            log_probs: Vec::new(),
        }
    }
}

impl Generate for Toy {
    fn fingerprint(&self) -> &str {
        let renamed = self.fault == Fault::ChangesItsName && self.calls.load(Ordering::Relaxed) > 9;
        &self.names[usize::from(renamed)]
    }

    fn concurrency(&self) -> usize {
        PLACES
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(self.answer(request))
    }

    fn stream(&self, request: GenerateRequest, mut sink: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            let completion = self.answer(request).await?;
            let lost = usize::from(self.fault == Fault::LosesAPiece);
            completion.text.split_inclusive(' ').skip(lost).for_each(sink.as_mut());
            Ok(completion)
        })
    }

    fn score(&self, _: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        let error = GenerateError::Unsupported { model: "toy".into(), what: "score".into() };
        Box::pin(std::future::ready(Err(error)))
    }
}

/// The checks that failed, by a part of what they check.
async fn failed(fault: Fault) -> Vec<&'static str> {
    let toy = Toy::new(fault);
    let report = examine(&toy, &|duration| Box::pin(tokio::time::sleep(duration))).await;
    println!("{fault:?}\n{report}");
    assert_eq!(report.passed(), report.failures().next().is_none());
    assert_eq!(report.findings.len(), 12);
    report.failures().map(|finding| finding.checked).collect()
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_found_by_its_check_and_by_few_others() {
    assert_eq!(failed(Fault::None).await, [""; 0]);
    for (fault, part, others) in [
        (Fault::DrawsAtTemperatureZero, "temperature 0", 4),
        (Fault::IgnoresTheSeed, "seeds make a difference", 0),
        (Fault::ForgetsTheSeed, "the same seed", 0),
        (Fault::MindsItsCompany, "among others", 0),
        (Fault::IgnoresMaxTokens, "max_tokens", 1),
        (Fault::CallsACutAnEnd, "max_tokens", 0),
        (Fault::KeepsTheStopString, "stop string", 0),
        (Fault::LosesAPiece, "pieces", 0),
        (Fault::IgnoresTheSchema, "satisfies", 0),
        (Fault::CountsNothing, "counted", 0),
        (Fault::AnswersNothingAtAll, "empty conversation", 0),
        (Fault::TakesAnySchema, "is none", 0),
        (Fault::KeepsPlacesOfDroppedCalls, "frees its place", 0),
        (Fault::ChangesItsName, "fingerprint", 0),
    ] {
        let found = failed(fault).await;
        assert!(found.iter().any(|checked| checked.contains(part)), "{fault:?}: {found:?}");
        assert!(found.len() <= 1 + others, "{fault:?}: {found:?}");
    }
}
