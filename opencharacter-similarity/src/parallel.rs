use std::{num::NonZero, panic, thread};

/// The threads that the machine runs at once.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Cuts `items` into one piece per thread and calls `work` with each. Results stand in the pieces' order.
pub(crate) fn by_pieces<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let piece = items.len().div_ceil(threads.max(1)).max(1);
    if items.len() <= piece {
        return vec![work(items)];
    }
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = items.chunks(piece).map(|piece| scope.spawn(move || work(piece))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))).collect()
    })
}
