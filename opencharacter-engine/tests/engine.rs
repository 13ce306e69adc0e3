//! The engine's promises, on the embedded model.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use opencharacter_core::{
    FinishReason, Generate, GenerateError, GenerateRequest, KeyedRandom, Message, Sampling, ScoreRequest,
    conformance::examine,
};
use opencharacter_engine::{Engine, EngineOptions};
use opencharacter_fixtures::embedded_model;
use opencharacter_nn::{Activations, LoraAdapter, LoraConfig, Model, Parameter};
use serde_json::{Value, json};

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| Arc::new(load()));

/// The same weights in f32: with them the engine's arithmetic is the trainer's.
static EXACT: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let mut model = load();
    model.decoder.thaw();
    Arc::new(model)
});

fn load() -> Model {
    Model::load(&embedded_model()).unwrap()
}

fn engine(options: EngineOptions) -> Engine {
    Engine::start(Arc::clone(&MODEL), options).unwrap()
}

const SYSTEM: &str = "You are Ada Holm, 52, keeper of a lighthouse on a rock in the North Sea. You lost a brother to \
    the sea and you hate it, but you keep the lamp because somebody must. You speak in short, dry sentences.";

fn request(question: &str, temperature: f32, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        messages: vec![Message::system(SYSTEM), Message::user(question)],
        sampling: Sampling { temperature, top_p: 0.95, max_tokens, seed: 11, ..Sampling::default() },
        schema: None,
        log_probs: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_does_not_depend_on_company_chunks_or_shared_beginnings() {
    let crowded = engine(EngineOptions::default());
    let questions = ["What do you eat?", "Who was your brother?", "Tell me about storms.", "Do you like ships?"];
    let mut requests: Vec<GenerateRequest> = Vec::new();
    for (index, question) in questions.iter().enumerate() {
        requests.push(request(question, 0.0, 12 + 5 * index));
        requests.push(request(question, 0.9, 20 - 3 * index));
    }
    let together = join_all(requests.iter().map(|request| crowded.generate(request.clone()))).await;
    // Small steps cut prompts elsewhere, one request at a time means no company, a fresh engine no shared beginning. (An
    // engine that was made for one sequence may round otherwise.)
    for request in &requests {
        let lonely = engine(EngineOptions { max_sequences: 2, step_tokens: 29, ..EngineOptions::default() });
        let alone = lonely.generate(request.clone()).await.unwrap();
        let place = requests.iter().position(|other| other == request).unwrap();
        let crowded = together[place].as_ref().unwrap();
        assert_eq!(alone.text, crowded.text);
        assert_eq!(alone.completion_tokens, crowded.completion_tokens);
    }
    // The system prompt was read once: every other request found its blocks.
    let shared = together.iter().filter(|completion| completion.as_ref().unwrap().cached_tokens >= 48).count();
    assert_eq!(shared, requests.len() - 1);
}

/// On some machines an engine for one sequence computes answers otherwise than prompts, and then must not take what it
/// answered for the beginning of the next prompt.
#[tokio::test]
async fn an_engine_for_one_answers_a_conversation_as_if_it_had_not_been_there() {
    let for_one = || engine(EngineOptions { max_sequences: 1, ..EngineOptions::default() });
    let present = for_one();
    let first = request("Describe the lamp, and the room that it stands in.", 0.0, 60);
    let answer = present.generate(first.clone()).await.unwrap();
    let mut second = first;
    second.messages.extend([Message::assistant(&*answer.text), Message::user("Who lit it before you?")]);
    let went_on = present.generate(second.clone()).await.unwrap();
    assert!(went_on.cached_tokens >= 48, "the first prompt was computed anew");
    if Activations::EightBits.description() != Activations::RoundedForBatches.description() {
        assert!(went_on.cached_tokens <= answer.prompt_tokens, "a part of the answer was not");
    }
    assert_eq!(for_one().generate(second).await.unwrap().text, went_on.text);
}

#[tokio::test]
async fn schema_is_obeyed() {
    let engine = engine(EngineOptions::default());
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^O[a-z]{2,8} [A-Z][a-z]{2,8}$"},
            "age": {"type": "integer", "minimum": 18, "maximum": 90}
        },
        "required": ["name", "age"],
        "additionalProperties": false
    });
    for seed in 0..4 {
        let mut request = request("Invent a person as JSON with name and age.", 1.0, 60);
        request.sampling.seed = seed;
        request.schema = Some(schema.clone());
        let completion = engine.generate(request).await.unwrap();
        let value: Value = serde_json::from_str(&completion.text).unwrap();
        assert!(value["name"].as_str().unwrap().starts_with('O'), "{value}");
        assert!((18..=90).contains(&value["age"].as_i64().unwrap()), "{value}");
        assert_eq!(completion.finish, FinishReason::Stop);
    }
    let mut broken = request("x", 0.0, 5);
    broken.schema = Some(json!({"type": "no-such-type"}));
    assert!(matches!(engine.generate(broken).await, Err(GenerateError::Refused { .. })));
}

