//! Circuit breaker of one upstream: it opens after consecutive failures of the whole upstream, and one probe at a time
//! tests for recovery. Faults of single paths open it only if they are independent. Pure: no clock, no waiting, no
//! notification. A time later than `now` plus the longest wait is of before a change of the clock, and counts as past.

use std::time::Duration;

use super::path_fault::{IndependentFaults, PathFault};
use super::selection::SlowStartWeight;
use gupd_config as config;
use gupd_config::clock::UnixMillis;

/// Settings; times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BreakerSettings {
    /// Consecutive failures that open it.
    pub(super) failures: u32,
    /// From opening to the first probe.
    pub(super) retry: UnixMillis,
    /// Maximum of that time, which doubles with each failed probe.
    pub(super) retry_max: UnixMillis,
    /// From closing to the upstream's full share.
    pub(super) slow_start: UnixMillis,
}

/// Health of an upstream.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    state: BreakerState,
    /// The last failure; `None` after a response.
    last_failure: Option<FailureKind>,
    /// Faults of single paths since its last response.
    path_faults: IndependentFaults,
    /// Number of probes so far.
    probes: u64,
}

#[derive(Clone, Copy, Debug)]
enum BreakerState {
    /// Requests are admitted.
    Closed {
        /// Consecutive failures of the whole upstream up to now.
        failures: u32,
        /// Faults of single paths since the last success, at most `failures - 1`. A failed check counts them as
        /// failures.
        suspicions: u32,
        /// Until this time other upstreams go first, because it cost a request its time-out.
        avoid_until: Option<UnixMillis>,
        /// Time of the last closing, if it was ever open.
        recovered: Option<UnixMillis>,
    },
    /// No request before a time.
    Open { until: UnixMillis, wait: UnixMillis },
    /// One request probes.
    HalfOpen { probe: u64, wait: UnixMillis },
}

/// Kind of a request that is to be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// A request that must not probe.
    Regular,
    /// A request that can be the probe.
    Probing,
    /// A health check, which can be the probe.
    Check,
}

/// Kind of an admitted request. Its holder reports the request's outcome, or gives it back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ticket {
    /// One of many.
    Regular,
    /// A health check.
    Check,
    /// The probe with this number.
    Probe(u64),
}

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No connection.
    Unreachable,
    /// No response in time.
    Silent,
    /// The connection was closed, or the response was not HTTP.
    Invalid,
    /// A response that the upstream, or a server behind it, is unavailable.
    Unavailable,
}

/// Transition that changes admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// No request is admitted.
    Opened { until: UnixMillis },
    /// The probe failed.
    StaysOpen { until: UnixMillis },
    /// Requests are admitted again.
    Closed,
}

impl BreakerSettings {
    pub(super) fn new(health: &config::HealthSettings) -> Self {
        let millis = |time: Duration| UnixMillis::try_from(time.as_millis()).unwrap_or(UnixMillis::MAX);
        Self {
            failures: health.failures,
            retry: millis(health.retry),
            retry_max: millis(health.retry_max),
            slow_start: millis(health.slow_start),
        }
    }
}

impl BreakerState {
    fn closed(recovered: Option<UnixMillis>) -> Self {
        Self::Closed { failures: 0, suspicions: 0, avoid_until: None, recovered }
    }
}

impl FailureKind {
    /// Returns the time until which other upstreams go first: one that is slow to fail costs each request its time-out.
    fn avoid_until(self, now: UnixMillis, settings: &BreakerSettings) -> Option<UnixMillis> {
        match self {
            Self::Invalid | Self::Unavailable => None,
            Self::Unreachable | Self::Silent => Some(now.saturating_add(settings.retry)),
        }
    }
}

impl Default for Breaker {
    /// Closed, as for a new upstream.
    fn default() -> Self {
        Self {
            state: BreakerState::closed(None),
            last_failure: None,
            path_faults: IndependentFaults::default(),
            probes: 0,
        }
    }
}

impl Breaker {
    /// Admits a request or not. It can become the probe once one is due.
    pub(super) fn admit(&mut self, now: UnixMillis, kind: RequestKind) -> Option<Ticket> {
        let may_probe = kind != RequestKind::Regular;
        match self.state {
            BreakerState::Closed { .. } if kind == RequestKind::Check => Some(Ticket::Check),
            BreakerState::Closed { .. } => Some(Ticket::Regular),
            BreakerState::Open { until, wait } if may_probe && time_until(until, now, wait) == 0 => {
                self.probes = self.probes.wrapping_add(1);
                self.state = BreakerState::HalfOpen { probe: self.probes, wait };
                Some(Ticket::Probe(self.probes))
            }
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => None,
        }
    }

    /// Records a response to any request.
    pub(super) fn record_success(&mut self, now: UnixMillis) -> Option<Transition> {
        let (recovered, transition) = match self.state {
            BreakerState::Closed { recovered, .. } => (recovered, None),
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => {
                (Some(now), Some(Transition::Closed))
            }
        };
        self.state = BreakerState::closed(recovered);
        self.last_failure = None;
        self.path_faults.clear();
        transition
    }

