//! The checks, one function each.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{Either, join_all, select};
use serde_json::{Value, json};

use super::{Finding, Sleep};
use crate::{Completion, FinishReason, Generate, GenerateError, GenerateRequest, Message, Sampling};

/// Long enough to hold several words.
const TOKENS: usize = 24;
/// Calls at once.
const COMPANY: u64 = 8;
/// The shortest time that counts as soon: machines are shared.
const SOON: Duration = Duration::from_secs(10);

/// So long a call is under way before it is dropped.
const BEFORE_DROPPING: Duration = Duration::from_millis(50);

type Came = Result<String, String>;

fn request(temperature: f32, seed: u64, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        messages: vec![
            Message::system("You are a lighthouse keeper who speaks in long, plain sentences."),
            Message::user("Tell me of your day, from morning to night."),
        ],
        sampling: Sampling { temperature, max_tokens, seed, ..Sampling::default() },
        schema: None,
        log_probs: None,
    }
}

async fn answer(model: &dyn Generate, request: GenerateRequest) -> Result<Completion, String> {
    model.generate(request).await.map_err(|error| format!("no answer: {error}"))
}

fn expect(holds: bool, came: impl Into<String>) -> Came {
    if holds { Ok(came.into()) } else { Err(came.into()) }
}

fn refused(result: &Result<Completion, GenerateError>) -> Came {
    let came = format!("{result:?}");
    expect(matches!(result, Err(GenerateError::Refused { .. })), came)
}

pub(super) async fn temperature_zero(model: &dyn Generate) -> Finding {
    let came = async {
        let mut texts = Vec::new();
        for _ in 0..3 {
            texts.push(answer(model, request(0.0, 1, TOKENS)).await?.text);
        }
        texts.dedup();
        expect(texts.len() == 1, format!("three times {texts:?}"))
    };
    Finding { checked: "equal requests at temperature 0 give equal texts", came: came.await }
}

pub(super) async fn seeds(model: &dyn Generate) -> Finding {
    let came = async {
        let mut texts = Vec::new();
        for seed in 0..4 {
            let text = answer(model, request(1.0, seed, TOKENS)).await?.text;
            let again = answer(model, request(1.0, seed, TOKENS)).await?.text;
            expect(text == again, format!("seed {seed} gave {text:?} and then {again:?}"))?;
            texts.push(text);
        }
        texts.sort();
        texts.dedup();
        expect(texts.len() > 1, format!("four seeds gave {} texts: {texts:?}", texts.len()))
    };
    Finding { checked: "the same seed gives the same text, and seeds make a difference", came: came.await }
}

pub(super) async fn company(model: &dyn Generate) -> Finding {
    let came = async {
        let calls = || (0..COMPANY).map(|seed| request(0.9, seed, TOKENS + seed as usize));
        let together = join_all(calls().map(|call| answer(model, call))).await;
        for (call, crowded) in calls().zip(together) {
            let (alone, crowded) = (answer(model, call).await?.text, crowded?.text);
            expect(alone == crowded, format!("alone {alone:?}, among {COMPANY} {crowded:?}"))?;
        }
        Ok(format!("{COMPANY} equal texts"))
    };
    Finding { checked: "a call among others gives the text that it gives alone", came: came.await }
}

pub(super) async fn most_tokens(model: &dyn Generate) -> Finding {
    let came = async {
        for most in [1, 5] {
            let completion = answer(model, request(0.0, 0, most)).await?;
            let ends = completion.finish == FinishReason::Length && (1..=most).contains(&completion.completion_tokens);
            expect(ends, format!("of {most} tokens {completion:?}"))?;
        }
        Ok("1 and 5 tokens, cut for their length".into())
    };
    Finding { checked: "an answer ends after max_tokens and says so", came: came.await }
}

pub(super) async fn stop_strings(model: &dyn Generate) -> Finding {
    let came = async {
        let whole = answer(model, request(0.0, 0, TOKENS)).await?.text;
        // A word of the text that is not its beginning.
        let begun = whole.len() - whole.trim_start().len();
        let stop = whole.split_whitespace().skip(1).find(|word| whole.find(word).is_some_and(|place| place > begun));
        let stop = stop.ok_or_else(|| format!("no second word in {whole:?}"))?.to_owned();
        let mut call = request(0.0, 0, TOKENS);
        call.sampling.stop = vec!["no such words as these".into(), stop.clone()];
        let stopped = answer(model, call).await?;
        let expected = whole.split(&stop).next().unwrap_or("");
        // Some take the space before the stop string away.
        let holds = stopped.finish == FinishReason::Stop && stopped.text.trim_end() == expected.trim_end();
        expect(holds, format!("before {stop:?} in {whole:?} {stopped:?}"))
    };
    Finding { checked: "a stop string ends the answer and is no part of it", came: came.await }
}

pub(super) async fn streaming(model: &dyn Generate) -> Finding {
    let came = async {
        let whole = answer(model, request(0.7, 3, TOKENS)).await?;
        let pieces = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&pieces);
        let sink = move |piece: &str| sink.lock().unwrap_or_else(PoisonError::into_inner).push(piece.to_owned());
        let streamed = model.stream(request(0.7, 3, TOKENS), Box::new(sink)).await;
        let streamed = streamed.map_err(|error| format!("no answer: {error}"))?;
        let pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let same = pieces.concat() == streamed.text && streamed.text == whole.text && streamed.finish == whole.finish;
        expect(same, format!("pieces {pieces:?} of {:?}, without streaming {:?}", streamed.text, whole.text))
    };
    Finding { checked: "a stream's pieces are the text, which is that of a call without streaming", came: came.await }
}