#[tokio::test]
async fn streaming_gives_the_same_text_in_pieces() {
    let engine = engine(EngineOptions::default());
    let whole = engine.generate(request("Describe the lamp.", 0.7, 24)).await.unwrap();
    let pieces = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&pieces);
    let streamed = engine
        .stream(
            request("Describe the lamp.", 0.7, 24),
            Box::new(move |piece| sink.lock().unwrap().push(piece.to_owned())),
        )
        .await
        .unwrap();
    assert_eq!(whole.text, streamed.text);
    let pieces = pieces.lock().unwrap();
    assert_eq!(pieces.concat(), whole.text);
    assert!(pieces.len() > 5);
}

#[tokio::test]
async fn stop_strings_and_limits_end_an_answer() {
    let engine = engine(EngineOptions::default());
    let whole = engine.generate(request("Count from one to ten in words.", 0.0, 30)).await.unwrap();
    let word = whole.text.split_whitespace().nth(2).unwrap().to_owned();
    let mut stopped = request("Count from one to ten in words.", 0.0, 30);
    stopped.sampling.stop = vec![word.clone()];
    let stopped = engine.generate(stopped).await.unwrap();
    assert_eq!(stopped.text, whole.text.split(&word).next().unwrap());
    assert_eq!(stopped.finish, FinishReason::Stop);
    let short = engine.generate(request("Count from one to ten in words.", 0.0, 3)).await.unwrap();
    assert_eq!((short.completion_tokens, short.finish), (3, FinishReason::Length));
}

#[tokio::test]
async fn score_is_the_likelihood_of_what_was_said_whatever_is_cached() {
    let messages = vec![
        Message::system(SYSTEM),
        Message::user("Do you like the sea?"),
        Message::assistant("No. It took my brother."),
        Message::user("And the lamp?"),
        Message::assistant("It must burn."),
    ];
    let first = Engine::start(Arc::clone(&EXACT), EngineOptions::default()).unwrap();
    let cold = first.score(ScoreRequest { messages: messages.clone() }).await.unwrap();
    let warm = first.score(ScoreRequest { messages: messages.clone() }).await.unwrap();
    assert_eq!(cold, warm);
    // The trainer's forward pass, which shares no attention code with the cache, says the same.
    let conversation = MODEL.template.encode_conversation(&messages, &MODEL.tokenizer).unwrap();
    let mut batch = opencharacter_nn::PackedBatch::new();
    batch.push(&conversation.tokens, &conversation.trained);
    let losses = opencharacter_nn::token_losses(&EXACT.decoder, &batch, opencharacter_nn::Adapter::Base).unwrap();
    let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
    assert_eq!(losses.len(), cold.tokens);
    assert!((sum + cold.log_prob).abs() < 1e-3 * sum, "{sum} against {}", -cold.log_prob);
    let nothing = ScoreRequest { messages: messages[..2].to_vec() };
    assert!(matches!(first.score(nothing).await, Err(GenerateError::Refused { .. })));
}

/// A quantised model's activations, keys and values are rounded, which must stay far below what its weights' rounding
/// costs: 0.01% over 3,574 tokens of `RoleBench`, less than a hundredth over these few.
#[tokio::test]
async fn what_the_engine_rounds_costs_little_likelihood() {
    let rounded = engine(EngineOptions::default());
    let exact = Engine::start(Arc::clone(&EXACT), EngineOptions::default()).unwrap();
    assert_ne!(rounded.fingerprint(), exact.fingerprint(), "answers of the two are not the same");
    let answers = [
        ("Who are you?", "Ada Holm. I keep the lamp on this rock, and I have kept it for nineteen years."),
        ("Do you like the sea?", "No. It took my brother, and it has never once said why."),
        ("What do you eat?", "Bread, herring, potatoes. On Sundays the boat brings eggs, when the wind lets it."),
        (
            "Will you ever leave?",
            "When the lamp needs nobody. They say a machine will do it one day; I have not seen it.",
        ),
    ];
    let mut sums = [0.0; 2];
    for (question, answer) in answers {
        let messages = vec![Message::system(SYSTEM), Message::user(question), Message::assistant(answer)];
        for (engine, sum) in [&rounded, &exact].into_iter().zip(&mut sums) {
            *sum += engine.score(ScoreRequest { messages: messages.clone() }).await.unwrap().log_prob;
        }
    }
    let relative = (sums[0] - sums[1]).abs() / sums[1].abs();
    assert!(relative < 1e-2, "{sums:?}");
    assert!(relative > 0.0, "nothing was rounded");
}

