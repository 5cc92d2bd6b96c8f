//! Fleets: bytes are conserved, lines hold, a wider line slows nothing, and a fleet of one site is that site.

use gupd_plan::{
    Bottleneck, Curve, PlanFleet, PlanTier, PlannedFleet, Region, Scenario, SharedLines, SiteClass,
    TierScope, simulate,
};
use proptest::prelude::*;

use crate::{LAN, MIB, WAN, content, near, site};

/// Rounding of sums.
const ROUNDING: f64 = 1e-6;

fn fleet(manager_line: f64, classes: Vec<SiteClass>) -> PlanFleet {
    let region = |name: &str, line| Region { name: name.to_owned(), line };
    PlanFleet {
        horizon: 1e7,
        manager_line,
        regions: vec![region("north", 3.0 * MIB), region("south", 1e12)],
        classes,
    }
}

fn class(sites: u32, clients: u32, line: f64, region: Option<usize>) -> SiteClass {
    SiteClass { scenario: Scenario { line, horizon: 1e7, ..site(clients) }, region, sites }
}

fn run(fleet: &PlanFleet, tier: PlanTier) -> (SharedLines, PlannedFleet) {
    let lines = fleet.share_lines(tier);
    let planned = fleet.simulate(&lines).unwrap();
    (lines, planned)
}

prop_compose! {
    fn classes()(sites in 1..20_u32, clients in 1..30_u32, line in 0.05..20.0_f64, region in prop::option::of(0..2_usize),
                 limits in prop::option::of((0.05..20.0_f64, 30.0..3_000.0_f64)), heartbeat in prop_oneof![Just(0.0), 1.0..400.0_f64],
                 spread in prop_oneof![Just(0.0), 1.0..4_000.0_f64]) -> SiteClass {
        let mut class = class(sites, clients, line * MIB, region);
        class.scenario.heartbeat = heartbeat;
        class.scenario.groups[0].spread = spread;
        if let Some((rate, until)) = limits {
            class.scenario.wan = Curve::trace(1e7, |t| if t < until { (rate * MIB, Some(until)) } else { (2.0 * rate * MIB, None) });
        }
        class
    }
}

fn tiers() -> impl Strategy<Value = PlanTier> {
    let scopes = [TierScope::Fleet, TierScope::Region];
    let with = |scope| [PlanTier::OnRequest(scope), PlanTier::FilledFirst(scope)];
    prop::sample::select(scopes.into_iter().flat_map(with).chain([PlanTier::None]).collect::<Vec<_>>())
}

/// Gives every site a delta and a full set.
fn with_delta(fleet: &mut PlanFleet, share: f64) {
    for class in &mut fleet.classes {
        class.scenario.contents =
            vec![content("delta", 2.0 * MIB, share), content("full", 30.0 * MIB, 1.0 - share)];
    }
}

fn bytes_of(fleet: &PlanFleet, lines: &SharedLines) -> f64 {
    fleet.classes.iter().zip(&lines.sites).map(|(class, site)| f64::from(class.sites) * site.bytes).sum()
}

fn is_at_most(value: f64, limit: f64) -> bool {
    value <= limit * (1.0 + ROUNDING)
}

