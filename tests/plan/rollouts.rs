//! Rollouts with results that can be computed by hand.

use gupd_plan::{Appearance, Curve, EarlyAccess, OpenHours, Scenario, TimelinePoint, simulate};

use crate::{HOUR, LAN, MIB, WAN, content, group, near, site, time};

#[test]
fn one_client_on_idle_line_takes_size_over_rate() {
    let scenario = site(1);
    let rollout = simulate(&scenario).unwrap();
    assert!(near(time(&scenario), 100.0));
    assert!(near(rollout.timeline.peak(WAN), MIB) && near(rollout.timeline.peak(LAN), MIB));
    assert!(near(rollout.timeline.busiest_mean(LAN, 60.0), MIB) && near(rollout.wan_bytes, 100.0 * MIB));
}

#[test]
fn object_crosses_line_once_for_any_number_of_clients() {
    // 50 at 1 MiB/s each are half of the link, 1,000 want ten times of it.
    assert!(near(time(&site(50)), 100.0));
    let scenario = site(1_000);
    assert!(near(time(&scenario), 1_000.0));
    assert!(near(simulate(&scenario).unwrap().wan_bytes, 100.0 * MIB));
}

#[test]
fn late_client_catches_up_with_the_fill() {
    // The second client comes at 40 s, 40 MiB behind, and gains 4 MiB a second.
    let mut scenario = site(2);
    (scenario.appearance, scenario.client) = ("40s:100%".parse().unwrap(), Curve::constant(5.0 * MIB));
    // Evenly over 40 s: at 10 and at 30 s.
    let rollout = simulate(&scenario).unwrap();
    let moments = rollout.timeline.moments();
    assert!(
        moments.iter().any(|moment| near(moment.from, 30.0) && near(moment.lan, 6.0 * MIB)),
        "{moments:?}"
    );
    assert!(
        moments.iter().any(|moment| near(moment.from, 35.0) && near(moment.lan, 2.0 * MIB)),
        "{moments:?}"
    );
    assert!(near(time(&scenario), 110.0));
}

#[test]
fn client_limit_slows_clients_and_not_the_fill() {
    let scenario = Scenario { client: Curve::constant(MIB / 2.0), ..site(10) };
    let rollout = simulate(&scenario).unwrap();
    assert!(near(time(&scenario), 200.0));
    assert!(near(rollout.timeline.peak(WAN), MIB) && near(rollout.timeline.peak(LAN), 5.0 * MIB));
}

#[test]
fn line_rate_follows_the_schedule() {
    // Ten seconds at the full rate, then a tenth of it.
    let wan = Curve::trace(1e6, |t| if t < 10.0 { (MIB, Some(10.0)) } else { (MIB / 10.0, None) });
    assert!(near(time(&Scenario { wan, ..site(1) }), 910.0));
}

#[test]
fn fill_uses_wan_limit_of_first_requesting_group() {
    // The second may have it from 30 s on.
    let groups = |slow: usize| {
        let mut groups = vec![group("a", 1), group("b", 1)];
        groups[slow].wan_limit = Curve::constant(MIB / 4.0);
        groups[1].hours = OpenHours::new(vec![(30.0, 1e9)]);
        groups
    };
    assert!(near(time(&Scenario { groups: groups(0), ..site(0) }), 400.0));
    assert!(near(time(&Scenario { groups: groups(1), ..site(0) }), 100.0));
}

#[test]
fn delta_precedes_full_set_which_keeps_its_share() {
    let scenario = Scenario {
        contents: vec![content("delta", 9.5 * MIB, 0.5), content("full", 100.0 * MIB, 0.5)],
        ..site(10)
    };
    let rollout = simulate(&scenario).unwrap();
    assert!(near(rollout.current_at(&scenario, 0.5).unwrap(), 10.0));
    assert!(near(rollout.current_at(&scenario, 1.0).unwrap(), 109.5));
    assert!(near(rollout.wan_bytes, 109.5 * MIB) && near(rollout.lan_bytes, 547.5 * MIB));
}

