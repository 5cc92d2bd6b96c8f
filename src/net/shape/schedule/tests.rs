//! Rates, shares and order of granted bytes, in simulated time.

use proptest::prelude::*;

use super::super::bucket::MIN_CAPACITY;
use super::*;

mod owners;

const BURST: Duration = Duration::from_millis(100);
const SECOND: Nanos = 1_000_000_000;

/// Flows that always request more, over one connection or several, and the grants of each.
#[derive(Default)]
struct Run {
    schedule: ByteSchedule,
    flows: Vec<FlowId>,
    /// The flow of each request. A request is repeated as soon as it is granted.
    requests: Vec<usize>,
    now: Nanos,
    granted: Vec<(Nanos, usize, u64)>,
}

impl Run {
    fn limit(&mut self, rate: u64) -> LimitId {
        self.schedule.add_limit(Some(rate), BURST, self.now)
    }

    fn flow(&mut self, path: &[LimitId], connections: usize) -> usize {
        let id = self.schedule.add_flow(path);
        self.flows.push(id);
        self.requests.extend(std::iter::repeat_n(self.flows.len() - 1, connections));
        self.flows.len() - 1
    }

    fn own(&mut self, flow: usize, owner: usize) {
        self.schedule.set_owner(self.flows[flow], Some(address(owner)));
    }

    fn owned(&self, owner: usize, limit: LimitId) -> u64 {
        self.schedule.flows_of(address(owner), limit)
    }

    fn request_all(&mut self) {
        let mut grants = Vec::new();
        for (request, flow) in self.requests.iter().enumerate() {
            self.schedule.enqueue(self.flows[*flow], request, u64::MAX, self.now, &mut grants);
        }
        self.record(grants);
    }

    fn run_until(&mut self, end: Nanos) {
        while let Some(next) = self.schedule.next().filter(|next| *next <= end) {
            self.now = next;
            let mut grants = Vec::new();
            self.schedule.advance(next, &mut grants);
            self.record(grants);
        }
        self.now = end;
    }

    fn record(&mut self, mut grants: Vec<Grant>) {
        while !grants.is_empty() {
            for Grant { request, bytes } in std::mem::take(&mut grants) {
                let flow = self.requests[request];
                self.granted.push((self.now, flow, bytes));
                self.schedule.enqueue(self.flows[flow], request, u64::MAX, self.now, &mut grants);
            }
        }
    }

    /// Bytes of a flow from one time to another.
    fn bytes(&self, of: usize, from: Nanos, to: Nanos) -> u64 {
        let within = |(at, flow, _): &&(Nanos, usize, u64)| *flow == of && (from..to).contains(at);
        self.granted.iter().filter(within).map(|(_, _, bytes)| bytes).sum()
    }

    fn all(&self, from: Nanos, to: Nanos) -> u64 {
        (0..self.flows.len()).map(|flow| self.bytes(flow, from, to)).sum()
    }
}

fn address(owner: usize) -> IpAddr {
    IpAddr::from([10, 0, u8::try_from(owner / 256).unwrap(), u8::try_from(owner % 256).unwrap()])
}

fn assert_near(value: u64, due: f64, share: f64, description: &str) {
    let off = (value as f64 - due).abs() / due;
    assert!(off <= share, "{description}: {value} instead of {due}, {off:.4} off");
}

/// Returns Jain's index: 1 if all have the same.
fn evenness(values: &[u64]) -> f64 {
    let (sum, squares) = values
        .iter()
        .fold((0.0, 0.0), |(sum, squares), value| (sum + *value as f64, squares + (*value as f64).powi(2)));
    sum * sum / (values.len() as f64 * squares)
}

#[test]
fn any_rate_is_kept_over_ten_seconds_and_over_100_ms() {
    for rate in [8 << 10, 100_000, 1 << 20, 12_500_000, 1_250_000_000] {
        for (flows, connections) in [(1, 1), (3, 2), (50, 1)] {
            let mut run = Run::default();
            let limit = run.limit(rate);
            for _ in 0..flows {
                run.flow(&[limit], connections);
            }
            run.request_all();
            // The first 100 ms have the bytes that idle time saved.
            run.run_until(12 * SECOND);
            for from in [SECOND / 10, SECOND, 2 * SECOND - 77] {
                let description = format!("{rate} B/s, {flows} flows");
                assert_near(run.all(from, from + 10 * SECOND), 10.0 * rate as f64, 0.02, &description);
                let tenth = run.all(from, from + SECOND / 10);
                let off = tenth.abs_diff(rate / 10);
                assert!(off <= (rate / 100).max(16 << 10), "{description}: {tenth} in 100 ms");
            }
        }
    }
}

