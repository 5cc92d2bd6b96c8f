//! A reader that goes on without the store: the disk failed under the fill it followed, or does not give what is
//! stored, and the rest comes from the upstream for this reader alone, uncached, as it would if the disk had failed
//! before. Owns that request for the rest; relies on `resume` for the rule that it is of the same content, so whoever
//! cannot be given that sees a broken transfer.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use prometheus::IntCounter;

use super::resume::{Resumed, Resumption};
use super::transfer::{Interruption, Transfer};
use super::{FillError, Flow, Wanted};
use crate::store::Object;
use crate::telemetry::Metrics;
use crate::upstream::{Asking, Outgoing, RequestBody, Upstream, Upstreams};

/// Where content comes from, and how it is asked for.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) outgoing: Outgoing,
    /// Counts bytes that came from it.
    pub(super) received: IntCounter,
}

impl Origin {
    /// As `wanted` is asked for.
    pub(super) fn of(
        wanted: &Wanted,
        upstreams: Arc<Upstreams>,
        upstream: Arc<Upstream>,
        metrics: &Metrics,
    ) -> Self {
        let (target, headers, lane) = (wanted.target.clone(), wanted.headers.clone(), wanted.lane.clone());
        let outgoing = Outgoing {
            method: Method::GET,
            target,
            headers,
            body: RequestBody::Empty,
            lane,
            asking: Asking::default(),
        };
        let received = metrics.upstream_bytes.with_label_values(&[&*upstream.name]);
        Self { upstreams, upstream, outgoing, received }
    }
}

/// The rest of content, for one reader.
pub(super) struct Alone {
    resumption: Resumption,
    received: IntCounter,
    end: Option<u64>,
    transfer: Option<Transfer>,
    reason: Arc<str>,
}

impl Alone {
    /// Of what `flow` brought, to `end` or to the content's end.
    pub(super) fn of_flow(flow: &Flow, end: Option<u64>) -> Self {
        Self::new(flow.origin.clone(), &flow.head.headers, flow.length, end.or(flow.length))
    }

    /// Of what is stored, to `end`.
    pub(super) fn of_stored(origin: Origin, object: &Object, end: u64) -> Self {
        Self::new(origin, &object.headers, Some(object.len), Some(end))
    }

    fn new(origin: Origin, headers: &HeaderMap, length: Option<u64>, end: Option<u64>) -> Self {
        let Origin { upstreams, upstream, outgoing, received } = origin;
        let resumption = Resumption::new(upstreams, upstream, outgoing, headers, length);
        Self { resumption, received, end, transfer: None, reason: Arc::from("the store failed") }
    }

    /// The bytes from `position` on; `None` at the end of content whose length nobody said.
    pub(super) async fn next(&mut self, position: u64) -> Result<Option<Bytes>, FillError> {
        let idle_timeout = self.resumption.settings().idle_timeout;
        loop {
            let mut transfer = match self.transfer.take() {
                Some(transfer) => transfer,
                None => {
                    let range = position..self.end.unwrap_or(u64::MAX);
                    match self.resumption.resume(range, Some(self.reason.clone())).await? {
                        Resumed::Continues { body, skip, end } => Transfer::new(body, skip, end),
                        Resumed::Changed(answer) => {
                            return Err(FillError::Changed { upstream: answer.upstream.name.clone() });
                        }
                    }
                }
            };
            let came = match transfer.next(idle_timeout).await {
                Ok(Some(piece)) => {
                    self.received.inc_by(piece.len() as u64);
                    transfer.wanted(piece, position).map(Some)
                }
                Ok(None) => transfer.ended(position).map(|()| None),
                Err(interruption) => Err(interruption),
            };
            match came {
                Ok(Some(None)) => self.transfer = Some(transfer),
                Ok(Some(piece)) => {
                    self.transfer = Some(transfer);
                    return Ok(piece);
                }
                Ok(None) if self.end.is_none() => return Ok(None),
                Ok(None) => self.reason = Arc::from("its answer was a part of what was asked for"),
                Err(Interruption::Upstream(reason)) => self.reason = reason,
                Err(Interruption::Fatal(error)) => return Err(error),
            }
        }
    }
}

impl std::fmt::Debug for Alone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alone").field("end", &self.end).field("reason", &self.reason).finish_non_exhaustive()
    }
}