/// Machines differ in what they round to in batches; whoever keeps answers by their fingerprint must be told.
#[tokio::test]
async fn what_an_engine_rounds_to_is_part_of_its_fingerprint() {
    let one = engine(EngineOptions { max_sequences: 1, ..EngineOptions::default() });
    let many = engine(EngineOptions { max_sequences: 2, ..EngineOptions::default() });
    let [of_one, of_many] = [Activations::EightBits, Activations::RoundedForBatches].map(Activations::description);
    assert_eq!(one.fingerprint() == many.fingerprint(), of_one == of_many, "{of_one}; {of_many}");
}

#[tokio::test]
async fn a_dropped_future_frees_its_place_and_what_cannot_fit_is_refused() {
    let engine = engine(EngineOptions { max_sequences: 1, cache_bytes: 16 << 20, ..EngineOptions::default() });
    let long = tokio::time::timeout(Duration::from_millis(200), engine.generate(request("Talk.", 0.0, 600))).await;
    assert!(long.is_err(), "600 tokens cannot be done in 0.2 s");
    let next = tokio::time::timeout(Duration::from_secs(30), engine.generate(request("Hi.", 0.0, 2))).await;
    assert!(next.unwrap().is_ok(), "the place of the dropped request is free");
    let refused = engine.generate(request(&"word ".repeat(2_000), 0.0, 10)).await;
    assert!(
        matches!(&refused, Err(GenerateError::Refused { reason }) if reason.contains("cache blocks")),
        "{refused:?}"
    );
    let refused = engine.generate(request(&"word ".repeat(9_000), 0.0, 10)).await;
    assert!(matches!(&refused, Err(GenerateError::Refused { reason }) if reason.contains("context")), "{refused:?}");
}

#[tokio::test]
async fn an_untrained_adapter_changes_the_fingerprint_but_not_the_text() {
    // B starts at zero, so the adapted model is the base model.
    let adapter = LoraAdapter::new(LoraConfig::default(), MODEL.decoder.config(), 3);
    let base = engine(EngineOptions::default());
    let adapted = base.with_adapter(adapter.pack(), "hash".into());
    assert_ne!(adapted.fingerprint(), base.fingerprint());
    let question = request("What is your name?", 0.0, 10);
    assert_eq!(adapted.generate(question.clone()).await.unwrap().text, base.generate(question).await.unwrap().text);
}

/// An adapter that says something else than the base model does.
fn loud_adapter(seed: u64) -> LoraAdapter {
    let config = LoraConfig { rank: 4, ..LoraConfig::default() };
    let mut adapter = LoraAdapter::new(config, MODEL.decoder.config(), seed);
    let mut random = KeyedRandom::new(seed, &["loud"]);
    for (parameter, values) in adapter.parameters_mut() {
        if matches!(parameter, Parameter::LoraB(..)) {
            for value in values {
                *value = (random.uniform() as f32 - 0.5) * 0.05;
            }
        }
    }
    adapter
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adapters_of_one_batch_answer_as_they_do_alone() {
    let start = |engine: &Engine| {
        [engine.clone()]
            .into_iter()
            .chain([1, 2].map(|seed| engine.with_adapter(loud_adapter(seed).pack(), seed.to_string())))
            .collect::<Vec<Engine>>()
    };
    let crowd = start(&engine(EngineOptions { step_tokens: 90, ..EngineOptions::default() }));
    let questions = ["What do you eat?", "Who was your brother?"];
    // Interleaved, so that arrival mixes the adapters.
    let calls: Vec<(usize, GenerateRequest)> =
        questions.iter().flat_map(|question| (0..3).map(|place| (place, request(question, 0.0, 14)))).collect();
    let together = join_all(calls.iter().map(|(place, request)| crowd[*place].generate(request.clone()))).await;
    let mut texts = Vec::new();
    for ((place, request), crowded) in calls.iter().zip(together) {
        let alone = start(&engine(EngineOptions::default()))[*place].generate(request.clone()).await.unwrap();
        let crowded = crowded.unwrap();
        assert_eq!(crowded.text, alone.text, "adapter {place}");
        texts.push(crowded.text);
    }
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "the adapters change nothing: {texts:?}");
    // What one adapter computed of this beginning is nothing to another.
    let fresh = crowd[0].with_adapter(loud_adapter(3).pack(), "3".into());
    assert_eq!(fresh.generate(request(questions[0], 0.0, 2)).await.unwrap().cached_tokens, 0);
    assert!(crowd[1].generate(request(questions[0], 0.0, 2)).await.unwrap().cached_tokens > 0);
}

