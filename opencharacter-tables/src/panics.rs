use std::{any::Any, panic::AssertUnwindSafe};

use futures_util::{FutureExt, Stream, StreamExt};

/// `items`, where a panic of the libraries that decode them is an error: damaged Parquet files make some of them divide
/// by zero. Nothing of theirs is used afterwards.
pub(crate) fn caught<T, E>(
    items: impl Stream<Item = Result<T, E>>,
    fault: impl Fn(String) -> E,
) -> impl Stream<Item = Result<T, E>> {
    AssertUnwindSafe(items).catch_unwind().map(move |item| item.unwrap_or_else(|panic| Err(fault(said(&*panic)))))
}

/// The same for one result.
pub(crate) async fn caught_once<T, E>(
    work: impl Future<Output = Result<T, E>>,
    fault: impl Fn(String) -> E,
) -> Result<T, E> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| Err(fault(said(&*panic))))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("its content makes no sense ({})", text.unwrap_or("the decoder gave up"))
}