#[test]
fn clients_share_evenly_with_any_number_of_connections() {
    for rate in [1_000_000, 125_000_000] {
        let mut run = Run::default();
        let limit = run.limit(rate);
        for client in 0..500 {
            run.flow(&[limit], if client % 7 == 0 { 16 } else { 1 });
        }
        run.request_all();
        run.run_until(11 * SECOND);
        let shares: Vec<_> = (0..500).map(|client| run.bytes(client, SECOND, 11 * SECOND)).collect();
        assert!(evenness(&shares) > 0.998, "{}", evenness(&shares));
        let due = rate / 50;
        assert!(shares.iter().all(|share| share.abs_diff(due) <= MIN_CAPACITY.max(due / 50)), "{shares:?}");
    }
}

#[test]
fn bytes_held_back_by_a_narrow_limit_go_to_others() {
    let mut run = Run::default();
    let total = run.limit(1_000_000);
    let group = run.limit(200_000);
    let own = run.limit(10_000);
    let narrow = run.flow(&[own, group, total], 1);
    let grouped = [run.flow(&[group, total], 1), run.flow(&[group, total], 4)];
    let free = [run.flow(&[total], 1), run.flow(&[total], 3)];
    run.request_all();
    run.run_until(11 * SECOND);
    let rate = |flow| run.bytes(flow, SECOND, 11 * SECOND) / 10;
    assert_near(rate(narrow), 10_000.0, 0.02, "its own limit");
    for flow in grouped {
        assert_near(rate(flow), 95_000.0, 0.02, "half of the group's rest");
    }
    for flow in free {
        assert_near(rate(flow), 400_000.0, 0.02, "half of the rest");
    }
}

#[test]
fn urgent_flows_go_first_and_others_do_not_starve() {
    let mut run = Run::default();
    let line = run.limit(1_000_000);
    let (waited, prefetch) = (run.flow(&[line], 1), run.flow(&[line], 1));
    run.schedule.set_priority(run.flows[prefetch], Priority::Prefetch);
    run.request_all();
    run.run_until(11 * SECOND);
    assert_near(run.bytes(prefetch, SECOND, 11 * SECOND), 500_000.0, 0.05, "a twentieth");
    run.schedule.set_priority(run.flows[waited], Priority::Repair);
    run.run_until(22 * SECOND);
    assert_near(run.bytes(prefetch, 12 * SECOND, 22 * SECOND), 9_500_000.0, 0.02, "the more urgent one now");
    assert_near(run.bytes(waited, 12 * SECOND, 22 * SECOND), 500_000.0, 0.05, "a twentieth");
}

#[test]
fn changed_rate_applies_at_once() {
    let mut run = Run::default();
    let line = run.limit(10_000_000);
    run.flow(&[line], 3);
    run.request_all();
    let mut grants = Vec::new();
    for (end, rate) in [(SECOND, Some(100_000)), (3 * SECOND, Some(5_000_000)), (5 * SECOND, Some(8 << 10))] {
        run.run_until(end);
        run.schedule.set_rate(line, rate, BURST, end, &mut grants);
        let grants = std::mem::take(&mut grants);
        run.record(grants);
    }
    run.run_until(25 * SECOND);
    let tenth = SECOND / 10;
    assert_near(run.all(SECOND + 2 * tenth, SECOND + 12 * tenth), 100_000.0, 0.05, "down");
    assert_near(run.all(3 * SECOND + 2 * tenth, 3 * SECOND + 12 * tenth), 5_000_000.0, 0.02, "up");
    assert_near(run.all(5 * SECOND + 2 * tenth, 15 * SECOND + 2 * tenth), 81_920.0, 0.02, "down again");
}

#[test]
fn cancelled_request_returns_its_bytes_to_others() {
    let mut run = Run::default();
    let line = run.limit(100_000);
    let flows = [run.flow(&[line], 1), run.flow(&[line], 1)];
    run.request_all();
    run.run_until(SECOND);
    let mut grants = Vec::new();
    // The flow is removed while its quantum is at the head.
    run.schedule.cancel(run.flows[flows[0]], 0, run.now, &mut grants);
    run.schedule.remove_flow(run.flows[flows[0]], run.now);
    run.record(grants);
    run.run_until(12 * SECOND);
    assert_near(run.bytes(flows[1], 2 * SECOND, 12 * SECOND), 1_000_000.0, 0.02, "all of it");
    assert_eq!(run.bytes(flows[0], SECOND, 12 * SECOND), 0);
    run.schedule.put_back(run.flows[flows[1]], 5_000);
    let more = run.all(0, 12 * SECOND);
    run.run_until(13 * SECOND);
    assert_near(run.all(0, 13 * SECOND) - more, 105_000.0, 0.02, "and what was given back");
}

