//! Tests of the circuit breaker: opening, probing and waiting, also over random events.

use proptest::prelude::*;

use super::*;

const SETTINGS: BreakerSettings =
    BreakerSettings { failures: 3, retry: 5_000, retry_max: 60_000, slow_start: 30_000 };

fn open_at(now: UnixMillis) -> Breaker {
    let mut breaker = Breaker::default();
    for failures in 1..=3 {
        let ticket = breaker.admit(now, RequestKind::Regular).unwrap();
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
        assert_eq!(breaker.admit(now + wait - 1, RequestKind::Probing), None);
        now += wait;
        assert_eq!(breaker.admit(now, RequestKind::Regular), None, "a request that may not probe");
        let probe = breaker.admit(now, RequestKind::Probing).unwrap();
        assert_eq!(breaker.admit(now, RequestKind::Probing), None, "a second probe");
        breaker.record_failure(&probe, FailureKind::Invalid, now, &SETTINGS);
    }
    let probe = breaker.admit(now + 60_000, RequestKind::Probing).unwrap();
    assert_eq!(breaker.record_success(now + 60_000), Some(Transition::Closed));
    // The next opening starts with the shortest wait. A late report of the probe changes nothing.
    assert!(!breaker.release(&probe, now));
    assert_eq!(open_at(0).next_probe(0, &SETTINGS), Some(5_000));
}

#[test]
fn dropped_probe_lets_another_request_probe_at_once() {
    let mut breaker = open_at(0);
    let lost = breaker.admit(5_000, RequestKind::Probing).unwrap();
    assert!(breaker.release(&lost, 6_000));
    let next = breaker.admit(6_000, RequestKind::Probing).unwrap();
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
    assert!(breaker.last_failure() == Some(FailureKind::Invalid) && !breaker.is_last_resort(0, &SETTINGS));
    breaker.record_failure(&Ticket::Regular, FailureKind::Unreachable, 0, &SETTINGS);
    assert!(breaker.is_last_resort(4_999, &SETTINGS) && !breaker.is_last_resort(5_000, &SETTINGS));
    breaker.record_success(0);
    assert!(breaker.last_failure().is_none() && !breaker.is_last_resort(0, &SETTINGS));
}

fn suspect(breaker: &mut Breaker, path: &str, client: u8, settings: &BreakerSettings) -> Option<Transition> {
    let at = PathFault::new(path, Some([10, 0, 0, client].into()));
    breaker.record_suspicion(&Ticket::Regular, FailureKind::Invalid, at, 0, settings)
}

#[test]
fn faults_of_one_path_or_client_open_only_with_a_failed_check() {
    let mut breaker = Breaker::default();
    for number in 0..100 {
        assert_eq!(suspect(&mut breaker, "/bad/page", number, &SETTINGS), None);
        assert_eq!(suspect(&mut breaker, &format!("/{number}"), 0, &SETTINGS), None);
    }
    // A lost connection is one failure, however many suspicions precede it.
    breaker.record_failure(&Ticket::Regular, FailureKind::Unreachable, 0, &SETTINGS);
    assert!(breaker.is_closed() && breaker.last_failure().is_some());
    let check = breaker.admit(0, RequestKind::Check).unwrap();
    let transition = breaker.record_failure(&check, FailureKind::Silent, 0, &SETTINGS);
    assert_eq!(transition, Some(Transition::Opened { until: 5_000 }));
}

#[test]
fn independent_faults_open_unless_a_success_comes_between() {
    let mut breaker = Breaker::default();
    assert_eq!(suspect(&mut breaker, "/a/1", 1, &SETTINGS), None);
    assert_eq!(suspect(&mut breaker, "/b/1", 2, &SETTINGS), None);
    breaker.record_success(0);
    assert_eq!(suspect(&mut breaker, "/c/1", 3, &SETTINGS), None);
    assert_eq!(suspect(&mut breaker, "/d/1", 4, &SETTINGS), None);
    assert_eq!(suspect(&mut breaker, "/e/1", 5, &SETTINGS), Some(Transition::Opened { until: 5_000 }));
    // A setting of one failure still needs two faults.
    let always = BreakerSettings { failures: 1, ..SETTINGS };
    let mut breaker = Breaker::default();
    assert_eq!(suspect(&mut breaker, "/a/1", 1, &always), None);
    assert!(suspect(&mut breaker, "/b/1", 2, &always).is_some());
}

#[test]
fn clock_set_back_does_not_block_requests() {
    let mut breaker = open_at(1_000_000_000);
    assert_eq!(breaker.next_probe(0, &SETTINGS), Some(0));
    assert!(breaker.admit(0, RequestKind::Probing).is_some());
    let mut missed = Breaker::default();
    missed.record_failure(&Ticket::Regular, FailureKind::Unreachable, 1_000_000_000, &SETTINGS);
    assert!(!missed.is_last_resort(0, &SETTINGS));
}

#[test]
fn only_a_recovered_upstream_starts_slowly() {
    let mut breaker = Breaker::default();
    assert_eq!(breaker.share(0, &SETTINGS), SlowStartWeight::FULL);
    breaker = open_at(0);
    breaker.record_success(100_000);
    assert!(breaker.share(100_000, &SETTINGS) < breaker.share(115_000, &SETTINGS));
    assert!(breaker.share(115_000, &SETTINGS) < SlowStartWeight::FULL);
    assert_eq!(breaker.share(130_000, &SETTINGS), SlowStartWeight::FULL);
    assert_eq!(breaker.share(99_999, &SETTINGS), SlowStartWeight::FULL, "the clock was set back");
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
                    let kind = if may_probe { RequestKind::Probing } else { RequestKind::Regular };
                    let ticket = breaker.admit(now, kind);
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
                prop_assert!(later.admit(now + SETTINGS.retry_max, RequestKind::Probing).is_some());
            }
        }
    }
}
