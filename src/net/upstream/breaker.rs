//! Circuit breaker of one upstream: it opens after consecutive failures, and one probe at a time tests for recovery.
//! Pure: no clock, no waiting, no notification. A time further ahead than any that it sets was set before the clock
//! moved back, and counts as past.

use std::time::Duration;

use super::selection::TrafficShare;
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
    /// Last failure since its last response.
    fault: Option<FailureKind>,
    /// Number of probes so far.
    probes: u64,
}

#[derive(Clone, Copy, Debug)]
enum BreakerState {
    /// Requests are admitted.
    Closed {
        /// Consecutive failures up to now.
        failures: u32,
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

/// Kind of an admitted request. The holder reports its outcome or returns it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ticket {
    /// One of many.
    Regular,
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

impl Default for Breaker {
    /// Closed, as for a new upstream.
    fn default() -> Self {
        Self {
            state: BreakerState::Closed { failures: 0, avoid_until: None, recovered: None },
            fault: None,
            probes: 0,
        }
    }
}

impl Breaker {
    /// Admits a request or not. With `may_probe` it can become the probe once one is due.
    pub(super) fn admit(&mut self, now: UnixMillis, may_probe: bool) -> Option<Ticket> {
        match self.state {
            BreakerState::Closed { .. } => Some(Ticket::Regular),
            BreakerState::Open { until, wait } if may_probe && time_until(until, now, wait) == 0 => {
                self.probes += 1;
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
        self.state = BreakerState::Closed { failures: 0, avoid_until: None, recovered };
        self.fault = None;
        transition
    }

    /// Records a failure of the request with this ticket.
    pub(super) fn record_failure(
        &mut self,
        ticket: &Ticket,
        fault: FailureKind,
        now: UnixMillis,
        settings: &BreakerSettings,
    ) -> Option<Transition> {
        match self.state {
            BreakerState::Closed { failures, avoid_until, recovered } => {
                self.fault = Some(fault);
                let failures = failures.saturating_add(1);
                if failures >= settings.failures {
                    let until = now.saturating_add(settings.retry);
                    self.state = BreakerState::Open { until, wait: settings.retry };
                    return Some(Transition::Opened { until });
                }
                let avoid_until = match fault {
                    FailureKind::Invalid | FailureKind::Unavailable => avoid_until,
                    FailureKind::Unreachable | FailureKind::Silent => {
                        Some(now.saturating_add(settings.retry))
                    }
                };
                self.state = BreakerState::Closed { failures, avoid_until, recovered };
                None
            }
            BreakerState::HalfOpen { probe, wait } if *ticket == Ticket::Probe(probe) => {
                self.fault = Some(fault);
                let wait = wait.saturating_mul(2).min(settings.retry_max);
                let until = now.saturating_add(wait);
                self.state = BreakerState::Open { until, wait };
                Some(Transition::StaysOpen { until })
            }
            // Requests from before the opening add no evidence.
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => None,
        }
    }

    /// Records a failure that may concern one path only. A health check tests the upstream as a whole and reports the
    /// decisive failure.
    pub(super) fn record_suspicion(
        &mut self,
        fault: FailureKind,
        now: UnixMillis,
        settings: &BreakerSettings,
    ) {
        if let BreakerState::Closed { failures, .. } = self.state {
            let most = BreakerSettings { failures: u32::MAX, ..*settings };
            self.record_failure(&Ticket::Regular, fault, now, &most);
            if let BreakerState::Closed { failures: counted, .. } = &mut self.state {
                *counted = failures.saturating_add(1).min(settings.failures.saturating_sub(1));
            }
        }
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
    pub(super) fn fault(&self) -> Option<FailureKind> {
        self.fault
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

    /// Returns the time to the next probe in milliseconds; `None` while closed. During a probe it is the time by
    /// which the probe should have ended.
    pub(super) fn next_probe(&self, now: UnixMillis, settings: &BreakerSettings) -> Option<UnixMillis> {
        match self.state {
            BreakerState::Closed { .. } => None,
            BreakerState::Open { until, wait } => Some(time_until(until, now, wait)),
            BreakerState::HalfOpen { .. } => Some(settings.retry),
        }
    }

    /// Returns its part of an even share.
    pub(super) fn share(&self, now: UnixMillis, settings: &BreakerSettings) -> TrafficShare {
        match self.state {
            BreakerState::Closed { recovered: Some(recovered), .. } if now >= recovered => {
                TrafficShare::after(now.saturating_sub(recovered), settings.slow_start)
            }
            _ => TrafficShare::FULL,
        }
    }
}

/// Returns the time from `now` to `moment`, which was set at most `most` ahead.
fn time_until(moment: UnixMillis, now: UnixMillis, most: UnixMillis) -> UnixMillis {
    let left = moment.saturating_sub(now);
    if (0..=most).contains(&left) { left } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: BreakerSettings =
        BreakerSettings { failures: 3, retry: 5_000, retry_max: 60_000, slow_start: 30_000 };

    fn open_at(now: UnixMillis) -> Breaker {
        let mut breaker = Breaker::default();
        for failures in 1..=3 {
            let ticket = breaker.admit(now, false).unwrap();
            let transition = breaker.record_failure(&ticket, FailureKind::Unreachable, now, &SETTINGS);
            assert_eq!(transition, (failures == 3).then_some(Transition::Opened { until: now + 5_000 }));
        }
        breaker
    }

    #[test]
    fn wait_doubles_with_each_failed_probe_up_to_maximum() {
        let mut now = 0;
        let mut breaker = open_at(now);
        for wait in [5_000, 10_000, 20_000, 40_000, 60_000, 60_000] {
            assert_eq!(breaker.next_probe(now, &SETTINGS), Some(wait));
            assert_eq!(breaker.admit(now + wait - 1, true), None);
            now += wait;
            assert_eq!(breaker.admit(now, false), None, "a request that may not probe");
            let probe = breaker.admit(now, true).unwrap();
            assert_eq!(breaker.admit(now, true), None, "a second probe");
            breaker.record_failure(&probe, FailureKind::Invalid, now, &SETTINGS);
        }
        let probe = breaker.admit(now + 60_000, true).unwrap();
        assert_eq!(breaker.record_success(now + 60_000), Some(Transition::Closed));
        // The next opening starts with the shortest wait. A late report of the probe changes nothing.
        assert!(!breaker.release(&probe, now));
        assert_eq!(open_at(0).next_probe(0, &SETTINGS), Some(5_000));
    }

    #[test]
    fn dropped_probe_lets_another_request_probe_at_once() {
        let mut breaker = open_at(0);
        let lost = breaker.admit(5_000, true).unwrap();
        assert!(breaker.release(&lost, 6_000));
        let next = breaker.admit(6_000, true).unwrap();
        assert_ne!(lost, next);
        assert_eq!(
            breaker.record_failure(&lost, FailureKind::Invalid, 6_000, &SETTINGS),
            None,
            "its owner speaks for it no more"
        );
        assert_eq!(
            breaker.record_failure(&next, FailureKind::Invalid, 6_000, &SETTINGS),
            Some(Transition::StaysOpen { until: 16_000 })
        );
    }

    #[test]
    fn unreachable_upstream_goes_last_but_a_failing_one_not() {
        let mut breaker = Breaker::default();
        breaker.record_failure(&Ticket::Regular, FailureKind::Invalid, 0, &SETTINGS);
        assert!(breaker.fault() == Some(FailureKind::Invalid) && !breaker.is_last_resort(0, &SETTINGS));
        breaker.record_failure(&Ticket::Regular, FailureKind::Unreachable, 0, &SETTINGS);
        assert!(breaker.is_last_resort(4_999, &SETTINGS) && !breaker.is_last_resort(5_000, &SETTINGS));
        breaker.record_success(0);
        assert!(breaker.fault().is_none() && !breaker.is_last_resort(0, &SETTINGS));
    }

    #[test]
    fn suspected_failures_open_only_with_a_failed_check() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.record_suspicion(FailureKind::Unavailable, 0, &SETTINGS);
        }
        assert!(breaker.is_closed());
        assert_eq!(breaker.fault(), Some(FailureKind::Unavailable));
        let check = breaker.admit(0, true).unwrap();
        let transition = breaker.record_failure(&check, FailureKind::Silent, 0, &SETTINGS);
        assert_eq!(transition, Some(Transition::Opened { until: 5_000 }));
        let always = BreakerSettings { failures: 1, ..SETTINGS };
        let mut breaker = Breaker::default();
        breaker.record_suspicion(FailureKind::Silent, 0, &always);
        assert!(breaker.is_closed() && breaker.is_last_resort(0, &always));
    }

    #[test]
    fn clock_set_back_does_not_block_requests() {
        let mut breaker = open_at(1_000_000_000);
        assert_eq!(breaker.next_probe(0, &SETTINGS), Some(0));
        assert!(breaker.admit(0, true).is_some());
        let mut missed = Breaker::default();
        missed.record_failure(&Ticket::Regular, FailureKind::Unreachable, 1_000_000_000, &SETTINGS);
        assert!(!missed.is_last_resort(0, &SETTINGS));
    }

    #[test]
    fn only_a_recovered_upstream_starts_slowly() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.share(0, &SETTINGS), TrafficShare::FULL);
        breaker = open_at(0);
        breaker.record_success(100_000);
        assert!(breaker.share(100_000, &SETTINGS) < breaker.share(115_000, &SETTINGS));
        assert!(breaker.share(115_000, &SETTINGS) < TrafficShare::FULL);
        assert_eq!(breaker.share(130_000, &SETTINGS), TrafficShare::FULL);
        assert_eq!(breaker.share(99_999, &SETTINGS), TrafficShare::FULL, "the clock was set back");
    }

    /// An event.
    #[derive(Clone, Debug)]
    enum BreakerEvent {
        Ask { may_probe: bool },
        Fail(usize),
        Succeed(usize),
        Leave(usize),
        Later(UnixMillis),
    }

    fn event() -> impl Strategy<Value = BreakerEvent> {
        prop_oneof![
            4 => any::<bool>().prop_map(|may_probe| BreakerEvent::Ask { may_probe }),
            4 => any::<usize>().prop_map(BreakerEvent::Fail),
            1 => any::<usize>().prop_map(BreakerEvent::Succeed),
            1 => any::<usize>().prop_map(BreakerEvent::Leave),
            2 => (0..70_000_i64).prop_map(BreakerEvent::Later),
        ]
    }

    proptest! {
        #[test]
        fn one_probe_at_a_time_and_only_failures_in_a_row_open(
            events in proptest::collection::vec(event(), 0..200),
        ) {
            let mut breaker = Breaker::default();
            let (mut now, mut consecutive) = (0, 0);
            let mut tickets: Vec<Ticket> = Vec::new();
            // Probes since it was last closed.
            let mut probes = 0;
            for event in events {
                let was_closed = breaker.is_closed();
                let take = |at: usize, tickets: &mut Vec<Ticket>| {
                    (!tickets.is_empty()).then(|| tickets.swap_remove(at % tickets.len()))
                };
                match event {
                    BreakerEvent::Later(time) => now += time,
                    BreakerEvent::Ask { may_probe } => {
                        let ticket = breaker.admit(now, may_probe);
                        prop_assert!(!was_closed || ticket == Some(Ticket::Regular));
                        if matches!(ticket, Some(Ticket::Probe(_))) {
                            prop_assert!(may_probe);
                            probes += 1;
                        }
                        prop_assert!(probes <= 1, "two probes at once");
                        tickets.extend(ticket);
                    }
                    BreakerEvent::Succeed(at) => if take(at, &mut tickets).is_some() {
                        breaker.record_success(now);
                        prop_assert!(breaker.is_closed());
                        (consecutive, probes) = (0, 0);
                    },
                    BreakerEvent::Fail(at) => if let Some(ticket) = take(at, &mut tickets) {
                        consecutive += u32::from(was_closed);
                        let transition = breaker.record_failure(&ticket, FailureKind::Unreachable, now, &SETTINGS);
                        prop_assert_eq!(was_closed && consecutive >= SETTINGS.failures, matches!(transition, Some(Transition::Opened { .. })));
                        if matches!(transition, Some(Transition::Opened { .. })) { consecutive = 0; }
                        if matches!(transition, Some(Transition::StaysOpen { .. })) { probes = 0; }
                    },
                    BreakerEvent::Leave(at) => if let Some(ticket) = take(at, &mut tickets)
                        && breaker.release(&ticket, now)
                    {
                        probes = 0;
                    },
                }
                let is_half_open = matches!(breaker.state, BreakerState::HalfOpen { .. });
                prop_assert_eq!(probes == 1, is_half_open);
                let next = breaker.next_probe(now, &SETTINGS);
                prop_assert_eq!(next.is_none(), breaker.is_closed());
                prop_assert!(next.unwrap_or(0) <= SETTINGS.retry_max, "not used again within the longest wait");
                if !breaker.is_closed() && !is_half_open {
                    let mut later = breaker.clone();
                    prop_assert!(later.admit(now + SETTINGS.retry_max, true).is_some());
                }
            }
        }
    }
}
