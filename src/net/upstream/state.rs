//! State of an upstream: its breaker and load, shared by all requests and kept across reloads. The module publishes
//! changes to the log, the metric and waiting tasks; `breaker` decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::IntGaugeVec;
use tokio::sync::watch;

use super::Upstream;
use super::breaker::{Breaker, BreakerSettings, RequestKind, Ticket, Transition};
use super::error::AttemptOutcome;
use super::selection::{OutstandingBytes, UpstreamCandidate};
use gupd_config::clock::{Clock, UnixMillis};

/// State shared by all requests to one upstream.
#[derive(Debug, Default)]
pub(super) struct UpstreamState {
    // Locked for arithmetic. Waiting tasks are woken when it admits other requests than before.
    breaker: watch::Sender<Breaker>,
    /// Outstanding bytes.
    pub(super) load: OutstandingBytes,
    last_request: AtomicU64,
}

/// Permission for one request. Dropped without an outcome it says nothing about the upstream, and frees the probe
/// that it held.
#[derive(Debug)]
pub(super) struct Permit {
    upstream: Arc<Upstream>,
    clock: Clock,
    // `None` after the outcome.
    ticket: Option<Ticket>,
}

impl UpstreamState {
    /// Returns the current breaker.
    pub(super) fn breaker(&self) -> Breaker {
        self.breaker.borrow().clone()
    }

    /// Subscribes to changes of admission.
    pub(super) fn changes(&self) -> watch::Receiver<Breaker> {
        self.breaker.subscribe()
    }

    /// Returns the time until a request may probe; `None` while any request is admitted.
    pub(super) fn next_probe(&self, now: UnixMillis, limits: &BreakerSettings) -> Option<Duration> {
        let millis = self.breaker.borrow().next_probe(now, limits)?;
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }
}

impl Upstream {
    /// Returns the figures that order this upstream; `place` is its position in the route, from 1.
    pub(super) fn candidate(
        self: &Arc<Self>,
        position: u32,
        now: UnixMillis,
    ) -> UpstreamCandidate<Arc<Self>> {
        let breaker = self.state.breaker.borrow();
        UpstreamCandidate {
            upstream: self.clone(),
            is_last_resort: breaker.is_last_resort(now, &self.limits),
            priority: self.priority.unwrap_or(position),
            load: self.state.load.bytes(),
            weight: breaker.share(now, &self.limits),
            last_request: self.state.last_request.load(Ordering::Relaxed),
        }
    }

    /// Returns true if requests are admitted.
    pub fn is_healthy(&self) -> bool {
        self.state.breaker.borrow().is_closed()
    }

    /// Admits a request; `None` if it may not be sent. `sequence` grows with each request.
    pub(super) fn admit(self: &Arc<Self>, clock: &Clock, kind: RequestKind, sequence: u64) -> Option<Permit> {
        let mut ticket = None;
        self.state.breaker.send_if_modified(|breaker| {
            ticket = breaker.admit(clock.now(), kind);
            matches!(ticket, Some(Ticket::Probe(_)))
        });
        let ticket = Some(ticket?);
        self.state.last_request.store(sequence, Ordering::Relaxed);
        Some(Permit { upstream: self.clone(), clock: clock.clone(), ticket })
    }

    /// Sets the health metric, if the upstream is in force.
    pub(super) fn set_health(&self, is_healthy: bool) {
        if let Some(healthy) = self.healthy.get() {
            healthy.set(is_healthy.into());
        }
    }

    /// Puts the upstream in force and sets its health metric.
    pub(super) fn publish_health(&self, all: &IntGaugeVec) {
        self.healthy.get_or_init(|| all.with_label_values(&[&*self.name]));
        self.set_health(self.is_healthy());
    }
}

impl Permit {
    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Records the outcome of the request.
    pub(super) fn record(mut self, outcome: &AttemptOutcome) {
        let now = self.clock.now();
        let Upstream { name, state, limits, .. } = &*self.upstream;
        let Some(ticket) = self.ticket.take() else { return };
        let mut transition = None;
        state.breaker.send_if_modified(|breaker| {
            let before = breaker.last_failure();
            let is_probe_free = match outcome {
                AttemptOutcome::Unknown => breaker.release(&ticket, now),
                AttemptOutcome::Suspect(fault, _, at) => {
                    transition = breaker.record_suspicion(&ticket, *fault, *at, now, limits);
                    false
                }
                AttemptOutcome::Healthy => {
                    transition = breaker.record_success(now);
                    false
                }
                AttemptOutcome::Failed(fault, _) => {
                    transition = breaker.record_failure(&ticket, *fault, now, limits);
                    false
                }
            };
            // The health check runs sooner after a failure.
            is_probe_free || transition.is_some() || before != breaker.last_failure()
        });
        self.upstream.set_health(self.upstream.is_healthy());
        let seconds = |until: UnixMillis| until.saturating_sub(now) as f64 / 1e3;
        match (transition, outcome) {
            (
                Some(Transition::Opened { until }),
                AttemptOutcome::Failed(_, error) | AttemptOutcome::Suspect(_, error, _),
            ) => {
                tracing::warn!(upstream = &**name, %error, seconds = seconds(until),
                    "upstream circuit opened");
            }
            (
                Some(Transition::StaysOpen { until }),
                AttemptOutcome::Failed(_, error) | AttemptOutcome::Suspect(_, error, _),
            ) => {
                tracing::debug!(upstream = &**name, %error, seconds = seconds(until), "upstream probe failed");
            }
            (Some(Transition::Closed), _) => {
                tracing::info!(upstream = &**name, "upstream circuit closed");
            }
            _ => {}
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.clock.now();
            self.upstream.state.breaker.send_if_modified(|breaker| breaker.release(&ticket, now));
        }
    }
}
