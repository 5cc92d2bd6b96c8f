//! Body of a request to an upstream: empty, or the client's, streamed. A streamed body can be read once. Until the
//! first read it can go to another upstream.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::client_budgets::ClientBudgets;
use gupd_http::refusal::BudgetKind;

/// Minimum rate in bytes a second of a client that keeps its upload waiting, over `server.stall_timeout` of such waits.
/// An upload holds a place at the manager.
const MIN_RATE: f64 = 256.0;

/// Part of `server.stall_timeout` that one wait counts at most. The wait may be that of a limit on the line, which does
/// not look at the client meanwhile.
const WAIT_SHARE: u32 = 4;

/// Body of a request to an upstream.
#[derive(Clone, Debug, Default)]
pub enum RequestBody {
    /// No body.
    #[default]
    Empty,
    /// The client's body. Clones share it: the first reader gets it.
    Streamed(Arc<Streamed>),
}

/// A streamed client body.
#[derive(Debug)]
pub struct Streamed {
    is_read: AtomicBool,
    pieces: AtomicU64,
    bytes: AtomicU64,
    /// Gets the client and the length of each piece.
    spender: Option<UploadSpender>,
    is_waiting_for_client: AtomicBool,
    // Locked for one poll at a time, by the one connection that sends it.
    body: Mutex<StallingBody>,
}

/// Spends the bytes of a body from its client's budget.
#[derive(Debug)]
pub struct UploadSpender {
    /// The budgets.
    pub budgets: Arc<ClientBudgets>,
    /// The client.
    pub client: IpAddr,
}

#[derive(Debug)]
struct StallingBody<B = Incoming> {
    body: B,
    stall_timeout: Duration,
    /// Bytes that the client may still send.
    allowance: u64,
    max_bytes: u64,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the client has had to send something.
    waiting_since: Option<Instant>,
    /// Waits of a period, and the bytes that came in it.
    waited: Duration,
    received: u64,
}

/// Failure of a streamed body.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// The client sent no byte in time.
    #[error("client sent next to nothing of the request body for {0:?}")]
    Stalled(Duration),
    /// The client sent more bytes than it may.
    #[error("client's request body is longer than {0} bytes")]
    TooLarge(u64),
    /// The client's connection broke.
    #[error("client's request body broke off: {0}")]
    Broken(hyper::Error),
}

