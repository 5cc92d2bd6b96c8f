//! The lines of one thread. The thread appends under a lock that only the writing thread contends for. A sequence number
//! is odd from before the thread reads the time of a line until the line is appended, so that the writing thread knows
//! of lines that it cannot see yet. A sequence lock (Linux's seqlock) does the same for data.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum bytes of a buffer while standard output is not read. Further lines are dropped and counted.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// Interval at which a line in progress is looked at again.
const POLL_INTERVAL: Duration = Duration::from_micros(100);

/// Lines of one thread.
#[derive(Debug, Default)]
pub(super) struct ThreadBuffer {
    sequence: AtomicU64,
    lines: Mutex<TimedLines>,
}

/// Whole lines in order.
#[derive(Debug, Default)]
pub(super) struct TimedLines {
    pub(super) bytes: Vec<u8>,
    /// End of each line in `bytes`.
    pub(super) ends: Vec<usize>,
}

impl TimedLines {
    pub(super) fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

impl ThreadBuffer {
    /// Begins a line. The thread reads the time of the line next.
    pub(super) fn begin_line(&self) {
        // An odd number stays of a line that was never appended.
        let next = (self.sequence.load(Ordering::Relaxed) + 1) | 1;
        // Ordered with the time that follows, see `wait_for_line`.
        self.sequence.store(next, Ordering::SeqCst);
    }

    /// Appends a line and ends it. Returns the bytes in the buffer; `None` if the line was dropped.
    pub(super) fn append(&self, line: &[u8]) -> Option<usize> {
        let mut lines = self.lock();
        let has_room = lines.bytes.len() + line.len() <= MAX_BYTES;
        if has_room {
            lines.push(line);
        }
        let bytes = lines.bytes.len();
        drop(lines);
        self.sequence.store((self.sequence.load(Ordering::Relaxed) | 1) + 1, Ordering::Release);
        has_room.then_some(bytes)
    }

    /// Waits until a line that was begun before this call is appended, until `deadline` at most. A later line of the
    /// thread has a time that is not before this call.
    pub(super) fn wait_for_line(&self, deadline: Instant) {
        let seen = self.sequence.load(Ordering::SeqCst);
        while seen % 2 == 1 && self.sequence.load(Ordering::Acquire) == seen && Instant::now() < deadline {
            // Not `park_timeout`, which would take a wake-up that asks for the next round.
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Exchanges the lines for an empty list. The thread uses its memory next.
    pub(super) fn swap(&self, empty: &mut TimedLines) {
        std::mem::swap(&mut *self.lock(), empty);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().ends.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TimedLines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
