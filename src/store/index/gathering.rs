//! Wait of the index thread for more changes, so that one transaction and one write of the log serve all changes of
//! some milliseconds. Only changes that no request waits for are gathered, and only under load: a single change is
//! committed at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Time for which changes are gathered.
const GATHER: Duration = Duration::from_millis(5);

/// Number of changes in a group after which the next one is gathered.
const UNDER_LOAD: usize = 8;

/// Number of queued changes for which no more are gathered.
const ENOUGH: usize = 256;

/// State shared by the index thread and its callers.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Number of changes that must not wait.
    urgent: AtomicUsize,
    thread: OnceLock<Thread>,
}

/// Keeps the index thread from waiting until it is dropped.
#[derive(Debug)]
pub(super) struct UrgentChange<'a>(&'a Gathering);

impl Gathering {
    /// Sets the thread that waits.
    pub(super) fn set_thread(&self, thread: &Thread) {
        let _ = self.thread.set(thread.clone());
    }

    /// Begins a change that must not wait.
    pub(super) fn begin_urgent(&self) -> UrgentChange<'_> {
        self.urgent.fetch_add(1, Ordering::AcqRel);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
        UrgentChange(self)
    }

    /// Waits for more changes besides `queued` ones after a group of `before`, on the index thread.
    pub(super) fn wait(&self, before: usize, queued: usize) {
        let until = Instant::now() + GATHER;
        while before >= UNDER_LOAD && queued < ENOUGH && self.urgent.load(Ordering::Acquire) == 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }
}

impl Drop for UrgentChange<'_> {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gathering of this thread.
    fn gathering() -> Gathering {
        let gathering = Gathering::default();
        gathering.set_thread(&thread::current());
        gathering
    }

    fn waits(gathering: &Gathering, before: usize, queued: usize) -> bool {
        let begin = Instant::now();
        gathering.wait(before, queued);
        begin.elapsed() >= GATHER
    }

    #[test]
    fn urgent_change_ends_the_wait() {
        let gathering = gathering();
        assert!(!waits(&gathering, UNDER_LOAD - 1, 0), "a single change is committed at once");
        assert!(waits(&gathering, UNDER_LOAD, 0));
        let urgent = gathering.begin_urgent();
        gathering.wait(UNDER_LOAD, 0);
        drop(urgent);
        assert!(waits(&gathering, UNDER_LOAD, 0));
    }

    #[test]
    fn full_queue_is_committed_without_a_wait() {
        let gathering = gathering();
        assert!(waits(&gathering, UNDER_LOAD, ENOUGH - 1));
        let is_immediate = (0..10).any(|_| !waits(&gathering, UNDER_LOAD, ENOUGH));
        assert!(is_immediate, "a busy machine may take as long once");
    }
}
