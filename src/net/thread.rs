//! Number of the worker thread on which a task runs. Upstream pools keep connections by worker, so that a request, its
//! fill and its connection stay on one thread: a hop between threads costs more than the fill of a small object.

use std::cell::Cell;

thread_local! {
    static WORKER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Makes this thread the worker with this number, counted from 0.
pub(crate) fn enter_worker(number: usize) {
    WORKER.set(Some(number));
}

/// Returns the number of this worker thread; `None` on any other thread.
pub(crate) fn worker_number() -> Option<usize> {
    WORKER.get()
}
