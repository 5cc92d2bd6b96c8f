//! The requests of one HTTP/2 connection: a task each, its activity, and the body of its response. The task is
//! cancelled if the client takes nothing of the response for `stall_timeout`: with a window of zero it could hold a
//! download slot for ever. The library reports no such stall, so the body records when it last gave away a piece.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::connection_limits::AdmittedConnection;

/// Bytes of a piece of a response. A client that reads at all reads one within `stall_timeout`, also when it shares a
/// slow line with its other requests. As large as the frames of most clients.
const PIECE: usize = 16 << 10;

tokio::task_local! {
    /// The request of the running task.
    pub(super) static CURRENT_STREAM: Arc<StreamActivity>;
}

/// Activity of one request.
#[derive(Debug)]
pub(super) struct StreamActivity {
    is_first: bool,
    started: Instant,
    /// Milliseconds after `started`, plus one, since the response waits for the client; 0 while the relay works.
    waiting_since: AtomicU64,
}

/// The tasks of one connection's requests. Also the executor that starts them.
#[derive(Clone, Debug)]
pub(super) struct StreamTasks {
    tracker: TaskTracker,
    counts: Arc<StreamCounts>,
    stall_timeout: Duration,
}

#[derive(Debug, Default)]
struct StreamCounts {
    started: AtomicUsize,
    running: AtomicUsize,
    stalled: AtomicUsize,
}

/// Body of a response, in pieces. Keeps the place of its request among the client's connections.
pub(super) struct StreamBody<B> {
    body: Option<B>,
    rest: Bytes,
    stream: Option<Arc<StreamActivity>>,
    _admitted: Option<AdmittedConnection>,
}

impl StreamActivity {
    /// Returns true if no other request was running when this one came.
    pub(super) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Records that the client has to take what it was given.
    pub(super) fn wait_for_client(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.waiting_since.store(since.saturating_add(1), Ordering::Relaxed);
    }

    /// Records that the client has taken everything so far.
    fn work(&self) {
        self.waiting_since.store(0, Ordering::Relaxed);
    }

    /// Waits until the client has taken nothing for this time.
    async fn wait_until_stalled(&self, stall_timeout: Duration) {
        loop {
            let since = match self.waiting_since.load(Ordering::Relaxed).checked_sub(1) {
                None => Instant::now(),
                Some(since) => {
                    let since = Duration::from_millis(since);
                    self.started.checked_add(since).unwrap_or(self.started)
                }
            };
            let left = stall_timeout.saturating_sub(since.elapsed());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

impl StreamTasks {
    pub(super) fn new(stall_timeout: Duration) -> Self {
        Self { tracker: TaskTracker::new(), counts: Arc::default(), stall_timeout }
    }

    /// Returns the number of requests so far.
    pub(super) fn started(&self) -> usize {
        self.counts.started.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that are being answered.
    pub(super) fn running(&self) -> usize {
        self.counts.running.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that were cancelled because the client did not read, once.
    pub(super) fn take_stalled(&self) -> usize {
        self.counts.stalled.swap(0, Ordering::Relaxed)
    }

    /// Waits until all tasks have ended. Call it when the connection is gone, which ends them.
    pub(super) async fn wait_until_ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Counts a running request, also if its task is dropped.
struct RunningStream(Arc<StreamCounts>);

impl Drop for RunningStream {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamTasks {
    fn execute(&self, future: F) {
        let (counts, stall_timeout) = (self.counts.clone(), self.stall_timeout);
        counts.started.fetch_add(1, Ordering::Relaxed);
        let is_first = counts.running.fetch_add(1, Ordering::Relaxed) == 0;
        let running = RunningStream(counts);
        let (started, waiting_since) = (Instant::now(), AtomicU64::new(0));
        let activity = Arc::new(StreamActivity { is_first, started, waiting_since });
        self.tracker.spawn(CURRENT_STREAM.scope(activity.clone(), async move {
            let is_stalled = tokio::select! {
                biased;
                () = future => false,
                () = activity.wait_until_stalled(stall_timeout) => true,
            };
            running.0.stalled.fetch_add(usize::from(is_stalled), Ordering::Relaxed);
        }));
    }
}

impl<B> StreamBody<B> {
    pub(super) fn new(body: B, stream: Arc<StreamActivity>, admitted: Option<AdmittedConnection>) -> Self {
        Self { body: Some(body), rest: Bytes::new(), stream: Some(stream), _admitted: admitted }
    }

    /// The body of a response without content.
    pub(super) fn empty() -> Self {
        Self { body: None, rest: Bytes::new(), stream: None, _admitted: None }
    }

    fn next_piece(&mut self) -> Bytes {
        self.rest.split_to(self.rest.len().min(PIECE))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for StreamBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let (Some(body), Some(stream)) = (&mut this.body, &this.stream) else { return Poll::Ready(None) };
        let frame = if this.rest.is_empty() {
            stream.work();
            match std::task::ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.rest = data;
                        Frame::data(this.next_piece())
                    }
                    Err(trailers) => trailers,
                },
                ended => return Poll::Ready(ended),
            }
        } else {
            Frame::data(this.next_piece())
        };
        if let Some(stream) = &this.stream {
            stream.wait_for_client();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(body) = &self.body else { return SizeHint::with_exact(0) };
        let (inner, rest) = (body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends by a panic")]

    use http_body_util::{BodyExt, Full};

    use super::*;

    fn activity() -> Arc<StreamActivity> {
        let (started, waiting_since) = (Instant::now(), AtomicU64::new(0));
        Arc::new(StreamActivity { is_first: true, started, waiting_since })
    }

    #[tokio::test]
    async fn body_comes_in_pieces_with_all_its_bytes() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 7] {
            let content: Vec<u8> = (0..length).map(|number| number as u8).collect();
            let mut body = StreamBody::new(Full::new(Bytes::from(content.clone())), activity(), None);
            assert_eq!(body.size_hint().exact(), Some(length as u64));
            let mut received = Vec::new();
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                assert!(data.len() <= PIECE);
                received.extend_from_slice(&data);
                assert_eq!(body.size_hint().exact(), Some((length - received.len()) as u64));
            }
            assert!(received == content && body.is_end_stream());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_takes_nothing_stalls() {
        let stall = Duration::from_secs(60);
        let stream = activity();
        let waits = |stream: Arc<StreamActivity>| async move {
            tokio::time::timeout(stall * 10, stream.wait_until_stalled(stall)).await.is_err()
        };
        assert!(waits(stream.clone()).await, "the relay works");
        stream.wait_for_client();
        let since = Instant::now();
        assert!(!waits(stream.clone()).await);
        assert!(since.elapsed() <= stall + Duration::from_millis(2));
        let slow = stream.clone();
        let reads = tokio::spawn(async move {
            for _ in 0..20 {
                tokio::time::sleep(stall / 2).await;
                slow.work();
                slow.wait_for_client();
            }
        });
        stream.wait_for_client();
        assert!(waits(stream).await, "a slow client");
        reads.abort();
    }
}
