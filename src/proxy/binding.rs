//! Payloads where groups are bound to upstreams of their own. A payload is one object for all clients of a route, but
//! that there is none, or that no upstream answers, holds only for the upstreams that were asked. Where no group is
//! bound, each of these checks is one comparison.

use http::StatusCode;

use crate::Generation;
use crate::exchange::Exchange;
use gupd_cache::CacheEntry;
use gupd_cache::fill::{FillHandle, FillRequest, FillResponse};
use gupd_config::{Class, UpstreamId};
use gupd_store::Object;

impl Generation {
    /// Returns true if a stored response says that a payload does not exist, and came from an upstream outside `order`.
    pub(crate) fn is_failure_of_other_upstreams(&self, order: &[UpstreamId], entry: &CacheEntry) -> bool {
        entry.object.status != StatusCode::OK
            && entry.classification.class == Class::Payload
            && !self.policy.bindings().is_empty()
            && self.upstreams.find_by_name(order, &entry.object.upstream).is_none()
    }

    /// Puts the upstream that gave a payload before those of `wanted`, if it is another group's. It has the bytes; the
    /// others may not.
    pub(crate) fn prefer_author(&self, request: &mut FillRequest, object: &Object) {
        if request.classification.class != Class::Payload || self.policy.bindings().is_empty() {
            return;
        }
        let author = self.policy.upstreams().find(|id| *id.name() == *object.upstream);
        if let Some(author) = author.filter(|author| !request.upstream_order.contains(author)) {
            request.upstream_order =
                std::iter::once(author).chain(request.upstream_order.iter()).cloned().collect();
        }
    }
}

impl Exchange<'_> {
    /// [`Generation::is_failure_of_other_upstreams`] for the upstreams of this request.
    pub(crate) fn is_failure_of_other_upstreams(&self, entry: &CacheEntry) -> bool {
        self.generation.is_failure_of_other_upstreams(self.target.upstreams(), entry)
    }

    /// Returns true if a fill of another group brought no payload, and this request's own upstreams may have it.
    pub(crate) fn can_ask_own_upstreams(&self, fill: &FillHandle, outcome: &FillResponse) -> bool {
        !matches!(outcome, FillResponse::Unshared(_))
            && outcome.status() != Some(StatusCode::OK)
            && !self.generation.policy.bindings().is_empty()
            && *fill.upstream_order() != **self.target.upstreams()
    }
}
