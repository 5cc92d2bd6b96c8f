//! Comparison with a reference simulation: each client by itself, in small time steps, with rates raised together until
//! a limit is reached.

use gupd_plan::{Curve, PlanGroup, Scenario, simulate};
use proptest::prelude::*;

use crate::{MIB, content, group, site};

/// Steps in the time that the rollout takes.
const STEPS: f64 = 3_000.0;

/// Steps by which the plain one may be late or early: it begins and changes at steps, and what it then lacks it may
/// have to get at a tenth of the rate.
const LATE: f64 = 15.0;

struct Client {
    group: usize,
    appears: f64,
    has: f64,
}

/// When each client is done, in order.
fn plainly(scenario: &Scenario, step: f64) -> Vec<f64> {
    let size = scenario.contents[0].bytes;
    let mut clients: Vec<Client> = Vec::new();
    for (index, of) in scenario.groups.iter().enumerate() {
        let places = (0..of.clients).map(|number| (f64::from(number) + 0.5) / f64::from(of.clients));
        let appear = places.filter_map(|place| scenario.appearance.online_time(place));
        clients.extend(appear.map(|appears| Client { group: index, appears, has: 0.0 }));
    }
    let (mut time, mut arrived, mut done) = (0.0, 0.0, Vec::new());
    while done.len() < clients.len() {
        let active: Vec<usize> =
            (0..clients.len()).filter(|i| clients[*i].appears <= time && clients[*i].has < size).collect();
        let line = if active.is_empty() && arrived == 0.0 {
            0.0
        } else {
            scenario.line.min(scenario.wan.rate_at(time))
        };
        let line = line.min((size - arrived) / step);
        let most = |i: usize| {
            let own = scenario
                .client
                .rate_at(time)
                .min(scenario.groups[clients[i].group].client_limit.rate_at(time));
            own.min((arrived - clients[i].has) / step + line)
        };
        let rates =
            raised(scenario, &active.iter().map(|i| (clients[*i].group, most(*i))).collect::<Vec<_>>(), time);
        arrived += line * step;
        time += step;
        for (i, rate) in active.into_iter().zip(rates) {
            clients[i].has += rate * step;
            if clients[i].has > size - 1.0 {
                clients[i].has = size;
                done.push(time);
            }
        }
    }
    done
}

/// Max-min rates of clients, each with its group and its own most.
fn raised(scenario: &Scenario, clients: &[(usize, f64)], time: f64) -> Vec<f64> {
    let mut rates = vec![0.0; clients.len()];
    let mut rising = vec![true; clients.len()];
    let total = scenario.lan_link.min(scenario.lan.rate_at(time));
    while rising.contains(&true) {
        let count = |group: Option<usize>| {
            let of_group = |i: &usize| rising[*i] && group.is_none_or(|group| clients[*i].0 == group);
            (0..clients.len()).filter(of_group).count() as f64
        };
        let used = |group: Option<usize>| -> f64 {
            let of_group = |i: &usize| group.is_none_or(|group| clients[*i].0 == group);
            (0..clients.len()).filter(of_group).map(|i| rates[i]).sum()
        };
        let of_group = |(index, group): (usize, &PlanGroup)| {
            ((group.limit.rate_at(time) - used(Some(index))) / count(Some(index)), Some(index))
        };
        let groups =
            scenario.groups.iter().enumerate().filter(|(index, _)| count(Some(*index)) > 0.0).map(of_group);
        let site = ((total - used(None)) / count(None), None);
        let (shared, full) = groups.chain([site]).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        let left = (0..clients.len()).filter(|i| rising[*i]).map(|i| clients[i].1 - rates[i]);
        let own = left.fold(f64::INFINITY, f64::min);
        for i in (0..clients.len()).filter(|i| rising[*i]).collect::<Vec<_>>() {
            rates[i] += own.min(shared);
            let at_own = clients[i].1 - rates[i] <= 1e-6;
            rising[i] = !at_own && (own < shared || full.is_some_and(|group| group != clients[i].0));
        }
    }
    rates
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn completion_times_agree_with_reference_simulation(
        clients in (1..8_u32, 1..8_u32),
        line in (1.0..10.0_f64, 1.0..10.0_f64),
        lan in 1.0..50.0_f64,
        client in 0.2..20.0_f64,
        group_limits in (0.5..40.0_f64, 0.5..40.0_f64),
        group_client in 0.2..20.0_f64,
        within in 0..200_u32,
    ) {
        let mut scenario = Scenario { groups: vec![group("a", clients.0), group("b", clients.1)], ..site(0) };
        scenario.contents = vec![content("full", 100.0 * MIB, 1.0)];
        scenario.line = line.0 * MIB;
        scenario.wan = Curve::trace(1e9, |t| if t < 20.0 { (f64::INFINITY, Some(20.0)) } else { (line.1 * MIB, None) });
        (scenario.lan, scenario.client) = (Curve::constant(lan * MIB), Curve::constant(client * MIB));
        scenario.groups[0].limit = Curve::constant(group_limits.0 * MIB);
        scenario.groups[1].limit = Curve::constant(group_limits.1 * MIB);
        scenario.groups[1].client_limit = Curve::constant(group_client * MIB);
        scenario.appearance = format!("{}s:100%", within + 1).parse().unwrap();
        let rollout = simulate(&scenario).unwrap();
        let all = clients.0 + clients.1;
        let end = rollout.timeline.current_at(all).unwrap();
        let plainly = plainly(&scenario, end / STEPS);
        for (number, plain) in (1..).zip(&plainly) {
            let planned = rollout.timeline.current_at(number).unwrap();
            prop_assert!((planned - plain).abs() <= end / STEPS * LATE, "{number}: {planned} {plain} of {end}");
        }
    }
}
