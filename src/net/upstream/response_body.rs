//! The body of an upstream's response, with its hold on the connection's line and on the upstream's load for as long as
//! it lasts.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::limited_stream::Held;
use super::selection::Outstanding;

/// A response's content as it comes, no faster than the limits allow.
#[derive(Debug)]
pub struct UpstreamBody {
    body: Incoming,
    line: Option<Held>,
    /// What is still to come; nothing once it has ended.
    outstanding: Option<Outstanding>,
}

impl UpstreamBody {
    pub(super) fn new(body: Incoming, line: Option<Held>, outstanding: Outstanding) -> Self {
        Self { body, line, outstanding: Some(outstanding) }
    }

    /// Whether it is the relay's own limits, not the upstream's silence, that nothing came in this time.
    pub fn waited_within(&self, time: Duration) -> bool {
        self.line.as_ref().is_some_and(|line| line.waited_within(time))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match (&frame, &mut this.outstanding) {
            (Some(Ok(frame)), Some(outstanding)) => {
                outstanding.received(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            _ => this.outstanding = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
