//! How an upstream stands: its breaker and its load, shared by all who ask it, and kept when a reload makes upstreams
//! anew. Owns who is told of a change: the log, the metric, and whoever waits. Decides nothing: `breaker` does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::IntGaugeVec;
use tokio::sync::watch;

use super::Upstream;
use super::breaker::{Breaker, Change, Limits, Ticket};
use super::error::Verdict;
use super::selection::{Candidate, Load};
use gupd_config::clock::{Clock, UnixMillis};

/// What all who ask one upstream share.
#[derive(Debug, Default)]
pub(super) struct Standing {
    // Held for arithmetic; whoever waits is woken when others would be admitted than before.
    breaker: watch::Sender<Breaker>,
    /// Bytes it has still to send.
    pub(super) load: Load,
    asked: AtomicU64,
}

/// Leave to ask an upstream once. Dropped without a verdict it says nothing of the upstream, and what it kept others from
/// is free again.
#[derive(Debug)]
pub(super) struct Permit {
    upstream: Arc<Upstream>,
    clock: Clock,
    // None once there is a verdict.
    ticket: Option<Ticket>,
}

impl Standing {
    /// As it is now.
    pub(super) fn breaker(&self) -> Breaker {
        self.breaker.borrow().clone()
    }

    /// Wakes whenever it changes who is admitted.
    pub(super) fn changes(&self) -> watch::Receiver<Breaker> {
        self.breaker.subscribe()
    }

    /// Time until a request may be what finds out whether the upstream is back; `None` while any request may be sent.
    pub(super) fn next_probe(&self, now: UnixMillis, limits: &Limits) -> Option<Duration> {
        let millis = self.breaker.borrow().next_probe(now, limits)?;
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }
}

impl Upstream {
    /// As the order of a route sees it, where it stands at `place`, counted from 1.
    pub(super) fn candidate(self: &Arc<Self>, place: u32, now: UnixMillis) -> Candidate<Arc<Self>> {
        let breaker = self.standing.breaker.borrow();
        Candidate {
            upstream: self.clone(),
            last: breaker.is_last(now, &self.limits),
            priority: self.priority.unwrap_or(place),
            load: self.standing.load.bytes(),
            share: breaker.share(now, &self.limits),
            asked: self.standing.asked.load(Ordering::Relaxed),
        }
    }

    /// Whether any request may be sent to it.
    pub fn is_healthy(&self) -> bool {
        self.standing.breaker.borrow().is_closed()
    }

    /// Leave to ask it, if there is. `turn` grows from one leave to the next.
    pub(super) fn admit(self: &Arc<Self>, clock: &Clock, may_probe: bool, turn: u64) -> Option<Permit> {
        let mut ticket = None;
        self.standing.breaker.send_if_modified(|breaker| {
            ticket = breaker.admit(clock.now(), may_probe);
            matches!(ticket, Some(Ticket::Probe(_)))
        });
        let ticket = Some(ticket?);
        self.standing.asked.store(turn, Ordering::Relaxed);
        Some(Permit { upstream: self.clone(), clock: clock.clone(), ticket })
    }

    /// Says in the metric how it stands, if it is in force.
    pub(super) fn show(&self, is_healthy: bool) {
        if let Some(healthy) = self.healthy.get() {
            healthy.set(is_healthy.into());
        }
    }

    /// It is in force, and this is its metric.
    pub(super) fn show_in(&self, all: &IntGaugeVec) {
        self.healthy.get_or_init(|| all.with_label_values(&[&*self.name]));
        self.show(self.is_healthy());
    }
}

impl Permit {
    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Says how the request ended.
    pub(super) fn settle(mut self, verdict: &Verdict) {
        let now = self.clock.now();
        let Upstream { name, standing, limits, .. } = &*self.upstream;
        let Some(ticket) = self.ticket.take() else { return };
        let mut change = None;
        standing.breaker.send_if_modified(|breaker| {
            let before = breaker.fault();
            let freed = match verdict {
                Verdict::Unknown => breaker.given_back(&ticket, now),
                Verdict::Suspect(fault) => {
                    breaker.suspected(*fault, now, limits);
                    breaker.given_back(&ticket, now)
                }
                Verdict::Well => {
                    change = breaker.succeeded(now);
                    false
                }
                Verdict::Failed(fault, _) => {
                    change = breaker.failed(&ticket, *fault, now, limits);
                    false
                }
            };
            // Whoever checks it looks sooner after a failure.
            freed || change.is_some() || before != breaker.fault()
        });
        self.upstream.show(self.upstream.is_healthy());
        let seconds = |until: UnixMillis| until.saturating_sub(now) as f64 / 1e3;
        match (change, verdict) {
            (Some(Change::Opened { until }), Verdict::Failed(_, why)) => {
                tracing::warn!(upstream = &**name, %why, seconds = seconds(until),
                    "the upstream is asked no more; it is tried again in so many seconds");
            }
            (Some(Change::StaysOpen { until }), Verdict::Failed(_, why)) => {
                tracing::debug!(upstream = &**name, %why, seconds = seconds(until), "the upstream still fails");
            }
            (Some(Change::Closed), _) => {
                tracing::info!(upstream = &**name, "the upstream answers, and is asked again");
            }
            _ => {}
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.clock.now();
            self.upstream.standing.breaker.send_if_modified(|breaker| breaker.given_back(&ticket, now));
        }
    }
}
