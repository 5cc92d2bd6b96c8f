//! The span of a fill, in a program with traces.

use std::time::Duration;

use super::FillTask;
use crate::fill::FillOutcome;
use gupd_http::key;
use gupd_traces::FillSpan;

impl FillTask {
    /// Counts content bytes that have arrived.
    pub(super) fn count_received(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
    }

    /// Records the span of the finished fill, if traces are on and it is sampled.
    pub(super) fn record_span(&self, outcome: FillOutcome, duration: Duration) {
        let Some(tracer) = self.context.metrics.tracer.get() else { return };
        let upstream = self.current_upstream.get();
        let target = key::split_key(&self.request.key).target;
        tracer.record_fill(|| FillSpan {
            path: target.split('?').next().unwrap_or(target),
            class: self.request.classification.class.as_str(),
            content_type: &self.request.classification.content_type,
            outcome: outcome.as_str(),
            is_failure: is_failure(outcome),
            upstream: upstream.as_ref().map(|upstream| &*upstream.name),
            bytes: self.received,
            followers: self.flags.joined(),
            duration,
        });
    }
}

/// Returns true if the site lacks content that it could have.
fn is_failure(outcome: FillOutcome) -> bool {
    use FillOutcome as Outcome;
    match outcome {
        Outcome::Stored
        | Outcome::Deduplicated
        | Outcome::NotModified
        | Outcome::Unshared
        | Outcome::Unstorable
        | Outcome::Outdated
        | Outcome::HandedOver
        | Outcome::Stopped
        | Outcome::Abandoned
        | Outcome::Kept => false,
        Outcome::Store
        | Outcome::Busy
        | Outcome::Changed
        | Outcome::DigestMismatch
        | Outcome::UnexpectedType
        | Outcome::Unproven
        | Outcome::OpenEnded
        | Outcome::Upstream(_)
        | Outcome::ServerError
        | Outcome::BrokenOff => true,
    }
}
