//! Holds a response's bytes to what its client may be sent: large pieces go out in the turns that the limits toward
//! clients give. Slices share the piece's memory; without any limit a piece passes as it is.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use gupd_config::policy::Group;
use gupd_net::shape::{LanLimiter, Throttle};

/// The shaping of one response.
pub(super) struct Shaped {
    lan: Arc<LanLimiter>,
    client: IpAddr,
    group: Arc<Group>,
    /// There while there are limits: they may come and go while a response runs.
    pace: Option<Throttle>,
    /// What has come and may not be sent yet.
    rest: Bytes,
}

impl Shaped {
    pub(super) fn new(lan: Arc<LanLimiter>, client: IpAddr, group: Arc<Group>) -> Self {
        Self { lan, client, group, pace: None, rest: Bytes::new() }
    }

    /// Takes the next piece. The one before has been sent.
    pub(super) fn put(&mut self, piece: Bytes) {
        self.rest = piece;
    }

    /// Bytes that were put in and not taken.
    pub(super) fn held(&self) -> usize {
        self.rest.len()
    }

    /// What may be sent of them, when something may; `None` if there are none. `left` is how many the response still
    /// has, with those.
    pub(super) fn poll_take(&mut self, cx: &Context<'_>, left: u64) -> Poll<Option<Bytes>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if !self.lan.is_limited() {
            self.pace = None;
            return Poll::Ready(Some(std::mem::take(&mut self.rest)));
        }
        let held = self.rest.len() as u64;
        let pace = self.pace.get_or_insert_with(|| self.lan.throttle(self.client, &self.group.name));
        let bytes = ready!(pace.poll_grant(cx, left.max(held))).min(held);
        pace.consume(bytes);
        // No more than what is held, so it fits.
        Poll::Ready(Some(self.rest.split_to(usize::try_from(bytes).unwrap_or(self.rest.len()))))
    }
}