#[tokio::test]
async fn log_probs_are_the_models_own_and_add_up_to_the_score() {
    let engine = Engine::start(Arc::clone(&EXACT), EngineOptions::default()).unwrap();
    let mut asked = request("Do you like the sea?", 0.8, 12);
    let plain = engine.generate(asked.clone()).await.unwrap();
    assert!(plain.log_probs.is_empty());
    asked.log_probs = Some(3);
    // A penalty moves what is drawn, never what is reported.
    for penalty in [1.0, 1.3] {
        asked.sampling.repetition_penalty = penalty;
        let completion = engine.generate(asked.clone()).await.unwrap();
        if penalty == 1.0 {
            assert_eq!(completion.text, plain.text);
        }
        let tokens = &completion.log_probs;
        assert_eq!(
            tokens.iter().flat_map(|token| token.token.bytes.clone()).collect::<Vec<u8>>(),
            completion.text.as_bytes()
        );
        for place in tokens {
            assert!(place.top.len() == 3 && place.top.is_sorted_by(|left, right| left.log_prob >= right.log_prob));
            assert!(place.token.log_prob <= place.top[0].log_prob);
            assert!(place.top.iter().map(|token| token.log_prob.exp()).sum::<f32>() <= 1.0 + 1e-5);
        }
        // The same words given to be scored; there the end of the turn counts too.
        let mut messages = asked.messages.clone();
        messages.push(Message::assistant(completion.text.clone()));
        let score = engine.score(ScoreRequest { messages }).await.unwrap();
        assert_eq!(score.tokens, tokens.len() + 1, "the text was tokenised otherwise");
        let sum: f64 = tokens.iter().map(|place| f64::from(place.token.log_prob)).sum();
        assert!(score.log_prob < sum && sum < 0.0, "{sum} against {}", score.log_prob);
        let conversation = MODEL.template.encode_prompt(&asked.messages, &MODEL.tokenizer).unwrap();
        let mut batch = opencharacter_nn::PackedBatch::new();
        let whole: Vec<u32> = conversation.iter().copied().chain(MODEL.tokenizer.encode(&completion.text)).collect();
        let trained: Vec<bool> = (0..whole.len()).map(|place| place >= conversation.len()).collect();
        batch.push(&whole, &trained);
        let losses = opencharacter_nn::token_losses(&EXACT.decoder, &batch, opencharacter_nn::Adapter::Base).unwrap();
        for (loss, place) in losses.iter().zip(tokens) {
            assert!((loss + place.token.log_prob).abs() < 1e-3, "{loss} against {}", place.token.log_prob);
        }
    }
}

#[tokio::test]
async fn what_fits_later_waits() {
    // 16 blocks of 16 tokens: two of these requests never fit together.
    let bytes = 16 * opencharacter_nn::CacheBlock::bytes(MODEL.decoder.config(), opencharacter_nn::CacheFormat::Bytes);
    let small = engine(EngineOptions { cache_bytes: bytes, ..EngineOptions::default() });
    let questions = ["Who are you?", "What do you eat?", "What is the lamp for?"];
    let together = join_all(questions.map(|question| small.generate(request(question, 0.0, 60)))).await;
    let roomy = engine(EngineOptions::default());
    for (question, completion) in questions.into_iter().zip(together) {
        let alone = roomy.generate(request(question, 0.0, 60)).await.unwrap();
        assert_eq!(completion.unwrap().text, alone.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_what_every_model_must() {
    let report = examine(&engine(EngineOptions::default()), &|duration| Box::pin(tokio::time::sleep(duration))).await;
    assert!(report.passed(), "{report}");
}
