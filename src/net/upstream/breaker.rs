//! The circuit breaker of one upstream: whether it is asked, after how many failures it is not, and when one request may
//! find out whether it is back. Pure: it reads no clock, waits for nothing and tells nobody. A time that lies further
//! ahead than any it sets was set before the clock was moved back, and counts as past.

use std::time::Duration;

use super::selection::Share;
use gupd_config as config;
use gupd_config::clock::UnixMillis;

/// Its numbers, times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Failures in a row that open it.
    pub(super) failures: u32,
    /// From then to the first probe.
    pub(super) retry: UnixMillis,
    /// What that time doubles up to, with each probe that fails.
    pub(super) retry_max: UnixMillis,
    /// From its closing to the upstream's full share.
    pub(super) slow_start: UnixMillis,
}

/// What is known of an upstream.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    state: State,
    /// How it failed last, since it last answered.
    fault: Option<Fault>,
    /// Probes so far.
    probes: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// It is asked.
    Closed {
        /// In a row, to the last.
        failures: u32,
        /// Until when it is asked last, having cost a request its time.
        last_until: Option<UnixMillis>,
        /// When it was closed again, if it was ever open.
        recovered: Option<UnixMillis>,
    },
    /// It is not asked before a moment.
    Open { until: UnixMillis, wait: UnixMillis },
    /// One request finds out.
    HalfOpen { probe: u64, wait: UnixMillis },
}

/// What a request was admitted as. Whoever has one says how the request ended, or gives it back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ticket {
    /// One of any number.
    Regular,
    /// The one that finds out whether the upstream is back.
    Probe(u64),
}

/// How an upstream failed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There was no connection.
    Unreachable,
    /// There was no answer in time.
    Silent,
    /// It closed the connection, or what it said is not HTTP.
    Wrong,
    /// It answered that it, or somebody behind it, cannot answer.
    Busy,
}

/// What everybody who asks it sees change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is asked no more.
    Opened { until: UnixMillis },
    /// The probe failed.
    StaysOpen { until: UnixMillis },
    /// It is asked again.
    Closed,
}

impl Limits {
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
    /// Of an upstream that nobody has asked yet: closed.
    fn default() -> Self {
        Self {
            state: State::Closed { failures: 0, last_until: None, recovered: None },
            fault: None,
            probes: 0,
        }
    }
}

