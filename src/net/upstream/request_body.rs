//! The body of a request to an upstream: none, or the client's, streamed as it comes. A streamed body can be read
//! once; it stays whole, and so may still go to another upstream, until somebody reads from it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

/// What goes to an upstream after the head.
#[derive(Clone, Debug, Default)]
pub enum RequestBody {
    /// Nothing.
    #[default]
    Empty,
    /// The client's body. Clones share it: whoever reads first has it.
    Streamed(Arc<Streamed>),
}

/// A client's request body on its way upstream.
#[derive(Debug)]
pub struct Streamed {
    begun: AtomicBool,
    pieces: AtomicU64,
    waits_for_client: AtomicBool,
    // Locked for one poll at a time, by the one connection that sends it.
    body: Mutex<Stalling>,
}

#[derive(Debug)]
struct Stalling {
    body: Incoming,
    stall_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

/// The client stopped sending its request's body.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// No byte in time.
    #[error("the client sent nothing of its request's body for {0:?}")]
    Stalled(Duration),
    /// The connection broke.
    #[error("the client's request body broke off: {0}")]
    Broken(hyper::Error),
}

impl RequestBody {
    /// The client's body, which must give a byte every `stall_timeout`.
    pub fn streamed(body: Incoming, stall_timeout: Duration) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let body = Mutex::new(Stalling { body, stall_timeout, stalled: None });
        Self::Streamed(Arc::new(Streamed {
            begun: AtomicBool::new(false),
            pieces: AtomicU64::new(0),
            waits_for_client: AtomicBool::new(false),
            body,
        }))
    }

    /// Whether nobody has begun to read it, so that it may still be sent to another upstream.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(streamed) => !streamed.begun.load(Ordering::Acquire),
        }
    }

    /// A number that changes whenever more of the body has been sent on.
    pub(super) fn progress(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Streamed(streamed) => streamed.pieces.load(Ordering::Relaxed),
        }
    }

    /// Whether the upstream would take more than the client has sent. The client's time is its own: `stall_timeout`.
    pub(super) fn waits_for_client(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Streamed(streamed) => streamed.waits_for_client.load(Ordering::Relaxed),
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
                streamed.begun.store(true, Ordering::Release);
                let frame = streamed.body.lock().unwrap_or_else(PoisonError::into_inner).poll_frame(cx);
                streamed.waits_for_client.store(frame.is_pending(), Ordering::Relaxed);
                streamed.pieces.fetch_add(u64::from(frame.is_ready()), Ordering::Relaxed);
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

impl Stalling {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some(stalled) = &mut self.stalled {
                stalled.as_mut().reset(Instant::now() + self.stall_timeout);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(RequestBodyError::Broken)));
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.stall_timeout)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(RequestBodyError::Stalled(self.stall_timeout)))),
            Poll::Pending => Poll::Pending,
        }
    }
}
