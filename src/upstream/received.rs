//! The body of an upstream's response, and its hold on the connection's line for as long as it lasts.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::line::Held;

/// A response's content as it comes, no faster than the limits allow.
#[derive(Debug)]
pub struct Received {
    body: Incoming,
    line: Option<Held>,
}

impl Received {
    pub(super) fn new(body: Incoming, line: Option<Held>) -> Self {
        Self { body, line }
    }

    /// Whether it is the relay's own limits, not the upstream's silence, that nothing came in this time.
    pub fn waited_within(&self, time: Duration) -> bool {
        self.line.as_ref().is_some_and(|line| line.waited_within(time))
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