impl Breaker {
    /// Lets a request pass, or not. One that `may_probe` takes the half-open place when its moment has come.
    pub(super) fn admit(&mut self, now: UnixMillis, may_probe: bool) -> Option<Ticket> {
        match self.state {
            State::Closed { .. } => Some(Ticket::Regular),
            State::Open { until, wait } if may_probe && ahead(until, now, wait) == 0 => {
                self.probes += 1;
                self.state = State::HalfOpen { probe: self.probes, wait };
                Some(Ticket::Probe(self.probes))
            }
            State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// The upstream has answered, to whatever request.
    pub(super) fn succeeded(&mut self, now: UnixMillis) -> Option<Change> {
        let (recovered, change) = match self.state {
            State::Closed { recovered, .. } => (recovered, None),
            State::Open { .. } | State::HalfOpen { .. } => (Some(now), Some(Change::Closed)),
        };
        self.state = State::Closed { failures: 0, last_until: None, recovered };
        self.fault = None;
        change
    }

    /// The upstream has failed the request that had this ticket.
    pub(super) fn failed(
        &mut self,
        ticket: &Ticket,
        fault: Fault,
        now: UnixMillis,
        limits: &Limits,
    ) -> Option<Change> {
        match self.state {
            State::Closed { failures, last_until, recovered } => {
                self.fault = Some(fault);
                let failures = failures.saturating_add(1);
                if failures >= limits.failures {
                    let until = now.saturating_add(limits.retry);
                    self.state = State::Open { until, wait: limits.retry };
                    return Some(Change::Opened { until });
                }
                let last_until = match fault {
                    Fault::Wrong | Fault::Busy => last_until,
                    Fault::Unreachable | Fault::Silent => Some(now.saturating_add(limits.retry)),
                };
                self.state = State::Closed { failures, last_until, recovered };
                None
            }
            State::HalfOpen { probe, wait } if *ticket == Ticket::Probe(probe) => {
                self.fault = Some(fault);
                let wait = wait.saturating_mul(2).min(limits.retry_max);
                let until = now.saturating_add(wait);
                self.state = State::Open { until, wait };
                Some(Change::StaysOpen { until })
            }
            // Requests that were under way when it opened say nothing that is not known.
            State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// The upstream has failed a request in a way that may be that of one path. Somebody checks it as a whole, and is the
    /// one to find the last failure.
    pub(super) fn suspected(&mut self, fault: Fault, now: UnixMillis, limits: &Limits) {
        if let State::Closed { failures, .. } = self.state {
            let most = Limits { failures: u32::MAX, ..*limits };
            self.failed(&Ticket::Regular, fault, now, &most);
            if let State::Closed { failures: counted, .. } = &mut self.state {
                *counted = failures.saturating_add(1).min(limits.failures.saturating_sub(1));
            }
        }
    }

    /// Nobody will know how the request with this ticket ended; tells whether another may probe at once.
    pub(super) fn given_back(&mut self, ticket: &Ticket, now: UnixMillis) -> bool {
        match self.state {
            State::HalfOpen { probe, wait } if *ticket == Ticket::Probe(probe) => {
                self.state = State::Open { until: now, wait };
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// How it failed last; `None` once it has answered.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether others should be asked before it: it has just cost a request its time.
    pub(super) fn is_last(&self, now: UnixMillis, limits: &Limits) -> bool {
        match self.state {
            State::Closed { last_until: Some(until), .. } => ahead(until, now, limits.retry) > 0,
            _ => false,
        }
    }

    /// Time to the next probe in milliseconds; `None` while none is needed. While one is under way, the time after which
    /// it will most likely have ended.
    pub(super) fn next_probe(&self, now: UnixMillis, limits: &Limits) -> Option<UnixMillis> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, wait } => Some(ahead(until, now, wait)),
            State::HalfOpen { .. } => Some(limits.retry),
        }
    }

    /// How much of its share it gets.
    pub(super) fn share(&self, now: UnixMillis, limits: &Limits) -> Share {
        match self.state {
            State::Closed { recovered: Some(recovered), .. } if now >= recovered => {
                Share::of(now.saturating_sub(recovered), limits.slow_start)
            }
            _ => Share::FULL,
        }
    }
}

/// How far a moment lies ahead that was set `most` ahead at the most.
fn ahead(moment: UnixMillis, now: UnixMillis, most: UnixMillis) -> UnixMillis {
    let left = moment.saturating_sub(now);
    if (0..=most).contains(&left) { left } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { failures: 3, retry: 5_000, retry_max: 60_000, slow_start: 30_000 };

    fn open_at(now: UnixMillis) -> Breaker {
        let mut breaker = Breaker::default();
        for failures in 1..=3 {
            let ticket = breaker.admit(now, false).unwrap();
            let change = breaker.failed(&ticket, Fault::Unreachable, now, &LIMITS);
            assert_eq!(change, (failures == 3).then_some(Change::Opened { until: now + 5_000 }));
        }
        breaker
    }

    #[test]
    fn it_opens_for_twice_as_long_with_each_probe_that_fails_up_to_the_longest() {
        let mut now = 0;
        let mut breaker = open_at(now);
        for wait in [5_000, 10_000, 20_000, 40_000, 60_000, 60_000] {
            assert_eq!(breaker.next_probe(now, &LIMITS), Some(wait));
            assert_eq!(breaker.admit(now + wait - 1, true), None);
            now += wait;
            assert_eq!(breaker.admit(now, false), None, "a request that may not probe");
            let probe = breaker.admit(now, true).unwrap();
            assert_eq!(breaker.admit(now, true), None, "a second probe");
            breaker.failed(&probe, Fault::Wrong, now, &LIMITS);
        }
        let probe = breaker.admit(now + 60_000, true).unwrap();
        assert_eq!(breaker.succeeded(now + 60_000), Some(Change::Closed));
        // The next time begins with the shortest wait; what the probe's owner says late changes nothing.
        assert!(!breaker.given_back(&probe, now));
        assert_eq!(open_at(0).next_probe(0, &LIMITS), Some(5_000));
    }

    #[test]
    fn a_probe_whose_owner_is_gone_leaves_its_place_to_the_next_at_once() {
        let mut breaker = open_at(0);
        let lost = breaker.admit(5_000, true).unwrap();
        assert!(breaker.given_back(&lost, 6_000));
        let next = breaker.admit(6_000, true).unwrap();
        assert_ne!(lost, next);
        assert_eq!(
            breaker.failed(&lost, Fault::Wrong, 6_000, &LIMITS),
            None,
            "its owner speaks for it no more"
        );
        assert_eq!(
            breaker.failed(&next, Fault::Wrong, 6_000, &LIMITS),
            Some(Change::StaysOpen { until: 16_000 })
        );
    }

    #[test]
    fn who_cost_a_request_its_time_is_asked_last_for_a_while_and_who_answered_badly_is_not() {
        let mut breaker = Breaker::default();
        breaker.failed(&Ticket::Regular, Fault::Wrong, 0, &LIMITS);
        assert!(breaker.fault() == Some(Fault::Wrong) && !breaker.is_last(0, &LIMITS));
        breaker.failed(&Ticket::Regular, Fault::Unreachable, 0, &LIMITS);
        assert!(breaker.is_last(4_999, &LIMITS) && !breaker.is_last(5_000, &LIMITS));
        breaker.succeeded(0);
        assert!(breaker.fault().is_none() && !breaker.is_last(0, &LIMITS));
    }

    #[test]
    fn what_may_be_the_failure_of_one_path_opens_it_only_with_the_checks_own() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.suspected(Fault::Busy, 0, &LIMITS);
        }
        assert!(breaker.is_closed());
        assert_eq!(breaker.fault(), Some(Fault::Busy));
        let check = breaker.admit(0, true).unwrap();
        let change = breaker.failed(&check, Fault::Silent, 0, &LIMITS);
        assert_eq!(change, Some(Change::Opened { until: 5_000 }));
        let always = Limits { failures: 1, ..LIMITS };
        let mut breaker = Breaker::default();
        breaker.suspected(Fault::Silent, 0, &always);
        assert!(breaker.is_closed() && breaker.is_last(0, &always));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_out() {
        let mut breaker = open_at(1_000_000_000);
        assert_eq!(breaker.next_probe(0, &LIMITS), Some(0));
        assert!(breaker.admit(0, true).is_some());
        let mut missed = Breaker::default();
        missed.failed(&Ticket::Regular, Fault::Unreachable, 1_000_000_000, &LIMITS);
        assert!(!missed.is_last(0, &LIMITS));
    }

    #[test]
    fn only_who_has_recovered_starts_slowly() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.share(0, &LIMITS), Share::FULL);
        breaker = open_at(0);
        breaker.succeeded(100_000);
        assert!(breaker.share(100_000, &LIMITS) < breaker.share(115_000, &LIMITS));
        assert!(breaker.share(115_000, &LIMITS) < Share::FULL);
        assert_eq!(breaker.share(130_000, &LIMITS), Share::FULL);
        assert_eq!(breaker.share(99_999, &LIMITS), Share::FULL, "the clock was set back");
    }

    /// What may happen, and when.
    #[derive(Clone, Debug)]
    enum Event {
        Ask { may_probe: bool },
        Fail(usize),
        Succeed(usize),
        Leave(usize),
        Later(UnixMillis),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => any::<bool>().prop_map(|may_probe| Event::Ask { may_probe }),
            4 => any::<usize>().prop_map(Event::Fail),
            1 => any::<usize>().prop_map(Event::Succeed),
            1 => any::<usize>().prop_map(Event::Leave),
            2 => (0..70_000_i64).prop_map(Event::Later),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_there_is_one_probe_and_failures_in_a_row_alone_open(
            events in proptest::collection::vec(event(), 0..200),
        ) {
            let mut breaker = Breaker::default();
            let (mut now, mut in_a_row) = (0, 0);
            let mut tickets: Vec<Ticket> = Vec::new();
            // Probes under way since it was last closed.
            let mut probes = 0;
            for event in events {
                let was_closed = breaker.is_closed();
                let take = |at: usize, tickets: &mut Vec<Ticket>| {
                    (!tickets.is_empty()).then(|| tickets.swap_remove(at % tickets.len()))
                };
                match event {
                    Event::Later(time) => now += time,
                    Event::Ask { may_probe } => {
                        let ticket = breaker.admit(now, may_probe);
                        prop_assert!(!was_closed || ticket == Some(Ticket::Regular));
                        if matches!(ticket, Some(Ticket::Probe(_))) {
                            prop_assert!(may_probe);
                            probes += 1;
                        }
                        prop_assert!(probes <= 1, "two probes at once");
                        tickets.extend(ticket);
                    }
                    Event::Succeed(at) => if take(at, &mut tickets).is_some() {
                        breaker.succeeded(now);
                        prop_assert!(breaker.is_closed());
                        (in_a_row, probes) = (0, 0);
                    },
                    Event::Fail(at) => if let Some(ticket) = take(at, &mut tickets) {
                        in_a_row += u32::from(was_closed);
                        let change = breaker.failed(&ticket, Fault::Unreachable, now, &LIMITS);
                        prop_assert_eq!(was_closed && in_a_row >= LIMITS.failures, matches!(change, Some(Change::Opened { .. })));
                        if matches!(change, Some(Change::Opened { .. })) { in_a_row = 0; }
                        if matches!(change, Some(Change::StaysOpen { .. })) { probes = 0; }
                    },
                    Event::Leave(at) => if let Some(ticket) = take(at, &mut tickets)
                        && breaker.given_back(&ticket, now)
                    {
                        probes = 0;
                    },
                }
                let is_half_open = matches!(breaker.state, State::HalfOpen { .. });
                prop_assert_eq!(probes == 1, is_half_open);
                let next = breaker.next_probe(now, &LIMITS);
                prop_assert_eq!(next.is_none(), breaker.is_closed());
                prop_assert!(next.unwrap_or(0) <= LIMITS.retry_max, "not used again within the longest wait");
                if !breaker.is_closed() && !is_half_open {
                    let mut later = breaker.clone();
                    prop_assert!(later.admit(now + LIMITS.retry_max, true).is_some());
                }
            }
        }
    }
}