pub(super) async fn schema(model: &dyn Generate) -> Finding {
    let came = async {
        let schema = json!({
            "type": "object",
            "properties": {
                "lamp": {"type": "string", "enum": ["lit", "dark"]},
                "age": {"type": "integer", "minimum": 18, "maximum": 90},
                "storms": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
            },
            "required": ["lamp", "age", "storms"],
            "additionalProperties": false
        });
        let mut texts = Vec::new();
        for seed in 0..3 {
            let mut call = request(1.0, seed, 80);
            call.schema = Some(schema.clone());
            let completion = answer(model, call).await?;
            let satisfied = satisfies(&completion.text) && completion.finish == FinishReason::Stop;
            expect(satisfied, format!("{completion:?}"))?;
            texts.push(completion.text);
        }
        Ok(texts.join(" "))
    };
    Finding { checked: "the answer to a request with a JSON schema satisfies it", came: came.await }
}

/// Whether a text is what the schema above asks for.
fn satisfies(text: &str) -> bool {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return false };
    let lamp = value["lamp"].as_str().is_some_and(|lamp| matches!(lamp, "lit" | "dark"));
    let age = value["age"].as_i64().is_some_and(|age| (18..=90).contains(&age));
    let storms = value["storms"].as_array().is_some_and(|all| all.len() == 2 && all.iter().all(Value::is_boolean));
    lamp && age && storms && value.as_object().is_some_and(|fields| fields.len() == 3)
}

pub(super) async fn usage(model: &dyn Generate) -> Finding {
    let came = async {
        let short = answer(model, request(0.0, 0, TOKENS)).await?;
        let again = answer(model, request(0.0, 0, TOKENS)).await?;
        let mut longer = request(0.0, 0, TOKENS);
        longer.messages.push(Message::assistant("I lit the lamp."));
        longer.messages.push(Message::user("And what did you do after that?"));
        let longer = answer(model, longer).await?;
        let counts = |completion: &Completion| (completion.prompt_tokens, completion.completion_tokens);
        let sound = |completion: &Completion| {
            completion.prompt_tokens > 0
                && (1..=TOKENS).contains(&completion.completion_tokens)
                && completion.cached_tokens <= completion.prompt_tokens
                && !completion.text.is_empty()
        };
        let came =
            format!("prompt and answer {:?}, again {:?}, longer {:?}", counts(&short), counts(&again), counts(&longer));
        let consistent = counts(&short) == counts(&again) && longer.prompt_tokens > short.prompt_tokens;
        expect([&short, &again, &longer].into_iter().all(sound) && consistent, came)
    };
    let checked = "tokens are counted: some of both, the same for the same, more for a longer conversation";
    Finding { checked, came: came.await }
}

pub(super) async fn empty_conversation(model: &dyn Generate) -> Finding {
    let call = GenerateRequest { messages: Vec::new(), ..request(0.0, 0, TOKENS) };
    Finding { checked: "an empty conversation is refused", came: refused(&model.generate(call).await) }
}

pub(super) async fn impossible_schema(model: &dyn Generate) -> Finding {
    let call = GenerateRequest { schema: Some(json!({"type": "no-such-type"})), ..request(0.0, 0, TOKENS) };
    Finding { checked: "a JSON schema that is none is refused", came: refused(&model.generate(call).await) }
}

pub(super) async fn dropped_calls(model: &dyn Generate, sleep: Sleep<'_>) -> Finding {
    let came = async {
        let started = Instant::now();
        answer(model, request(0.0, 0, 4)).await?;
        let soon = SOON.max(started.elapsed() * 20);
        // More than there are places, several times, and long ones.
        let count = (model.concurrency() + 1).min(100);
        for round in 0..3 {
            let calls = (0..count).map(|seed| model.generate(request(1.0, (round * count + seed) as u64, 400)));
            if let Either::Left((answers, _)) = select(join_all(calls), sleep(BEFORE_DROPPING)).await {
                let reason = format!("{} calls were over in {BEFORE_DROPPING:?}: slow the model down", answers.len());
                return Err(reason);
            }
        }
        match select(model.generate(request(0.0, 0, 4)), sleep(soon)).await {
            Either::Left((Ok(_), _)) => Ok(format!("an answer after {} dropped calls", 3 * count)),
            Either::Left((Err(error), _)) => Err(format!("after {} dropped calls: {error}", 3 * count)),
            Either::Right(_) => Err(format!("no answer in {soon:?} after {} dropped calls", 3 * count)),
        }
    };
    Finding { checked: "a dropped call frees its place", came: came.await }
}

pub(super) fn fingerprint(model: &dyn Generate, before: &str) -> Finding {
    let after = model.fingerprint();
    let came = expect(!after.is_empty() && before == after, format!("{before:?} before and {after:?} after"));
    Finding { checked: "the fingerprint stays the same and is not empty", came }
}