#[test]
fn removed_limit_grants_all_requests() {
    let mut run = Run::default();
    let line = run.limit(1 << 10);
    let flow = run.schedule.add_flow(&[line]);
    let mut grants = Vec::new();
    (0..10).for_each(|request| run.schedule.enqueue(flow, request, 500_000, 0, &mut grants));
    assert!(grants.len() < 10);
    run.schedule.set_rate(line, None, BURST, 1, &mut grants);
    assert_eq!(grants.len(), 10);
    assert_eq!(run.schedule.next(), None);
}

/// Asserts that flows get what water filling gives them. `groups` are numbers of flows with the share of the line that
/// they have together, in sixtieths. `own` are the flows' own limits, in hundredths of the line.
fn assert_fair(total: u64, groups: &[(usize, u64)], own: &[u64]) {
    let rates: Vec<u64> = groups.iter().map(|(_, share)| total * share / 60).collect();
    let members = groups
        .iter()
        .enumerate()
        .flat_map(|(index, (members, _))| (0..*members).map(move |member| (index, member)));
    let members: Vec<_> = members.collect();
    let own_rate =
        |(index, member): &(usize, usize)| (*index, total * own[(index * 7 + member) % own.len()] / 100);
    let flows: Vec<_> = members.iter().map(own_rate).collect();
    let mut run = Run::default();
    let line = run.limit(total);
    let limits: Vec<_> = rates.iter().map(|rate| run.limit(*rate)).collect();
    for ((_, member), (index, own)) in members.iter().zip(&flows) {
        let limit = run.limit(*own);
        run.flow(&[limit, limits[*index], line], 1 + member % 3);
    }
    run.request_all();
    run.run_until(12 * SECOND);
    for (flow, due) in fill_up(total, &rates, &flows).into_iter().enumerate() {
        let had = run.bytes(flow, 2 * SECOND, 12 * SECOND) as f64 / 10.0;
        // One quantum more or less at the ends of the ten seconds.
        let quantum = (total / 125).min(MAX_QUANTUM) as f64 / 10.0;
        assert!((had - due).abs() <= due * 0.03 + quantum, "flow {flow} had {had} of {due}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn shares_are_max_min_fair(
        total in 200_000..20_000_000u64,
        groups in proptest::collection::vec((1..6usize, 1..100u64), 1..5),
        own in proptest::collection::vec(1..100u64, 20),
    ) {
        assert_fair(total, &groups, &own);
    }
}

/// Narrow flows that wait at wide limits for longer than a quantum of their own takes.
#[test]
fn flows_that_wait_at_several_limits_get_their_share() {
    for (total, groups, own) in [
        (
            6_521_333,
            &[(1, 65), (2, 26)][..],
            [81, 40, 52, 40, 19, 67, 88, 16, 74, 16, 94, 6, 78, 7, 56, 72, 55, 39, 67, 45],
        ),
        (
            5_288_258,
            &[(1, 52), (3, 34)],
            [62, 83, 20, 15, 73, 94, 15, 85, 22, 67, 61, 57, 14, 81, 82, 55, 85, 63, 61, 9],
        ),
        (
            12_371_938,
            &[(1, 57), (2, 29)],
            [73, 47, 17, 73, 94, 46, 27, 15, 72, 33, 43, 4, 59, 16, 62, 20, 72, 17, 40, 24],
        ),
        (
            12_217_771,
            &[(4, 59), (3, 77), (2, 27), (4, 5)],
            [98, 70, 1, 32, 27, 62, 99, 49, 71, 16, 97, 55, 92, 70, 94, 68, 46, 75, 73, 69],
        ),
        (
            17_132_225,
            &[(1, 51), (3, 35)],
            [63, 81, 52, 72, 44, 64, 44, 46, 88, 20, 62, 29, 31, 62, 42, 37, 32, 41, 35, 27],
        ),
        (
            5_996_019,
            &[(4, 8), (5, 42), (4, 57), (3, 40)],
            [94, 64, 2, 84, 98, 25, 66, 77, 70, 12, 49, 20, 64, 69, 38, 75, 11, 87, 53, 95],
        ),
    ] {
        assert_fair(total, groups, &own);
    }
}

/// Water filling: all shares rise alike until a limit on their path is used up.
fn fill_up(total: u64, groups: &[u64], flows: &[(usize, u64)]) -> Vec<f64> {
    let mut share = vec![0.0; flows.len()];
    let mut rising: Vec<usize> = (0..flows.len()).collect();
    while !rising.is_empty() {
        let used = |members: &dyn Fn(usize) -> bool| -> (f64, f64) {
            let sum = (0..flows.len()).filter(|flow| members(*flow)).map(|flow| share[flow]).sum();
            (sum, rising.iter().filter(|flow| members(**flow)).count() as f64)
        };
        let room = |limit: f64, (sum, count): (f64, f64)| (limit - sum) / count;
        let mut step = room(total as f64, used(&|_| true));
        for flow in &rising {
            let group = flows[*flow].0;
            step = step.min(room(groups[group] as f64, used(&|other| flows[other].0 == group)));
            step = step.min(flows[*flow].1 as f64 - share[*flow]);
        }
        rising.iter().for_each(|flow| share[*flow] += step);
        let full = |limit: f64, sum: f64| limit - sum < 1e-6 * limit;
        let sums: Vec<f64> = (0..groups.len())
            .map(|group| {
                (0..flows.len()).filter(|flow| flows[*flow].0 == group).map(|flow| share[flow]).sum()
            })
            .collect();
        let all: f64 = sums.iter().sum();
        rising.retain(|flow| {
            let (group, own) = flows[*flow];
            !full(own as f64, share[*flow])
                && !full(groups[group] as f64, sums[group])
                && !full(total as f64, all)
        });
    }
    share
}

#[test]
fn granting_many_requests_at_once_needs_little_stack() {
    const CONNECTIONS: usize = 1 << 16;
    // One client with all of them, as behind a translated address, and clients with two each; a limit that is
    // removed, and one that is raised.
    for (each, rate) in [(CONNECTIONS, None), (CONNECTIONS, Some(u64::MAX)), (2, None), (2, Some(u64::MAX))] {
        let mut run = Run::default();
        let limit = run.limit(1 << 10);
        let mut grants = Vec::new();
        for client in 0..CONNECTIONS / each {
            let flow = run.flow(&[limit], each);
            for request in client * each..(client + 1) * each {
                run.schedule.enqueue(run.flows[flow], request, u64::MAX, 0, &mut grants);
            }
        }
        run.schedule.set_rate(limit, rate, BURST, 0, &mut grants);
        run.schedule.advance(SECOND, &mut grants);
        assert_eq!(grants.len(), CONNECTIONS);
    }
}

proptest! {
    #[test]
    fn every_request_is_granted_once_in_any_sequence(
        steps in proptest::collection::vec((0..8u8, 0..6usize, 0..4u64, 0..200_000_000u64), 1..200),
    ) {
        let (mut schedule, mut now, mut grants) = (ByteSchedule::default(), 0, Vec::new());
        let rates = [None, Some(1 << 10), Some(100_000), Some(50_000_000)];
        let limits: Vec<_> = (0..4).map(|limit| schedule.add_limit(rates[limit], BURST, 0)).collect();
        let add_flow = |schedule: &mut ByteSchedule, number: usize| {
            schedule.add_flow(&[limits[number % 2], limits[2], limits[3]])
        };
        let mut flows: Vec<_> = (0..6).map(|number| add_flow(&mut schedule, number)).collect();
        let (mut requests, mut next) = (Vec::new(), 0);
        for (description, which, value, passes) in steps {
            match description {
                0 | 1 => {
                    requests.push((next, which));
                    schedule.enqueue(flows[which], next, 1 << (5 * value), now, &mut grants);
                    next += 1;
                }
                2 if !requests.is_empty() => {
                    let (request, flow) = requests.remove(which % requests.len());
                    schedule.cancel(flows[flow], request, now, &mut grants);
                }
                3 => schedule.set_rate(limits[which % 4], rates[value as usize], BURST, now, &mut grants),
                4 => {
                    let priority = [Priority::ClientDelta, Priority::Client, Priority::Repair][which % 3];
                    schedule.set_priority(flows[which], priority);
                }
                6 => schedule.set_owner(flows[which], (value > 0).then(|| address(value as usize))),
                5 if value == 0 => {
                    schedule.remove_flow(flows[which], now);
                    requests.retain(|(_, flow)| *flow != which);
                    flows[which] = add_flow(&mut schedule, which);
                }
                _ => schedule.put_back(flows[which], value * 1_000),
            }
            now += passes;
            schedule.advance(now, &mut grants);
            requests.retain(|(request, _)| !grants.iter().any(|grant| grant.request == *request));
        }
        while let Some(at) = schedule.next() {
            now = now.max(at);
            schedule.advance(now, &mut grants);
        }
        requests.retain(|(request, _)| !grants.iter().any(|grant| grant.request == *request));
        prop_assert_eq!(requests, []);
        let mut granted: Vec<_> = grants.iter().map(|grant| grant.request).collect();
        granted.sort_unstable();
        granted.dedup();
        prop_assert_eq!(granted.len(), grants.len(), "each once");
    }
}
