//! Shares of owners, which are clients with any number of transfers.

use super::*;

#[test]
fn delta_goes_before_full_sets_of_others() {
    let mut run = Run::default();
    let line = run.limit(1_000_000);
    let full: Vec<_> = (0..10).map(|_| run.flow(&[line], 1)).collect();
    let delta = run.flow(&[line], 1);
    for (owner, flow) in full.iter().chain([&delta]).enumerate() {
        run.own(*flow, owner);
    }
    run.schedule.set_priority(run.flows[delta], Priority::ClientDelta);
    run.request_all();
    run.run_until(2 * SECOND);
    assert_near(run.bytes(delta, 0, 2 * SECOND), 1_900_000.0, 0.06, "nearly all of the line");
    // What is larger than deltas is not one.
    run.run_until(22 * SECOND);
    let later = run.bytes(delta, 12 * SECOND, 22 * SECOND);
    assert_near(later, 909_000.0, 0.1, "an eleventh");
}

#[test]
fn owner_with_many_flows_has_one_share() {
    // The greedy owner's flows, their priority, and their narrower limit if any.
    for (flows, priority, narrow) in [
        (60, Priority::Client, None),
        (60, Priority::ClientDelta, None),
        (500, Priority::ClientDelta, None),
        (60, Priority::Client, Some(1_500_000)),
    ] {
        let mut run = Run::default();
        let line = run.limit(2_000_000);
        let narrow = narrow.map(|rate| run.limit(rate));
        for _ in 0..flows {
            let path: Vec<_> = narrow.into_iter().chain([line]).collect();
            let flow = run.flow(&path, 1);
            run.own(flow, 0);
            run.schedule.set_priority(run.flows[flow], priority);
        }
        let honest = run.flow(&[line], 1);
        run.own(honest, 1);
        run.request_all();
        run.run_until(14 * SECOND);
        let description = format!("{flows} {priority:?} {narrow:?}");
        assert_near(run.bytes(honest, 4 * SECOND, 14 * SECOND), 10_000_000.0, 0.03, &description);
        assert_near(run.all(4 * SECOND, 14 * SECOND), 20_000_000.0, 0.02, &description);
    }
}

#[test]
fn flow_follows_its_owner_and_may_change_it() {
    let mut run = Run::default();
    let line = run.limit(1_000_000);
    let flows: Vec<_> = (0..10).map(|_| run.flow(&[line], 1)).collect();
    let shared = flows[0];
    flows.iter().for_each(|flow| run.own(*flow, 0));
    let other = run.flow(&[line], 1);
    run.own(other, 1);
    run.request_all();
    run.run_until(11 * SECOND);
    assert_near(run.bytes(shared, SECOND, 11 * SECOND), 500_000.0, 0.05, "a tenth of its owner's half");
    run.own(shared, 2);
    run.run_until(22 * SECOND);
    assert_near(run.bytes(shared, 12 * SECOND, 22 * SECOND), 3_333_333.0, 0.03, "a third");
    assert_eq!((run.owned(0, line), run.owned(1, line), run.owned(2, line)), (9, 1, 1));
}

#[test]
fn short_flows_in_a_row_gain_no_second_lead() {
    let mut run = Run::default();
    let line = run.limit(1_000_000);
    let full = run.flow(&[line], 1);
    run.own(full, 0);
    run.request_all();
    for second in 1..=40 {
        // The one before ends when the next begins, and has been a delta like any other.
        let delta = run.flow(&[line], 1);
        run.own(delta, 1);
        run.schedule.set_priority(run.flows[delta], Priority::ClientDelta);
        let request = run.requests.len() - 1;
        let mut grants = Vec::new();
        run.schedule.enqueue(run.flows[delta], request, u64::MAX, run.now, &mut grants);
        run.record(grants);
        run.run_until(second * SECOND);
        let mut grants = Vec::new();
        run.schedule.cancel(run.flows[delta], request, run.now, &mut grants);
        run.schedule.remove_flow(run.flows[delta], run.now);
        run.record(grants);
    }
    assert_near(run.bytes(full, 10 * SECOND, 40 * SECOND), 15_000_000.0, 0.1, "half");
}

/// Asserts that owners get what water filling gives them, and each flow its part of that. `owners` have the narrower
/// limits of their flows, in hundredths of the line.
fn assert_fair_among_owners(total: u64, owners: &[Vec<u64>]) {
    let mut run = Run::default();
    let line = run.limit(total);
    for (owner, narrower) in owners.iter().enumerate() {
        for rate in narrower {
            let limit = run.limit(total * rate / 100);
            let flow = run.flow(&[limit, line], 1);
            run.own(flow, owner);
        }
    }
    run.request_all();
    run.run_until(12 * SECOND);
    let rates = |narrower: &Vec<u64>| narrower.iter().map(|rate| total * rate / 100).collect::<Vec<_>>();
    let sums: Vec<_> = owners.iter().map(|narrower| rates(narrower).iter().sum()).collect();
    let mut flow = 0;
    for (narrower, share) in owners.iter().zip(water_level(total as f64, &sums)) {
        for due in water_level(share, &rates(narrower)) {
            let had = run.bytes(flow, 2 * SECOND, 12 * SECOND) as f64 / 10.0;
            let quantum = (total / 125).min(MAX_QUANTUM) as f64 / 10.0;
            assert!((had - due).abs() <= due * 0.04 + quantum, "flow {flow} had {had} of {due}: {owners:?}");
            flow += 1;
        }
    }
}

/// Shares of a total that rise alike, each up to its own limit.
fn water_level(total: f64, limits: &[u64]) -> Vec<f64> {
    let mut order: Vec<_> = limits.iter().enumerate().collect();
    order.sort_by_key(|(_, limit)| **limit);
    let (mut left, mut shares) = (total, vec![0.0; limits.len()]);
    for (done, (index, limit)) in order.iter().enumerate() {
        shares[*index] = (left / (limits.len() - done) as f64).min(**limit as f64);
        left -= shares[*index];
    }
    shares
}

#[test]
fn small_quanta_do_not_wait_for_large_ones() {
    // The first owner has three flows and therefore smaller quanta than the second; together they ask for 102 %.
    assert_fair_among_owners(479_625, &[vec![2, 2, 41], vec![45, 12]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn owners_shares_are_max_min_fair(
        total in 200_000..20_000_000u64,
        owners in proptest::collection::vec(proptest::collection::vec(2..100u64, 1..8), 1..6),
    ) {
        assert_fair_among_owners(total, &owners);
    }
}