    /// Records a failure of the whole upstream, reported by the request with this ticket.
    pub(super) fn record_failure(
        &mut self,
        ticket: &Ticket,
        fault: FailureKind,
        now: UnixMillis,
        settings: &BreakerSettings,
    ) -> Option<Transition> {
        match self.state {
            BreakerState::Closed { failures, suspicions, avoid_until, recovered } => {
                self.last_failure = Some(fault);
                let failures = failures.saturating_add(1);
                let confirmed = if *ticket == Ticket::Check { suspicions } else { 0 };
                if failures.saturating_add(confirmed) >= settings.failures {
                    return Some(self.open(now, settings));
                }
                let avoid_until = fault.avoid_until(now, settings).or(avoid_until);
                self.state = BreakerState::Closed { failures, suspicions, avoid_until, recovered };
                None
            }
            BreakerState::HalfOpen { probe, wait } if *ticket == Ticket::Probe(probe) => {
                self.last_failure = Some(fault);
                let wait = wait.saturating_mul(2).min(settings.retry_max);
                let until = now.saturating_add(wait);
                self.state = BreakerState::Open { until, wait };
                Some(Transition::StaysOpen { until })
            }
            // Requests from before the opening add no evidence.
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => None,
        }
    }

    /// Records a failure that may concern one path only. The breaker opens at the `failures`th independent one since the
    /// last response, but at the second one at the earliest. Until then, the caller brings the next check forward.
    pub(super) fn record_suspicion(
        &mut self,
        ticket: &Ticket,
        fault: FailureKind,
        at: PathFault,
        now: UnixMillis,
        settings: &BreakerSettings,
    ) -> Option<Transition> {
        match self.state {
            BreakerState::Closed { failures, suspicions, avoid_until, recovered } => {
                self.last_failure = Some(fault);
                let several = settings.failures.max(2) as usize;
                if self.path_faults.add(at, several) >= several {
                    return Some(self.open(now, settings));
                }
                let suspicions = suspicions.saturating_add(1).min(settings.failures.saturating_sub(1));
                let avoid_until = fault.avoid_until(now, settings).or(avoid_until);
                self.state = BreakerState::Closed { failures, suspicions, avoid_until, recovered };
                None
            }
            // A probe shows that the upstream works, or nothing does.
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => {
                self.record_failure(ticket, fault, now, settings)
            }
        }
    }

    fn open(&mut self, now: UnixMillis, settings: &BreakerSettings) -> Transition {
        let until = now.saturating_add(settings.retry);
        self.state = BreakerState::Open { until, wait: settings.retry };
        Transition::Opened { until }
    }

    /// Returns a ticket without an outcome; true if another request may probe at once.
    pub(super) fn release(&mut self, ticket: &Ticket, now: UnixMillis) -> bool {
        match self.state {
            BreakerState::HalfOpen { probe, wait } if *ticket == Ticket::Probe(probe) => {
                self.state = BreakerState::Open { until: now, wait };
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, BreakerState::Closed { .. })
    }

    /// Returns the last failure; `None` after a response.
    pub(super) fn last_failure(&self) -> Option<FailureKind> {
        self.last_failure
    }

    /// Returns true if others go first, because it has just cost a request its time-out.
    pub(super) fn is_last_resort(&self, now: UnixMillis, settings: &BreakerSettings) -> bool {
        match self.state {
            BreakerState::Closed { avoid_until: Some(until), .. } => {
                time_until(until, now, settings.retry) > 0
            }
            _ => false,
        }
    }

    /// Returns the time to the next probe in milliseconds; `None` while closed. During a probe it is `retry`: the end of
    /// the probe is unknown.
    pub(super) fn next_probe(&self, now: UnixMillis, settings: &BreakerSettings) -> Option<UnixMillis> {
        match self.state {
            BreakerState::Closed { .. } => None,
            BreakerState::Open { until, wait } => Some(time_until(until, now, wait)),
            BreakerState::HalfOpen { .. } => Some(settings.retry),
        }
    }

    /// Returns the weight of the upstream in selection, which rises during its slow start.
    pub(super) fn share(&self, now: UnixMillis, settings: &BreakerSettings) -> SlowStartWeight {
        match self.state {
            BreakerState::Closed { recovered: Some(recovered), .. } if now >= recovered => {
                SlowStartWeight::after(now.saturating_sub(recovered), settings.slow_start)
            }
            _ => SlowStartWeight::FULL,
        }
    }
}

/// Returns the time from `now` to `moment`, which was set at most `most` ahead.
fn time_until(moment: UnixMillis, now: UnixMillis, most: UnixMillis) -> UnixMillis {
    let left = moment.saturating_sub(now);
    if (0..=most).contains(&left) { left } else { 0 }
}

#[cfg(test)]
mod tests;
