//! Upstreams of one content, and the request for it. One upstream sent the stored head; one is the current source of
//! bytes. All runs of a fill share this state, so that a failover in one run applies to the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntCounter;

use super::FillRequest;
use super::metrics::FillMetrics;
use gupd_net::shape::BandwidthClass;
use gupd_net::upstream::{Upstream, UpstreamRequest, Upstreams};

/// Upstreams of one content, and the request for it.
#[derive(Clone, Debug)]
pub(super) struct ContentOrigin {
    pub(super) upstreams: Arc<Upstreams>,
    request: Arc<FillRequest>,
    /// Name of the upstream that sent the head.
    head_upstream: Arc<str>,
    // Held to copy or to replace.
    current: Arc<Mutex<Arc<Upstream>>>,
    failovers: IntCounter,
}

impl ContentOrigin {
    /// Creates the origin of content whose head `upstream` has just sent.
    pub(super) fn new(
        request: &Arc<FillRequest>,
        upstreams: &Arc<Upstreams>,
        upstream: Arc<Upstream>,
        metrics: &FillMetrics,
    ) -> Self {
        Self {
            upstreams: upstreams.clone(),
            request: request.clone(),
            head_upstream: upstream.name.clone(),
            current: Arc::new(Mutex::new(upstream)),
            failovers: metrics.failovers.clone(),
        }
    }

    /// Creates the origin of content with a stored head. `None` if the route of `request` has no upstream now.
    pub(super) fn from_record(
        request: &Arc<FillRequest>,
        upstreams: &Arc<Upstreams>,
        head_upstream: &Arc<str>,
        metrics: &FillMetrics,
    ) -> Option<Self> {
        let order = &request.upstream_order;
        let first = || upstreams.order_by_preference(order).into_iter().next();
        let current = upstreams.find_by_name(order, head_upstream).cloned().or_else(first)?;
        let head_upstream = head_upstream.clone();
        Some(Self { head_upstream, ..Self::new(request, upstreams, current, metrics) })
    }

    /// Returns true if `upstream` sent the head. A date identifies content only at the upstream that sent it.
    pub(super) fn sent_head(&self, upstream: &Upstream) -> bool {
        *upstream.name == *self.head_upstream
    }

    /// Returns the request for the complete content.
    pub(super) fn outgoing(&self) -> UpstreamRequest {
        self.request.to_upstream(self.request.headers.clone())
    }

    /// Bandwidth class of the bytes.
    pub(super) fn bandwidth(&self) -> &BandwidthClass {
        &self.request.bandwidth
    }

    /// Current source of bytes.
    pub(super) fn current(&self) -> Arc<Upstream> {
        self.lock_current().clone()
    }

    pub(super) fn is_current(&self, upstream: &Arc<Upstream>) -> bool {
        Arc::ptr_eq(&self.lock_current(), upstream)
    }

    fn lock_current(&self) -> MutexGuard<'_, Arc<Upstream>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `upstream` the current source, and counts a failover if it was not.
    pub(super) fn switch_to(&self, upstream: &Arc<Upstream>) {
        if !self.is_current(upstream) {
            tracing::warn!(
                from = &*self.current().name,
                to = &*upstream.name,
                "transfer continued from another upstream"
            );
            self.failovers.inc();
            *self.lock_current() = upstream.clone();
        }
    }

    /// Upstreams that may have the content: the current source, then the others by preference.
    pub(super) fn candidates(&self) -> Vec<Arc<Upstream>> {
        let current = self.current();
        let others = self.upstreams.order_by_preference(&self.request.upstream_order).into_iter();
        let others = others.filter(|other| !Arc::ptr_eq(other, &current));
        std::iter::once(current.clone()).chain(others).collect()
    }

    /// Returns true if the circuit of every upstream is open.
    pub(super) fn are_all_unavailable(&self) -> bool {
        self.upstreams.time_to_probe(&self.request.upstream_order).is_some()
    }
}
