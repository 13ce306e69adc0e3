use opencharacter_core::{Completion, Generate, GenerateRequest, KeyedRandom};

use crate::{
    EvalError, EvalOptions, Item, Prompts,
    calls::{CallOutcome, Progress, call_all},
};

/// The model's own answer to every item, played as the item's character; outcomes in the order of `items`.
pub async fn sample_answers(
    model: &dyn Generate,
    stage: &str,
    prompts: &Prompts<'_>,
    items: &[Item],
    options: &EvalOptions,
    progress: &Progress<'_>,
) -> Result<Vec<CallOutcome<Completion>>, EvalError> {
    let jobs = items.iter().map(|item| (item.item_id.clone(), request(prompts, item, options))).collect();
    call_all(model, stage, jobs, |model, request| model.generate(request), progress).await
}

/// The seed follows from the item alone: both models get the same one, whatever the order of calls.
fn request(prompts: &Prompts<'_>, item: &Item, options: &EvalOptions) -> GenerateRequest {
    let mut sampling = options.sampling.clone();
    sampling.seed = KeyedRandom::new(options.seed, &["eval", "answer", &item.item_id]).next_u64();
    GenerateRequest { messages: prompts.ask(item, item.character), sampling, schema: None, log_probs: None }
}
