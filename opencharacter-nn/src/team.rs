//! Threads that work on one loop at a time, and wait for the next one awake.
//!
//! A decoding step is some hundred short loops with a few microseconds between them, and a pool that puts idle threads
//! to sleep in such a gap has to wake them for the next loop. Here an idle worker spins for about a tenth of a
//! millisecond before it sleeps: within a step loops are handed over awake, and between steps nobody burns a core.
//!
//! Work is handed out by index, and no result may depend on who takes which: every loop of this crate writes to
//! elements of its own.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

/// Rounds that an idle worker waits before it sleeps; one is some 40 to 140 cycles.
const SPINS: usize = 4_000;
/// Bits of [`Shared::next`] that hold the index; the others number the loop.
const INDEX_BITS: u32 = 32;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;

/// Some threads and the loop they work on.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<thread::JoinHandle<()>>,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    /// The running loop's number, and the first index that nobody has taken.
    next: AtomicU64,
    /// Indices of the running loop.
    count: AtomicUsize,
    /// Calls the loop's body: a function for its type, and the body itself.
    call: AtomicPtr<()>,
    body: AtomicPtr<()>,
    /// Indices that are done.
    done: AtomicUsize,
    /// What the first body that panicked said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether somebody's loop is running.
    busy: AtomicBool,
    /// Workers that sleep, or are about to.
    sleeping: AtomicUsize,
    ended: AtomicBool,
}

type Call = unsafe fn(*const (), usize);

/// # Safety
/// `body` points to an `F`.
unsafe fn call<F: Fn(usize)>(body: *const (), index: usize) {
    // SAFETY: the caller's promise.
    unsafe { (*body.cast::<F>())(index) }
}

thread_local! {
    /// Set while this thread works on a loop: a loop inside it runs alone.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// The team that tests put in place of the process's own.
    static INSTALLED: Cell<*const Team> = const { Cell::new(std::ptr::null()) };
}