impl RequestBody {
    /// Streams the client's body, which must give a byte every `stall_timeout`, [`MIN_RATE`] on average while it is
    /// waited for, and at most `max_bytes`.
    pub fn streamed(
        body: Incoming,
        stall_timeout: Duration,
        max_bytes: u64,
        spender: Option<UploadSpender>,
    ) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let body = Mutex::new(StallingBody::new(body, stall_timeout, max_bytes));
        Self::Streamed(Arc::new(Streamed {
            is_read: AtomicBool::new(false),
            pieces: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            spender,
            is_waiting_for_client: AtomicBool::new(false),
            body,
        }))
    }

    /// Returns the least number of bytes that the body will have.
    pub fn announced_bytes(&self) -> u64 {
        self.size_hint().lower()
    }

    /// Returns true if the body is unread, so that another upstream can get it.
    pub fn is_unread(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(streamed) => !streamed.is_read.load(Ordering::Acquire),
        }
    }

    /// Returns a number that changes with each piece sent.
    pub(super) fn progress(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Streamed(streamed) => streamed.pieces.load(Ordering::Relaxed),
        }
    }

    /// Returns the bytes sent so far.
    pub(super) fn sent_bytes(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Streamed(streamed) => streamed.bytes.load(Ordering::Relaxed),
        }
    }

    /// Returns true if the upstream waits for the client, which has its own time-out (`stall_timeout`).
    pub(super) fn is_waiting_for_client(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Streamed(streamed) => streamed.is_waiting_for_client.load(Ordering::Relaxed),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streamed(streamed) => {
                streamed.is_read.store(true, Ordering::Release);
                let frame = streamed.body.lock().unwrap_or_else(PoisonError::into_inner).poll_frame(cx);
                streamed.is_waiting_for_client.store(frame.is_pending(), Ordering::Relaxed);
                streamed.pieces.fetch_add(u64::from(frame.is_ready()), Ordering::Relaxed);
                if let Poll::Ready(Some(Ok(frame))) = &frame {
                    let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                    streamed.bytes.fetch_add(bytes, Ordering::Relaxed);
                    if let Some(UploadSpender { budgets, client }) = &streamed.spender {
                        budgets.spend(BudgetKind::Uploads, *client, bytes);
                    }
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(streamed) => {
                streamed.body.lock().unwrap_or_else(PoisonError::into_inner).body.size_hint()
            }
        }
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> StallingBody<B> {
    fn new(body: B, stall_timeout: Duration, max_bytes: u64) -> Self {
        Self {
            body,
            stall_timeout,
            allowance: max_bytes,
            max_bytes,
            timer: None,
            waiting_since: None,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    fn count(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, RequestBodyError> {
        let bytes = frame.data_ref().map_or(0, |piece| piece.len() as u64);
        self.allowance =
            self.allowance.checked_sub(bytes).ok_or(RequestBodyError::TooLarge(self.max_bytes))?;
        self.received = self.received.saturating_add(bytes);
        if self.received as f64 >= MIN_RATE * self.stall_timeout.as_secs_f64() {
            (self.waited, self.received) = (Duration::ZERO, 0);
        }
        Ok(frame)
    }

    fn end_wait(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            let most = self.stall_timeout.checked_div(WAIT_SHARE).unwrap_or_default();
            self.waited = self.waited.saturating_add(since.elapsed().min(most));
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.end_wait();
            return Poll::Ready(frame.map(|frame| self.count(frame.map_err(RequestBodyError::Broken)?)));
        }
        let left = self.stall_timeout.saturating_sub(self.waited);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(left)));
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            timer.as_mut().reset(now.checked_add(left).unwrap_or(now));
        }
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(RequestBodyError::Stalled(self.stall_timeout)))),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const STALL_TIMEOUT: Duration = Duration::from_millis(400);

    /// A client that sends a piece at each interval.
    struct PacedClient {
        piece: usize,
        left: usize,
        timer: Pin<Box<Sleep>>,
        interval: Duration,
    }

    impl Body for PacedClient {
        type Data = Bytes;
        type Error = hyper::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let next = Instant::now() + self.interval;
            self.timer.as_mut().reset(next);
            self.left -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; self.piece])))))
        }
    }

    /// Returns true if an upload of 100 pieces reaches its end, and the time that it took.
    async fn upload(piece: usize, interval: u64) -> (bool, Duration) {
        let interval = Duration::from_millis(interval);
        let client = PacedClient { piece, left: 100, timer: Box::pin(sleep(interval)), interval };
        let (begun, mut body) = (Instant::now(), StallingBody::new(client, STALL_TIMEOUT, u64::MAX));
        while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
            match frame {
                Ok(_) => {}
                Err(RequestBodyError::Stalled(_)) => return (false, begun.elapsed()),
                Err(error) => panic!("{error}"),
            }
        }
        (true, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_upload_is_ended_below_the_minimum_rate_only() {
        for (piece, interval, is_served) in [
            (1, 50, false),
            (1, 399, false),
            (1, 3, true),
            (5, 50, false),
            (16, 50, true),
            (2_000, 50, true),
            (2_000, 399, true),
            (2_000, 401, false),
        ] {
            let (served, time) = upload(piece, interval).await;
            assert_eq!(served, is_served, "{piece} bytes each {interval} ms: {time:?}");
            // One wait counts for a quarter of the time-out at most.
            assert!(served || time <= STALL_TIMEOUT * 4, "{piece} bytes each {interval} ms: {time:?}");
        }
    }
}
