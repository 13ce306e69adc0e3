use futures_util::StreamExt as _;
use opencharacter_core::{BoxFuture, Generate, GenerateError};

use crate::EvalError;

/// Told after every call: the stage, calls done, calls in all.
pub type Progress<'a> = dyn Fn(&str, usize, usize) + Sync + 'a;

/// A result, or the reason for which this one item can have none.
pub type CallOutcome<T> = Result<T, String>;

/// One call: the item's id, for messages, and the request.
pub(crate) type Job<R> = (String, R);

/// Makes all calls with as many in flight as the model likes, and returns outcomes in the order of `jobs`.
///
/// A refused request is an outcome. Anything else that fails ends the stage: going on would only repeat it, and
/// the caller's ledger holds what was done.
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
    let total = jobs.len();
    progress(stage, 0, total);
    let mut outcomes: Vec<Option<CallOutcome<T>>> = (0..total).map(|_| None).collect();
    let call = &call;
    let futures = jobs.into_iter().enumerate().map(|(index, (item_id, request))| {
        let future: BoxFuture<'_, _> = Box::pin(async move { (index, item_id, call(model, request).await) });
        future
    });
    let mut running = futures_util::stream::iter(futures).buffer_unordered(model.concurrency().max(1));
    let mut done = 0;
    while let Some((index, item_id, result)) = running.next().await {
        outcomes[index] = Some(match result {
            Ok(value) => Ok(value),
            Err(GenerateError::Refused { reason }) => Err(reason),
            Err(source) => return Err(EvalError::Model { stage: stage.to_owned(), item_id, source }),
        });
        done += 1;
        progress(stage, done, total);
    }
    Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err("the call never ended".to_owned()))).collect())
}
