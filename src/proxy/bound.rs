//! Payloads are one for all clients of a route, also where groups are bound to managers of their own; that there is none,
//! or that nobody answers, is only what the managers say that were asked. Owns that difference: who may believe such an
//! answer, and whom else to ask for stored bytes. Where no group is bound, each of these is a comparison.

use http::StatusCode;

use super::{Asked, Generation};
use gupd_cache::Entry;
use gupd_cache::fill;
use gupd_cache::fill::{Fill, Wanted};
use gupd_config::{Class, UpstreamId};
use gupd_store::Object;

impl Generation {
    /// Whether this is no payload but the news that there is none, from an upstream that is none of `order`.
    pub(super) fn is_said_to_others(&self, order: &[UpstreamId], entry: &Entry) -> bool {
        entry.object.status != StatusCode::OK
            && entry.classified.class == Class::Payload
            && !self.policy.bindings().is_empty()
            && self.upstreams.find_by_name(order, &entry.object.upstream).is_none()
    }

    /// Has a payload's bytes asked of the upstream that gave it before those of `wanted`, if it is another group's: it
    /// has them, and of the others nobody knows.
    pub(super) fn ask_author_first(&self, wanted: &mut Wanted, object: &Object) {
        if wanted.classified.class != Class::Payload || self.policy.bindings().is_empty() {
            return;
        }
        let author = self.policy.upstreams().find(|id| *id.name() == *object.upstream);
        if let Some(author) = author.filter(|author| !wanted.order.contains(author)) {
            wanted.order = std::iter::once(author).chain(wanted.order.iter()).cloned().collect();
        }
    }
}

impl Asked<'_> {
    /// The same of this request's upstreams.
    pub(super) fn is_said_to_others(&self, entry: &Entry) -> bool {
        self.generation.is_said_to_others(self.target.upstreams(), entry)
    }

    /// Whether a payload that others' managers have not brought may be had from this request's own.
    pub(super) fn is_let_down(&self, fill: &Fill, outcome: &fill::Outcome) -> bool {
        !matches!(outcome, fill::Outcome::Unshared(_))
            && outcome.status() != Some(StatusCode::OK)
            && !self.generation.policy.bindings().is_empty()
            && *fill.order() != **self.target.upstreams()
    }
}
