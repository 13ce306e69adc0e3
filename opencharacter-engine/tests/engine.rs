//! The engine's promises, on the embedded model.

#![allow(clippy::unwrap_used)]

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use opencharacter_core::{FinishReason, Generate, GenerateError, GenerateRequest, Message, Sampling, ScoreRequest};
use opencharacter_engine::{Engine, EngineOptions};
use opencharacter_nn::{LoraAdapter, LoraConfig, Model};
use serde_json::{Value, json};

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let path = std::env::var("OPENCHARACTER_TEST_MODEL").map_or_else(
        |_| {
            let home = std::env::var("HOME").unwrap_or_default();
            PathBuf::from(home).join(".cache/opencharacter/models/SmolLM2-135M-Instruct.Q4_1.gguf")
        },
        PathBuf::from,
    );
    Arc::new(Model::load(&path).unwrap_or_else(|error| panic!("{error}; `cargo xtask test` fetches the model")))
});

fn engine(options: EngineOptions) -> Engine {
    Engine::start(Arc::clone(&MODEL), None, options).unwrap()
}

const SYSTEM: &str = "You are Ada Holm, 52, keeper of a lighthouse on a rock in the North Sea. You lost a brother to \
    the sea and you hate it, but you keep the lamp because somebody must. You speak in short, dry sentences.";

fn request(question: &str, temperature: f32, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        messages: vec![Message::system(SYSTEM), Message::user(question)],
        sampling: Sampling { temperature, top_p: 0.95, max_tokens, seed: 11, ..Sampling::default() },
        schema: None,
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
    let together = futures(&crowded, &requests).await;
    // Small steps cut prompts elsewhere, one sequence at a time means no company, a fresh engine no shared beginning.
    for request in &requests {
        let lonely = engine(EngineOptions { max_sequences: 1, step_tokens: 29, ..EngineOptions::default() });
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

async fn futures(
    engine: &Engine,
    requests: &[GenerateRequest],
) -> Vec<Result<opencharacter_core::Completion, GenerateError>> {
    let mut pending = Vec::new();
    for request in requests {
        pending.push(engine.generate(request.clone()));
    }
    let mut done = Vec::new();
    // Submission happens at the first poll, so all are polled before any is awaited to its end.
    for mut future in pending {
        let first = std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await;
        done.push((future, first));
    }
    let mut results = Vec::new();
    for (future, first) in done {
        results.push(match first {
            std::task::Poll::Ready(result) => result,
            std::task::Poll::Pending => future.await,
        });
    }
    results
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
    let first = engine(EngineOptions::default());
    let cold = first.score(ScoreRequest { messages: messages.clone() }).await.unwrap();
    let warm = first.score(ScoreRequest { messages: messages.clone() }).await.unwrap();
    assert_eq!(cold, warm);
    // The trainer's forward pass, which shares no attention code with the cache, says the same.
    let conversation = MODEL.template.encode_conversation(&messages, &MODEL.tokenizer).unwrap();
    let mut batch = opencharacter_nn::PackedBatch::new();
    batch.push(&conversation.tokens, &conversation.trained);
    let losses = opencharacter_nn::token_losses(&MODEL.decoder, &batch, opencharacter_nn::Adapter::Base).unwrap();
    let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
    assert_eq!(losses.len(), cold.tokens);
    assert!((sum + cold.log_prob).abs() < 1e-3 * sum, "{sum} against {}", -cold.log_prob);
    let nothing = ScoreRequest { messages: messages[..2].to_vec() };
    assert!(matches!(first.score(nothing).await, Err(GenerateError::Refused { .. })));
}

#[tokio::test]
async fn a_dropped_future_frees_its_place_and_what_cannot_fit_is_refused() {
    let engine = engine(EngineOptions { max_sequences: 1, cache_bytes: 64 << 20, ..EngineOptions::default() });
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
    let adapted =
        Engine::start(Arc::clone(&MODEL), Some((adapter.pack(), "hash".into())), EngineOptions::default()).unwrap();
    let base = engine(EngineOptions::default());
    assert_ne!(adapted.fingerprint(), base.fingerprint());
    let question = request("What is your name?", 0.0, 10);
    assert_eq!(adapted.generate(question.clone()).await.unwrap().text, base.generate(question).await.unwrap().text);
}
