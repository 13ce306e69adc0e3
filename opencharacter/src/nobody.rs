use opencharacter_core::{
    BoxFuture, Completion, Generate, GenerateError, GenerateRequest, Score, ScoreRequest, TextSink,
};

/// Stands where a model would, in work that asks none.
pub struct Nobody;

impl Nobody {
    fn refusal<T>(what: &str) -> BoxFuture<'static, Result<T, GenerateError>> {
        let error = GenerateError::Unsupported { model: "nobody".into(), what: what.to_owned() };
        Box::pin(async { Err(error) })
    }
}

impl Generate for Nobody {
    fn fingerprint(&self) -> &'static str {
        "nobody"
    }

    fn concurrency(&self) -> usize {
        64
    }

    fn generate(&self, _: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Self::refusal("answer")
    }

    fn stream(&self, _: GenerateRequest, _: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Self::refusal("answer")
    }

    fn score(&self, _: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Self::refusal("score")
    }
}