#[test]
fn no_bytes_move_while_window_is_closed() {
    let mut scenario = Scenario { appearance: "4h:100%".parse().unwrap(), ..site(100) };
    scenario.groups[0].hours = OpenHours::new(vec![(HOUR, 2.0 * HOUR), (24.0 * HOUR, 26.0 * HOUR)]);
    scenario.groups[0].spread = 0.7 * HOUR;
    let rollout = simulate(&scenario).unwrap();
    let begun = |moment: &&TimelinePoint| moment.downloads > 0;
    assert!(rollout.timeline.moments().iter().find(begun).unwrap().from >= HOUR);
    // What begins in a window may end just after it.
    let open = |moment: &TimelinePoint| {
        (HOUR..2.0 * HOUR + 200.0).contains(&moment.from) || moment.from >= 24.0 * HOUR
    };
    assert!(rollout.timeline.moments().iter().all(|moment| open(moment) || moment.wan + moment.lan == 0.0));
    // Half of the clients come while the first is open.
    let first = rollout.current_at(&scenario, 0.4).unwrap();
    assert!((HOUR..2.0 * HOUR).contains(&first) && time(&scenario) > 24.0 * HOUR);
}

#[test]
fn cached_content_is_served_outside_the_window() {
    let mut scenario = Scenario { groups: vec![group("first", 1), group("later", 10)], ..site(0) };
    scenario.groups[1].hours = OpenHours::new(vec![(10.0 * HOUR, 20.0 * HOUR)]);
    assert!(time(&scenario) > 10.0 * HOUR);
    scenario.groups[1].outside = EarlyAccess::Cached;
    assert!(near(time(&scenario), 110.0));
}

#[test]
fn download_limit_holds_and_queue_times_out() {
    let mut scenario = Scenario { downloads: Some(4), line: 1e9, client: Curve::constant(MIB), ..site(12) };
    scenario.queue_timeout = 1e6;
    let patient = simulate(&scenario).unwrap();
    assert_eq!((patient.timeline.max_downloads(), patient.refused), (4, 0));
    assert!(near(time(&scenario), 300.0));
    // Four places, 30 s of patience: eight are refused repeatedly and retry at their heartbeats.
    let hurried = Scenario { queue: 4, queue_timeout: 30.0, heartbeat: 60.0, ..scenario };
    let rollout = simulate(&hurried).unwrap();
    assert!(rollout.timeline.max_downloads() == 4 && rollout.refused > 8, "{}", rollout.refused);
    assert!((300.0..600.0).contains(&time(&hurried)));
}

#[test]
fn estate_profile_gives_documented_shares() {
    let mut scenario = Scenario { appearance: Appearance::estate(), heartbeat: 300.0, ..site(5_000) };
    scenario.contents = vec![content("delta", 1.5 * MIB, 0.95), content("full", 120.0 * MIB, 0.05)];
    scenario.groups[0].spread = 4.0 * HOUR;
    let rollout = simulate(&scenario).unwrap();
    // Work is by events and not by time: a client comes, catches up and is done.
    assert!(rollout.timeline.moments().len() < 3 * 4_000);
    assert_eq!((rollout.appeared, rollout.current()), (4_000, 4_000));
    let hours = |share| rollout.current_at(&scenario, share).map(|time| time / HOUR);
    assert!((23.9..24.5).contains(&hours(0.6).unwrap()), "{:?}", hours(0.6));
    assert!((71.9..72.5).contains(&hours(0.75).unwrap()), "{:?}", hours(0.75));
    assert!((167.5..168.5).contains(&hours(0.8).unwrap()), "{:?}", hours(0.8));
    assert_eq!((hours(0.81), rollout.all_current_at().map(|time| time / HOUR)), (None, hours(0.8)));
}
