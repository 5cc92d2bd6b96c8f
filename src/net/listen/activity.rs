//! What one connection is doing, as its stream, its request handler and its timer see it. The three run in one task;
//! the flags are atomic only because tasks may move between threads.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

/// The activity of one connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionActivity {
    /// Bytes were read after the last write.
    is_unanswered: AtomicBool,
    /// A write waits for the client.
    is_write_blocked: AtomicBool,
    /// A request is being answered.
    is_responding: AtomicBool,
    /// The HTTP state ends and the connection stays: shutdowns are ignored.
    is_parking: AtomicBool,
    /// Requests so far; wraps around.
    requests: AtomicU32,
}

/// State of a connection between two looks of its timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionPhase {
    /// No request is known. With the number of the requests so far.
    Idle(u32),
    /// A request head is incomplete. With the number of the requests before it.
    Head(u32),
    /// A request is being answered, or its response sent.
    Busy,
}

impl ConnectionActivity {
    pub(super) fn record_read(&self) {
        self.is_unanswered.store(true, Ordering::Relaxed);
    }

    /// Returns true if bytes were read after the last write.
    pub(super) fn is_unanswered(&self) -> bool {
        self.is_unanswered.load(Ordering::Relaxed)
    }

    pub(super) fn record_write(&self) {
        self.is_unanswered.store(false, Ordering::Relaxed);
    }

    pub(super) fn set_write_blocked(&self, is_blocked: bool) {
        self.is_write_blocked.store(is_blocked, Ordering::Relaxed);
    }

    pub(super) fn set_parking(&self, is_parking: bool) {
        self.is_parking.store(is_parking, Ordering::Relaxed);
    }

    /// Returns true while the HTTP state ends and the connection stays.
    pub(super) fn is_parking(&self) -> bool {
        self.is_parking.load(Ordering::Relaxed)
    }

    /// Records the start of a request. The guard ends it.
    pub(super) fn begin_response(self: &Arc<Self>) -> ResponseGuard {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.is_responding.store(true, Ordering::Relaxed);
        ResponseGuard(self.clone())
    }

    /// Returns the phase of the connection.
    pub(super) fn phase(&self) -> ConnectionPhase {
        let requests = self.requests.load(Ordering::Relaxed);
        if self.is_responding.load(Ordering::Relaxed) || self.is_write_blocked.load(Ordering::Relaxed) {
            ConnectionPhase::Busy
        } else if self.is_unanswered.load(Ordering::Relaxed) {
            ConnectionPhase::Head(requests)
        } else {
            ConnectionPhase::Idle(requests)
        }
    }
}

/// A request that is being answered.
pub(super) struct ResponseGuard(Arc<ConnectionActivity>);

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        self.0.is_responding.store(false, Ordering::Relaxed);
    }
}

/// The body of a response, which keeps its connection [`Busy`](ConnectionPhase::Busy) until it ends.
pub(super) struct TrackedBody<B> {
    body: B,
    _guard: ResponseGuard,
}

impl<B> TrackedBody<B> {
    pub(super) fn new(body: B, guard: ResponseGuard) -> Self {
        Self { body, _guard: guard }
    }
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends by a panic")]

    use super::*;

    #[test]
    fn phase_follows_reads_responses_and_blocked_writes() {
        let activity = Arc::new(ConnectionActivity::default());
        assert_eq!(activity.phase(), ConnectionPhase::Idle(0));
        activity.record_read();
        assert_eq!(activity.phase(), ConnectionPhase::Head(0));
        let guard = activity.begin_response();
        activity.record_write();
        assert_eq!(activity.phase(), ConnectionPhase::Busy);
        activity.set_write_blocked(true);
        drop(guard);
        assert_eq!(activity.phase(), ConnectionPhase::Busy);
        activity.set_write_blocked(false);
        assert_eq!(activity.phase(), ConnectionPhase::Idle(1));
    }
}