fn is_no_later(a: Option<f64>, b: Option<f64>) -> bool {
    a.unwrap_or(f64::INFINITY) <= b.unwrap_or(f64::INFINITY) * (1.0 + ROUNDING) + ROUNDING
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fleet_conserves_bytes_and_keeps_to_lines(classes in prop::collection::vec(classes(), 1..6), manager in 0.1..50.0_f64, share in 0.0..1.0_f64, tier in tiers()) {
        let mut fleet = fleet(manager * MIB, classes);
        with_delta(&mut fleet, share);
        let (lines, planned) = run(&fleet, tier);
        for point in lines.timeline.moments() {
            prop_assert!(is_at_most(point.wan, fleet.manager_line), "{point:?}");
        }
        for (region, used) in fleet.regions.iter().zip(&lines.regions) {
            prop_assert!(is_at_most(used.peak, region.line) && is_at_most(used.bytes, used.peak * used.busy));
        }
        // What sites received was sent by the manager or a tier; a tier that is filled first was sent one copy more.
        let (delta, full) = (fleet.classes[0].scenario.contents[0].bytes, fleet.classes[0].scenario.contents[1].bytes);
        let received = bytes_of(&fleet, &lines);
        let fillers = lines.manager_bytes + lines.tier_bytes - received;
        match tier {
            PlanTier::FilledFirst(_) => prop_assert!((-1.0..=2.0 * (delta + full) + 1.0).contains(&fillers), "{fillers}"),
            _ => prop_assert!(fillers.abs() < 1.0, "{fillers}"),
        }
        prop_assert!(near(lines.timeline.total(WAN), lines.manager_bytes));
        prop_assert!(near(lines.timeline.total(LAN), lines.tier_bytes));
        for (class, (arrival, site)) in fleet.classes.iter().zip(lines.sites.iter().zip(&planned.sites)) {
            // No site has more than each object once, and no site's line carries more than its limits.
            let alone = simulate(&class.scenario).unwrap();
            prop_assert!((arrival.bytes - alone.wan_bytes).abs() < 1.0, "{} {}", arrival.bytes, alone.wan_bytes);
            prop_assert!(is_at_most(arrival.bytes, class.scenario.line * arrival.busy));
            prop_assert!(is_no_later(arrival.complete_at, site.finished_at), "{arrival:?} {site:?}");
        }
        prop_assert_eq!((planned.appeared, planned.current), (planned.clients, planned.clients));
        let downloads = planned.lan_bytes / delta;
        prop_assert!((downloads - downloads.round()).abs() < 1e-3, "{downloads}");
        prop_assert!(is_no_later(planned.site_marks[0], planned.site_marks[3]) && planned.site_marks[3].is_some());
        prop_assert!(is_no_later(planned.client_marks[3], planned.site_marks[3]));
        prop_assert_eq!(run(&fleet, tier), (lines, planned));
    }

    #[test]
    fn wider_manager_line_delays_no_site(classes in prop::collection::vec(classes(), 1..6), manager in 0.1..50.0_f64, wider in 1.0..10.0_f64, tier in tiers()) {
        let narrow = fleet(manager * MIB, classes);
        let wide = PlanFleet { manager_line: manager * wider * MIB, ..narrow.clone() };
        let ((narrow_lines, narrow), (wide_lines, wide)) = (run(&narrow, tier), run(&wide, tier));
        for (narrow, wide) in narrow_lines.sites.iter().zip(&wide_lines.sites) {
            prop_assert!(is_no_later(wide.complete_at, narrow.complete_at), "{wide:?} {narrow:?}");
        }
        for (narrow, wide) in narrow.sites.iter().zip(&wide.sites) {
            prop_assert!(is_no_later(wide.finished_at, narrow.finished_at), "{wide:?} {narrow:?}");
        }
    }

    #[test]
    fn further_site_speeds_up_no_other(classes in prop::collection::vec(classes(), 2..6), manager in 0.1..50.0_f64) {
        let more = fleet(manager * MIB, classes);
        let mut fewer = more.clone();
        fewer.classes.pop();
        let (more, fewer) = (more.share_lines(PlanTier::None), fewer.share_lines(PlanTier::None));
        for (fewer, more) in fewer.sites.iter().zip(&more.sites) {
            prop_assert!(is_no_later(fewer.complete_at, more.complete_at), "{fewer:?} {more:?}");
        }
    }

    #[test]
    fn equal_sites_are_planned_as_one_class(one in classes(), other in classes(), manager in 0.1..50.0_f64) {
        let merged = fleet(manager * MIB, vec![one.clone(), other.clone()]);
        let single = |class: &SiteClass| vec![SiteClass { sites: 1, ..class.clone() }; class.sites as usize];
        let split = fleet(manager * MIB, [single(&one), single(&other)].concat());
        let ((merged_lines, merged), (split_lines, split)) = (run(&merged, PlanTier::None), run(&split, PlanTier::None));
        prop_assert!(near(merged_lines.manager_bytes, split_lines.manager_bytes));
        for (a, b) in merged.site_marks.iter().chain(&merged.client_marks).zip(split.site_marks.iter().chain(&split.client_marks)) {
            prop_assert!(is_no_later(*a, *b) && is_no_later(*b, *a), "{merged:?} {split:?}");
        }
    }

    #[test]
    fn fleet_of_one_site_is_planned_as_the_site(class in classes()) {
        let fleet = fleet(1e12, vec![SiteClass { sites: 1, region: None, ..class }]);
        let scenario = &fleet.classes[0].scenario;
        let alone = simulate(scenario).unwrap();
        let (lines, planned) = run(&fleet, PlanTier::None);
        prop_assert!(near(lines.manager_bytes, alone.wan_bytes) && near(planned.lan_bytes, alone.lan_bytes));
        // Where the rate doubles within a part, the part has its mean.
        let parts = lines.sites[0].busy * 3.0 / 64.0;
        for (share, mark) in gupd_plan::MARKS.into_iter().zip(planned.client_marks) {
            let (site, fleet) = (alone.current_at(scenario, share).unwrap(), mark.unwrap());
            prop_assert!((site - fleet).abs() <= parts, "{site} {fleet} {parts}");
        }
    }
}

