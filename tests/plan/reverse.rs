//! Costs of limits, and reverse planning: results meet their deadline as narrowly as possible.

use gupd_plan::{
    Curve, Deadline, GroupLimit, LINE_STEP, LimitKey, LineResult, PlanGroup, SPREAD_STEP, Scenario,
    SpreadResult, compute_costs, simulate,
};

use crate::{HOUR, LAN, MIB, content, group, near, site, time};

#[test]
fn cost_of_a_limit_is_the_rollout_without_it() {
    let mut scenario = site(100);
    (scenario.wan, scenario.lan) = (Curve::constant(MIB / 4.0), Curve::constant(90.0 * MIB));
    scenario.groups[0].spread = HOUR;
    scenario.groups[0].limit = Curve::constant(20.0 * MIB);
    let told = |scenario: &Scenario| -> Vec<(String, f64)> {
        let costs = compute_costs(scenario, &simulate(scenario).unwrap()).unwrap();
        costs
            .iter()
            .map(|cost| (scenario.limit_name(cost.limit), cost.lifted.all_current_at().unwrap()))
            .collect()
    };
    // The line needs 400 s; a spread of an hour hides that, and the group's limit is behind it.
    let [(name, lifted)] = &told(&scenario)[..] else { panic!() };
    assert!(name == "group all: spread" && near(*lifted, 500.0), "{name} {lifted}");
    scenario.groups[0] = PlanGroup { spread: 0.0, limit: Curve::constant(50.0 * MIB), ..group("all", 100) };
    let [(name, lifted)] = &told(&scenario)[..] else { panic!() };
    assert!(name == "wan.limit" && near(*lifted, 200.0), "{name} {lifted}");
    assert_eq!(scenario.limits(), [LimitKey::Wan, LimitKey::Lan, LimitKey::Group(0, GroupLimit::Rate)]);
}

#[test]
fn smallest_line_meets_deadline_and_next_smaller_fails() {
    let mut scenario = Scenario { heartbeat: 300.0, wan: Curve::constant(MIB), ..site(300) };
    scenario.contents = vec![content("delta", 1.5 * MIB, 0.9), content("full", 120.0 * MIB, 0.1)];
    let deadline = Deadline { within: HOUR, share: 1.0, busiest: f64::INFINITY };
    let Ok(LineResult::Smallest(line)) = deadline.smallest_line(&scenario) else { panic!("no line") };
    let with = |line: f64| time(&Scenario { line, wan: Curve::UNLIMITED, ..scenario.clone() });
    assert!(with(line) <= HOUR && with(line - LINE_STEP) > HOUR, "{line}");
    assert!(line < MIB / 10.0 && line > 121.5 * MIB / HOUR, "{line}");
}

#[test]
fn without_sufficient_line_the_blocking_limits_are_named() {
    let mut scenario = Scenario { client: Curve::constant(MIB / 100.0), ..site(10) };
    let deadline = Deadline { within: HOUR, share: 1.0, busiest: f64::INFINITY };
    let LineResult::None { best_time, because, unlimited } = deadline.smallest_line(&scenario).unwrap()
    else {
        panic!()
    };
    assert!(near(best_time.unwrap(), 10_000.0) && because == [LimitKey::Client], "{best_time:?} {because:?}");
    assert!(unlimited.unwrap() < 11.0);
    scenario.groups[0].spread = 2.0 * HOUR;
    let LineResult::None { because, .. } = deadline.smallest_line(&scenario).unwrap() else { panic!() };
    assert_eq!(because, []);
}

#[test]
fn spread_range_is_tight_around_the_deadline() {
    let scenario = Scenario { lan_link: 1e9, line: 1e9, client: Curve::constant(MIB), ..site(400) };
    let calm = Deadline { within: 4.0 * HOUR, share: 1.0, busiest: 40.0 * MIB };
    let Ok(SpreadResult::Between(shortest, longest)) = calm.spreads(&scenario) else { panic!("no spread") };
    let with = |spread: f64| {
        let mut scenario = scenario.clone();
        scenario.groups[0].spread = spread;
        simulate(&scenario).unwrap()
    };
    let busiest = |spread: f64| with(spread).timeline.busiest_mean(LAN, 60.0);
    assert!(busiest(shortest) <= 40.0 * MIB && busiest(shortest - SPREAD_STEP) > 40.0 * MIB);
    let ends = |spread: f64| with(spread).all_current_at().unwrap();
    assert!(ends(longest) <= 4.0 * HOUR && ends(longest + SPREAD_STEP) > 4.0 * HOUR);
    // 400 downloads of 100 s at 1 MiB/s: 40 at once need 1,000 s at the least.
    assert!(shortest > 900.0 && longest > 3.9 * HOUR, "{shortest} {longest}");
    // That a rollout is in time is not to say that it is calm.
    assert!(calm.is_met_by(&scenario, &with(0.0)) && busiest(0.0) > 40.0 * MIB);
    let hasty = Deadline { within: 600.0, ..calm };
    assert!(matches!(hasty.spreads(&scenario), Ok(SpreadResult::None { calm_from: None, .. })));
}
