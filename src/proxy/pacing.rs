//! Pacing of a response's bytes by the limits toward clients: large pieces leave in the turns that the limits grant.
//! Slices share the piece's memory; without a limit a piece passes as it is.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use gupd_config::policy::Group;
use gupd_net::shape::{LanLimiter, Throttle};

/// The pacing of one response.
pub(crate) struct ResponsePacer {
    lan: Arc<LanLimiter>,
    client: IpAddr,
    group: Arc<Group>,
    /// Present while there are limits: they may come and go while a response runs.
    pace: Option<Throttle>,
    /// Bytes that may not be sent yet.
    held: Bytes,
}

impl ResponsePacer {
    pub(crate) fn new(lan: Arc<LanLimiter>, client: IpAddr, group: Arc<Group>) -> Self {
        Self { lan, client, group, pace: None, held: Bytes::new() }
    }

    /// Takes the next piece. The one before has been sent.
    pub(crate) fn put(&mut self, piece: Bytes) {
        self.held = piece;
    }

    /// Number of bytes that were put in and not taken.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Returns bytes when some may be sent; `None` if there are none. `left` is the number of bytes that the response
    /// still has, the held ones included.
    pub(crate) fn poll_take(&mut self, cx: &Context<'_>, left: u64) -> Poll<Option<Bytes>> {
        if self.held.is_empty() {
            return Poll::Ready(None);
        }
        if !self.lan.is_limited() {
            self.pace = None;
            return Poll::Ready(Some(std::mem::take(&mut self.held)));
        }
        let held = self.held.len() as u64;
        let pace = self.pace.get_or_insert_with(|| self.lan.throttle(self.client, &self.group.name));
        let bytes = ready!(pace.poll_grant(cx, left.max(held))).min(held);
        pace.consume(bytes);
        // At most `held`, so it fits.
        Poll::Ready(Some(self.held.split_to(usize::try_from(bytes).unwrap_or(self.held.len()))))
    }
}