impl Team {
    /// A team of `threads`, the caller among them.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                // A system that refuses a thread leaves a smaller team, which gives the same results.
                thread::Builder::new().name(format!("team-{index}")).spawn(move || shared.work()).ok()
            })
            .collect();
        Self { shared, workers }
    }

    /// The process's own: one thread per core that it may use.
    fn global() -> &'static Self {
        static TEAM: OnceLock<Team> = OnceLock::new();
        TEAM.get_or_init(|| Self::new(thread::available_parallelism().map_or(1, usize::from)))
    }

    fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f` with this team in place of the process's own.
    #[cfg(test)]
    pub(crate) fn install<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = INSTALLED.replace(self);
        let result = f();
        INSTALLED.set(before);
        result
    }

    fn run<F: Fn(usize) + Sync>(&self, count: usize, body: &F) {
        let shared = &*self.shared;
        let alone = count <= 1 || self.workers.is_empty() || INSIDE.get();
        if alone || shared.busy.swap(true, Ordering::Acquire) {
            (0..count).for_each(body);
            return;
        }
        assert!(count as u64 <= INDEX_MASK, "a loop has fewer than 2^32 indices");
        // First of all a number with no index left: a worker that is late from the loop before holds the old number, and
        // must not find that one still standing once the new length is written.
        let closed = (shared.next.load(Ordering::Relaxed) & !INDEX_MASK).wrapping_add(1 << INDEX_BITS);
        shared.next.store(closed | INDEX_MASK, Ordering::SeqCst);
        shared.done.store(0, Ordering::Relaxed);
        // Whoever sees this length sees the number above as well.
        shared.count.store(count, Ordering::Release);
        shared.call.store(call::<F> as *mut (), Ordering::Relaxed);
        shared.body.store(std::ptr::from_ref(body).cast_mut().cast(), Ordering::Relaxed);
        let number = closed.wrapping_add(1 << INDEX_BITS);
        // Sequentially consistent, as is the worker's announcement that it sleeps: one of the two sees the other.
        shared.next.store(number, Ordering::SeqCst);
        if shared.sleeping.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|worker| worker.thread().unpark());
        }
        shared.take_part(number);
        while shared.done.load(Ordering::Acquire) < count {
            std::hint::spin_loop();
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        shared.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker never panics: bodies are caught.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Does what is left of loop `number`.
    fn take_part(&self, number: u64) {
        INSIDE.set(true);
        let mut next = self.next.load(Ordering::Acquire);
        loop {
            let index = next & INDEX_MASK;
            if next & !INDEX_MASK != number || index as usize >= self.count.load(Ordering::Acquire) {
                break;
            }
            let taken = self.next.compare_exchange_weak(next, next + 1, Ordering::AcqRel, Ordering::Acquire);
            if taken.is_ok() {
                self.call_body(index as usize);
            }
            next = self.next.load(Ordering::Acquire);
        }
        INSIDE.set(false);
    }

    fn call_body(&self, index: usize) {
        let (call, body) = (self.call.load(Ordering::Relaxed), self.body.load(Ordering::Relaxed));
        // SAFETY: this index was taken under its loop's number, below its length, and that loop cannot end, nor another
        // begin, before the index is counted as done. So `call` and `body` are that loop's, and its body is still
        // borrowed.
        let run = || unsafe { std::mem::transmute::<*mut (), Call>(call)(body, index) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        self.done.fetch_add(1, Ordering::Release);
    }

    /// A worker's life.
    fn work(&self) {
        let mut seen = 0;
        while !self.ended.load(Ordering::Relaxed) {
            let number = self.wait_for_another(seen);
            self.take_part(number);
            seen = number;
        }
    }

    /// The number of the first loop that is not `seen`, or `seen` when the team ends.
    fn wait_for_another(&self, seen: u64) -> u64 {
        let number = || self.next.load(Ordering::SeqCst) & !INDEX_MASK;
        for _ in 0..SPINS {
            if number() != seen {
                return number();
            }
            std::hint::spin_loop();
        }
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        while number() == seen && !self.ended.load(Ordering::SeqCst) {
            thread::park();
        }
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        number()
    }
}

fn with_team<R>(f: impl FnOnce(&Team) -> R) -> R {
    let installed = INSTALLED.get();
    // SAFETY: `install` sets the pointer for the time in which it borrows the team, on this thread alone.
    f(unsafe { installed.as_ref() }.unwrap_or_else(|| Team::global()))
}

/// How many threads share a loop.
pub fn threads() -> usize {
    with_team(Team::threads)
}

/// Calls `body` for every index below `count`, on all threads. Inside another loop, or while another thread's loop is
/// running, the calling thread does it alone.
pub fn for_each(count: usize, body: impl Fn(usize) + Sync) {
    with_team(|team| team.run(count, &body));
}

/// Calls `body` with the place and the contents of every run of `length` elements of `values`; the last may be shorter.
pub fn for_each_chunk<T: Send>(values: &mut [T], length: usize, body: impl Fn(usize, &mut [T]) + Sync) {
    let total = values.len();
    let length = length.max(1);
    let start = Pointer(values.as_mut_ptr());
    for_each(total.div_ceil(length), |index| {
        let first = index * length;
        // SAFETY: every index has elements of its own, inside `values`, which is borrowed alone.
        let chunk = unsafe { std::slice::from_raw_parts_mut(start.get().add(first), length.min(total - first)) };
        body(index, chunk);
    });
}

/// Elements that a core clears and fills at once: 16 KiB, half of its first-level cache.
pub(crate) const RUN: usize = 4096;

/// A vector of `total` zeros, every run of `length` of which `body` may change, as in [`for_each_chunk`].
///
/// Each thread clears what it then fills. Clearing megabytes on one thread while the others wait, and once more through
/// memory, was a tenth of a prefill step's time. A run should fit a core's first-level cache, so that clearing it costs
/// next to nothing: some [`RUN`] elements.
pub(crate) fn fill(total: usize, length: usize, body: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let [values] = fill_several(total, length, |index, [chunk]| body(index, chunk));
    values
}

/// As [`fill`], several vectors at once.
pub(crate) fn fill_several<const COUNT: usize>(
    total: usize,
    length: usize,
    body: impl Fn(usize, [&mut [f32]; COUNT]) + Sync,
) -> [Vec<f32>; COUNT] {
    let mut vectors = [(); COUNT].map(|()| Vec::<f32>::with_capacity(total));
    let length = length.max(1);
    let starts = vectors.each_mut().map(|values| Pointer(values.as_mut_ptr()));
    for_each(total.div_ceil(length), |index| {
        let first = index * length;
        let count = length.min(total - first);
        // SAFETY: every index has elements of its own, inside each capacity, and zero bytes are a zero.
        let chunks = starts.map(|start| unsafe {
            start.get().add(first).write_bytes(0, count);
            std::slice::from_raw_parts_mut(start.get().add(first), count)
        });
        body(index, chunks);
    });
    // SAFETY: the loop has written all of them.
    vectors.iter_mut().for_each(|values| unsafe { values.set_len(total) });
    vectors
}

/// A pointer that may cross threads; every user writes to elements that no other does.
pub(crate) struct Pointer<T>(pub(crate) *mut T);

impl<T> Clone for Pointer<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Pointer<T> {}

// SAFETY: the pointer is only a place; each parallel task writes to its own disjoint elements.
unsafe impl<T: Send> Send for Pointer<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Pointer<T> {}

impl<T> Pointer<T> {
    /// A method rather than the field, so that closures capture the whole wrapper and not the bare pointer.
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_visited_once_by_teams_of_any_size() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads);
            team.install(|| {
                assert_eq!(super::threads(), threads);
                for count in (0..300).chain([10_000]) {
                    let mut visits = vec![0_u8; count];
                    for_each_chunk(&mut visits, 1, |_, visit| visit[0] += 1);
                    assert!(visits.iter().all(|&visits| visits == 1), "{threads} threads, {count} indices");
                }
            });
        }
    }

    #[test]
    fn a_worker_late_from_one_loop_takes_nothing_of_the_next() {
        // Short loops, each longer or shorter than the one before: a late worker must not trust the new length.
        let team = Team::new(6);
        team.install(|| {
            let visits: Vec<AtomicUsize> = (0..64).map(|_| AtomicUsize::new(0)).collect();
            for round in 0..400_000_usize {
                let count = 2 + round * 7 % 23;
                for_each(count, |index| _ = visits[index].fetch_add(1, Ordering::Relaxed));
                for (index, visits) in visits.iter().enumerate() {
                    let expected = usize::from(index < count);
                    assert_eq!(visits.swap(0, Ordering::Relaxed), expected, "round {round}, index {index} of {count}");
                }
            }
        });
    }

    #[test]
    fn loops_of_several_threads_and_loops_in_loops_all_end() {
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        for_each(20, |_| for_each(5, |_| _ = total.fetch_add(1, Ordering::Relaxed)));
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 20 * 5);
    }

    #[test]
    fn a_sleeping_team_wakes_up() {
        let team = Team::new(3);
        team.install(|| {
            for _ in 0..20 {
                thread::sleep(std::time::Duration::from_millis(3));
                let done = AtomicUsize::new(0);
                for_each(50, |_| _ = done.fetch_add(1, Ordering::Relaxed));
                assert_eq!(done.into_inner(), 50);
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::new(2);
        team.install(|| {
            let result = catch_unwind(|| for_each(100, |index| assert!(index != 57, "index 57")));
            let panic = result.unwrap_err();
            let message = panic.downcast_ref::<&str>().copied().unwrap_or_default();
            assert!(message.contains("index 57"), "{message}");
            let done = AtomicUsize::new(0);
            for_each(10, |_| _ = done.fetch_add(1, Ordering::Relaxed));
            assert_eq!(done.into_inner(), 10);
        });
    }
}
