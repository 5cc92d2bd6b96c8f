//! Where content comes from, and how it is asked for: the upstreams of its route, of which one sent the head that is
//! kept, and one gives its bytes now. All runs of a fill share it, so that what one finds out the others need not.

use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::IntCounter;

use super::FillRequest;
use crate::fill::metrics::FillMetrics;
use gupd_config::UpstreamId;
use gupd_net::upstream::{Upstream, UpstreamRequest, Upstreams};

/// Where content comes from, and how it is asked for.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) outgoing: UpstreamRequest,
    /// The name of who sent the head.
    author: Arc<str>,
    upstream_order: Arc<[UpstreamId]>,
    giver: Arc<ArcSwap<Upstream>>,
    failovers: IntCounter,
}

impl Origin {
    /// As `wanted` is asked for, of which `author` has just sent the head.
    pub(super) fn of(
        wanted: &FillRequest,
        upstreams: &Arc<Upstreams>,
        author: Arc<Upstream>,
        metrics: &FillMetrics,
    ) -> Self {
        let (target, headers) = (wanted.target.clone(), wanted.headers.clone());
        let outgoing = UpstreamRequest::get(target, headers, wanted.bandwidth.clone());
        Self {
            upstreams: upstreams.clone(),
            outgoing,
            author: author.name.clone(),
            upstream_order: wanted.upstream_order.clone(),
            giver: Arc::new(ArcSwap::new(author)),
            failovers: metrics.failovers.clone(),
        }
    }

    /// The same of a head that was kept. `None` if the route of `wanted` has no upstream now.
    pub(super) fn recorded(
        wanted: &FillRequest,
        upstreams: &Arc<Upstreams>,
        author: &Arc<str>,
        metrics: &FillMetrics,
    ) -> Option<Self> {
        let first = || upstreams.order_by_preference(&wanted.upstream_order).into_iter().next();
        let giver = upstreams.find_by_name(&wanted.upstream_order, author).cloned().or_else(first)?;
        Some(Self { author: author.clone(), ..Self::of(wanted, upstreams, giver, metrics) })
    }

    /// Whether it sent the head. Only of its own content does a date say which it is.
    pub(super) fn is_author(&self, upstream: &Upstream) -> bool {
        *upstream.name == *self.author
    }

    /// Who gives the content now.
    pub(super) fn giver(&self) -> Arc<Upstream> {
        self.giver.load_full()
    }

    /// Whether it is this one.
    pub(super) fn is_giver(&self, upstream: &Arc<Upstream>) -> bool {
        Arc::ptr_eq(&self.giver.load(), upstream)
    }

    /// From now on it is this one.
    pub(super) fn gives(&self, upstream: &Arc<Upstream>) {
        if !self.is_giver(upstream) {
            tracing::warn!(
                from = &*self.giver().name,
                to = &*upstream.name,
                "a transfer goes on from another upstream"
            );
            self.failovers.inc();
            self.giver.store(upstream.clone());
        }
    }

    /// Who may have the content: who gives it, then the others by preference.
    pub(super) fn candidates(&self) -> Vec<Arc<Upstream>> {
        let giver = self.giver();
        let others = self.upstreams.order_by_preference(&self.upstream_order).into_iter();
        let others = others.filter(|other| !Arc::ptr_eq(other, &giver));
        std::iter::once(giver.clone()).chain(others).collect()
    }

    /// Whether each of them has failed so often that requests are kept from it.
    pub(super) fn nobody_may_be_asked(&self) -> bool {
        self.upstreams.time_to_probe(&self.upstream_order).is_some()
    }
}
