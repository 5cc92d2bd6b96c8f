//! Body of an upstream's response. While it lasts it holds the connection's bandwidth class and counts toward the
//! upstream's load. It counts the bytes that it brings.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::limited_stream::ClassHold;
use super::selection::OutstandingRequest;
use super::transfer_meter::TransferMeter;

/// Response body, no faster than the limits permit.
#[derive(Debug)]
pub struct UpstreamBody {
    body: Incoming,
    line: Option<ClassHold>,
    /// Bytes still to come; `None` at the end.
    outstanding: Option<OutstandingRequest>,
    // Boxed: responses are passed from step to step.
    meter: Box<TransferMeter>,
}

impl UpstreamBody {
    pub(super) fn new(
        body: Incoming,
        line: Option<ClassHold>,
        outstanding: OutstandingRequest,
        meter: TransferMeter,
    ) -> Self {
        Self { body, line, outstanding: Some(outstanding), meter: Box::new(meter) }
    }

    /// Declares that the next bytes repeat bytes that the relay has.
    pub fn expect_known(&mut self, bytes: u64) {
        self.meter.expect_known(bytes);
    }

    /// Returns true if the relay's limits, and not the upstream, delayed the body within this time.
    pub fn was_limited_within(&self, time: Duration) -> bool {
        self.line.as_ref().is_some_and(|line| line.was_limited_within(time))
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
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                outstanding.received(bytes);
                this.meter.received(bytes);
            }
            // The connection may carry the next response before the body is dropped.
            _ => (this.outstanding, this.line) = (None, None),
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
