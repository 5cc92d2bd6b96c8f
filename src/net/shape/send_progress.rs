//! Progress of a download as the holder of its slot reports it: whether a piece of it waits for the client, and since when.

use std::sync::atomic::{AtomicU64, Ordering};

use super::bucket::Nanos;

/// Progress of one download.
#[derive(Debug, Default)]
pub(super) struct SendProgress(AtomicU64);

impl SendProgress {
    /// Records that a piece was handed to the connection at this time.
    pub(super) fn begin_piece(&self, now: Nanos) {
        self.0.store(now.max(1), Ordering::Relaxed);
    }

    /// Records that the piece has left, and that the download waits for the relay now.
    pub(super) fn end_piece(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Returns the time for which a piece has waited for the client.
    pub(super) fn waiting_time(&self, now: Nanos) -> Nanos {
        match self.0.load(Ordering::Relaxed) {
            0 => 0,
            since => now.saturating_sub(since),
        }
    }
}