#[test]
fn shared_lines_are_divided_and_bottlenecks_named() {
    // 100 MiB each. Two sites in the north share 3 MiB/s; three others have lines of 10 MiB/s and the rest of 12 MiB/s.
    let fleet = fleet(
        12.0 * MIB,
        vec![class(2, 1, 10.0 * MIB, Some(0)), class(2, 1, 10.0 * MIB, Some(1)), class(1, 1, MIB, None)],
    );
    let (lines, planned) = run(&fleet, PlanTier::None);
    assert!(near(lines.timeline.peak(WAN), 12.0 * MIB) && near(lines.regions[0].peak, 3.0 * MIB));
    let ends: Vec<f64> = lines.sites.iter().map(|site| site.complete_at.unwrap()).collect();
    assert!(near(ends[0], 200.0 / 3.0) && near(ends[1], 25.0) && near(ends[2], 100.0), "{ends:?}");
    let causes: Vec<Bottleneck> = planned.sites.iter().map(|site| site.bottleneck).collect();
    assert_eq!(causes, [Bottleneck::Region, Bottleneck::Manager, Bottleneck::Line]);
    assert!(near(lines.manager_bytes, 500.0 * MIB) && near(lines.regions[1].bytes, 200.0 * MIB));
}

#[test]
fn tier_sends_what_sites_request_after_its_fill() {
    let mut fleet =
        fleet(10.0 * MIB, vec![class(1, 1, 10.0 * MIB, Some(0)), class(9, 1, 5.0 * MIB, Some(1))]);
    // The nine come after the first has published.
    fleet.classes[1].scenario.appearance = "100s:100%".parse().unwrap();
    let on_request = fleet.share_lines(PlanTier::OnRequest(TierScope::Fleet));
    assert!(near(on_request.manager_bytes, 100.0 * MIB) && near(on_request.tier_bytes, 900.0 * MIB));
    // A tier of a region has nothing from the other region: the nine start together, all from the manager.
    let of_regions = fleet.share_lines(PlanTier::OnRequest(TierScope::Region));
    assert!(near(of_regions.manager_bytes, 1_000.0 * MIB) && of_regions.tier_bytes == 0.0);
    let filled = fleet.share_lines(PlanTier::FilledFirst(TierScope::Region));
    assert!(near(filled.manager_bytes, 200.0 * MIB) && near(filled.tier_bytes, 1_000.0 * MIB));
}
