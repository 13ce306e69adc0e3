use futures_util::{StreamExt as _, stream::FuturesUnordered};
use opencharacter_core::{BoxFuture, Generate, GenerateError};

use crate::EvalError;

/// Told after every call: the stage, calls done, calls in all.
pub type Progress<'a> = dyn Fn(&str, usize, usize) + Sync + 'a;

/// A result, or the reason for which this one item can have none.
pub type CallOutcome<T> = Result<T, String>;

/// One call: the item's id, for messages, and the request.
pub(crate) type Job<R> = (String, R);

/// Work on one item, which may be several calls one after another: the item's id and the future.
pub(crate) type Errand<'a, T> = (String, BoxFuture<'a, Result<T, GenerateError>>);

/// Makes all calls with as many in flight as the model likes, and returns outcomes in the order of `jobs`.
pub(crate) async fn call_all<R, T>(
    model: &dyn Generate,
    stage: &str,
    jobs: Vec<Job<R>>,
    call: impl Fn(&dyn Generate, R) -> BoxFuture<'_, Result<T, GenerateError>> + Send + Sync,
    progress: &Progress<'_>,
) -> Result<Vec<CallOutcome<T>>, EvalError>
where
    R: Send,
    T: Send,
{
    let call = &call;
    let errands = jobs
        .into_iter()
        .map(|(item_id, request)| -> Errand<'_, T> { (item_id, Box::pin(async move { call(model, request).await })) })
        .collect();
    run_all(model.concurrency(), stage, errands, progress).await
}

/// Runs `errands`, `concurrency` at a time, and returns outcomes in their order.
///
/// A future does nothing before its turn comes: where a request is made inside of it, only requests under way are in
/// memory. A request that was refused, or that failed while the model answers others, is an outcome. Anything else that
/// fails ends the stage: going on would only repeat it, and the caller's ledger holds what was done.
pub(crate) async fn run_all<T: Send>(
    concurrency: usize,
    stage: &str,
    errands: Vec<Errand<'_, T>>,
    progress: &Progress<'_>,
) -> Result<Vec<CallOutcome<T>>, EvalError> {
    let total = errands.len();
    progress(stage, 0, total);
    let mut outcomes: Vec<Option<CallOutcome<T>>> = (0..total).map(|_| None).collect();
    let mut waiting = errands.into_iter().enumerate();
    let mut running = FuturesUnordered::new();
    for done in 1..=total {
        while running.len() < concurrency.max(1)
            && let Some((index, errand)) = waiting.next()
        {
            running.push(numbered(index, errand));
        }
        let Some((index, item_id, result)) = running.next().await else { break };
        let outcome = match result {
            Ok(value) => Ok(value),
            Err(GenerateError::Refused { reason } | GenerateError::Failed { reason, .. }) => Err(reason),
            Err(source) => return Err(EvalError::Model { stage: stage.to_owned(), item_id, source }),
        };
        outcomes[index] = Some(outcome);
        progress(stage, done, total);
    }
    Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err("the call never ended".to_owned()))).collect())
}

async fn numbered<T>(index: usize, (item_id, errand): Errand<'_, T>) -> (usize, String, Result<T, GenerateError>) {
    (index, item_id, errand.await)
}
